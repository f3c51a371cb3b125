"""What commands say at their end: figures, what they made, and what to type next."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloquant.cli.console import ERR, OUT
from yoloquant.cli.tables import on_screen
from yoloquant.environment import is_first_process

if TYPE_CHECKING:
    from yoloquant.results.quantization import Quantization


def tell_figures(values: Mapping[str, Any], wanted: bool) -> None:
    """Print a result as JSON on standard output, where `--json` asks for it; figures over nothing are null."""
    if not wanted:
        return
    plain = json.loads(json.dumps(values), parse_constant=lambda _: None)
    sys.stdout.write(json.dumps(plain, indent=2) + "\n")


def tell_next(*words: str | Path) -> None:
    """Say what to type next, beside the output, which a program may read."""
    if is_first_process():
        ERR.print(f"next: {shlex.join(['yoloquant', *map(str, words)])}", markup=False, soft_wrap=True)


def tell_result(result: Quantization, output: Path, as_json: bool) -> None:
    """What was made, and where."""
    from yoloquant.exporting.folder import FILES
    from yoloquant.targets.registry import get_target

    for parity in result.parity:
        if parity.agrees:
            OUT.print(f"the file agrees with torch in {parity.runtime}: {parity.signal_to_noise:.1f} dB")
    if result.rows:
        OUT.print(on_screen(result.table()))
    OUT.print(f"written to {output}: {', '.join(name for name in FILES if (output / name).exists())}", markup=False)
    if get_target(result.recipe.target).builds_engine:
        tell_trtexec(output / "model.onnx")
    tell_figures(result.to_dict(), as_json)


def tell_trtexec(model: Path, cache: Path | None = None) -> None:
    """Show the command that builds a TensorRT engine, by the version that is installed, or by all."""
    from yoloquant.exporting.tensorrt_command import commands_by_version

    for version, command in commands_by_version(model, cache).items():
        OUT.print(f"build the engine where the GPU is ({version}): {command}", markup=False, soft_wrap=True)
