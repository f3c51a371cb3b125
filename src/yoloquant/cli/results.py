"""What commands say about the models that they made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from yoloquant.cli.console import OUT

if TYPE_CHECKING:
    from yoloquant.results.quantization import QuantizationResult


def tell_result(result: QuantizationResult, output: Path) -> None:
    """What was made, and where."""
    from yoloquant.cli.tables import result_table
    from yoloquant.exporting.folder import FILES
    from yoloquant.targets.registry import get_target

    for parity in result.parity:
        if parity.agrees:
            OUT.print(f"the file agrees with torch in {parity.runtime}: {parity.signal_to_noise:.1f} dB")
    if result.rows:
        OUT.print(result_table(result.rows))
    OUT.print(f"written to {output}: {', '.join(name for name in FILES if (output / name).exists())}", markup=False)
    if get_target(result.recipe.target).builds_engine:
        tell_trtexec(output / "model.onnx")


def tell_trtexec(model: Path, cache: Path | None = None) -> None:
    """Show the command that builds a TensorRT engine."""
    from yoloquant.exporting.tensorrt_command import trtexec_command

    OUT.print(f"build the engine where the GPU is: {trtexec_command(model, cache)}", markup=False, soft_wrap=True)
