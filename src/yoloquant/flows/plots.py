"""Charts of a report as files of their own, where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yoloquant.progress import Reporter
from yoloquant.report.charts import Chart


def write_plots(charts: Sequence[Chart], folder: Path, suffix: str | None, tell: Reporter) -> None:
    """Write charts into a folder; nothing where no format is asked for.

    Args:
        charts: Charts to draw.
        folder: Folder to write into; made if it does not exist.
        suffix: "png", "pdf", or none.
        tell: Reporter of progress.
    """
    if suffix is None:
        return
    # matplotlib takes its time to import.
    from yoloquant.report.plots import save_charts

    with tell.step("Draw plots") as update:
        files = save_charts(charts, folder, suffix, update)
    tell.note(f"{len(files)} plots in {folder}")
