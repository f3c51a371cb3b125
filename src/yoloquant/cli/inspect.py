"""`yoloquant inspect`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from yoloquant.cli.console import OUT
from yoloquant.cli.options import Checkpoint, Json, command
from yoloquant.cli.results import tell_figures, tell_next


@command(example="yoloquant inspect yolov8n.pt")
def inspect(
    file: Checkpoint,
    layers: Annotated[bool, typer.Option(help="List the layers that have weights.")] = True,
    as_json: Json = False,
) -> None:
    """Show what a checkpoint holds: family, classes, parameters, strides, layers. Nothing in it is executed."""
    from dataclasses import asdict

    from yoloquant.checkpoint.inspect import inspect_file

    facts = inspect_file(file)
    height, width = facts.input_size
    OUT.print(f"family      {facts.family}")
    OUT.print(
        f"classes     {len(facts.names)}: {', '.join(facts.names[:8])}{' ...' if len(facts.names) > 8 else ''}",
        markup=False,
    )
    OUT.print(f"parameters  {facts.parameters:,}")
    OUT.print(f"strides     {', '.join(map(str, facts.strides))}")
    OUT.print(f"input size  {height} x {width}")
    if facts.branches:
        OUT.print(f"branches    {', '.join(facts.branches)}; the first is used, --branch of other commands chooses")
    for key, value in facts.source.items():
        OUT.print(f"{key:11} {value}", markup=False)
    if layers:
        table = Table("layer", "kind", "weight", "parameters")
        for layer in facts.layers:
            table.add_row(layer.name, layer.kind, " x ".join(map(str, layer.shape)), f"{layer.parameters:,}")
        OUT.print(table)
    tell_figures(asdict(facts), as_json)
    tell_next("quantize", file, "--data", "data.yaml")
