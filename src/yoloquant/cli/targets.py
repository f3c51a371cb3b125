"""`yoloquant targets`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from yoloquant.cli.console import OUT
from yoloquant.cli.options import command
from yoloquant.cli.results import tell_next


@command(example="yoloquant targets openvino")
def targets(name: Annotated[str | None, typer.Argument(help="Explain this one.")] = None) -> None:
    """List the deployment targets, or explain one: its rules and where they are from."""
    from yoloquant.targets.registry import TARGETS, get_target

    if name is None:
        table = Table("target", "what it is", "weights", "activations")
        for target in TARGETS.values():
            table.add_row(target.name, target.summary, str(target.weights), str(target.activations))
        OUT.print(table)
        tell_next("targets", next(iter(TARGETS)))
        return
    target = get_target(name)
    lines = [target.summary, f"weights: {target.weights}", f"activations: {target.activations}"]
    for place, in_float in (("first", target.float_inputs), ("last", target.float_outputs)):
        lines.append(f"{place} convolutions: {'in float' if in_float else 'quantized'}")
    lines += [f"- {sentence}" for sentence in target.explain()]
    lines += [f"source: {source}" for source in target.sources]
    for line in lines:
        OUT.print(line, markup=False)
    tell_next("quantize", "model.pt", "--data", "data.yaml", "--target", name)
