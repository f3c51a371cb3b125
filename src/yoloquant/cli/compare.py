"""`yoloquant compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import Json, Plots, command
from yoloquant.cli.results import tell_figures, tell_next
from yoloquant.cli.tables import on_screen


@command(example="yoloquant compare out out-trained --output compare.html")
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `yoloquant quantize` wrote.")],
    output: Annotated[Path | None, typer.Option(help="Page to write, with accuracy drawn against latency and size.")] = None,
    plots: Plots = None,
    as_json: Json = False,
) -> None:
    """Put several quantized folders into one table, and one picture of what is worth having."""
    from yoloquant.flows.compare import compare as run

    found = run(folders, output, plots=plots, reporter=RichReporter())
    OUT.print(on_screen(found.table()))
    if output is not None:
        OUT.print(f"written to {output}", markup=False)
    tell_figures(found.to_dict(), as_json)
    if output is None:
        tell_next("compare", *folders, "--output", "compare.html")
    else:
        tell_next("predict", folders[0], "pictures/")
