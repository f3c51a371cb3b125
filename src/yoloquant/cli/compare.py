"""`yoloquant compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT
from yoloquant.cli.options import Plots, app, save_plots


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `yoloquant quantize` wrote.")],
    output: Annotated[Path | None, typer.Option(help="Page to write, with accuracy drawn against latency and size.")] = None,
    plots: Plots = None,
) -> None:
    """Put several quantized folders into one table, and one picture of what is worth having."""
    from yoloquant.files.outputs import refuse_inputs
    from yoloquant.files.writing import checked_file
    from yoloquant.report.comparison import comparison_charts, comparison_table, read_entries, write_comparison
    from yoloquant.report.formats import check_format

    check_format(plots)
    if output is not None:
        checked_file(output)
        refuse_inputs([output], folders)
    entries = read_entries(folders)
    OUT.print(comparison_table(entries))
    if output is not None:
        write_comparison(entries, output)
        OUT.print(f"written to {output}", markup=False)
    save_plots(comparison_charts(entries), (output or Path("comparison")).with_suffix(""), plots)
