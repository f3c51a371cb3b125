"""The flow behind `yoloquant compare`: read the figures of quantized folders, and draw them against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yoloquant.files.outputs import refuse_inputs
from yoloquant.files.writing import checked_file
from yoloquant.flows.plots import write_plots
from yoloquant.progress import Reporter, Silent
from yoloquant.report.comparison import comparison_charts, write_comparison
from yoloquant.report.formats import check_format
from yoloquant.results.comparison import Comparison, read_entries


def compare(
    folders: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    plots: str | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Put several quantized folders into one table, and one picture of what is worth having.

    Args:
        folders: Folders that `yoloquant quantize` wrote.
        output: Page to write, with accuracy drawn against latency and size.
        plots: "png" or "pdf": every chart as a file, too, in a folder of the page's name, or in `comparison`.
        reporter: Receives progress.

    Raises:
        YoloquantError: A folder has no readable figures, they are of different numbers of images, or the page cannot be written.
    """
    check_format(plots)
    if output is not None:
        checked_file(output)
        refuse_inputs([output], folders)
    found = Comparison(entries=tuple(read_entries(folders)))
    if output is not None:
        write_comparison(found.entries, Path(output))
    beside = Path(output or "comparison").with_suffix("")
    write_plots(comparison_charts(found.entries), beside, plots, reporter or Silent())
    return found
