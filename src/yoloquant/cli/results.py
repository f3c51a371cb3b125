"""What commands say about the models that they made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from yoloquant.cli.console import OUT
from yoloquant.cli.tables import on_screen

if TYPE_CHECKING:
    from yoloquant.results.quantization import Quantization


def tell_result(result: Quantization, output: Path) -> None:
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


def tell_trtexec(model: Path, cache: Path | None = None) -> None:
    """Show the command that builds a TensorRT engine, by the version that is installed, or by all."""
    from yoloquant.exporting.tensorrt_command import commands_by_version

    for version, command in commands_by_version(model, cache).items():
        OUT.print(f"build the engine where the GPU is ({version}): {command}", markup=False, soft_wrap=True)
