"""Charts as PNG or PDF files, drawn by matplotlib."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloquant.progress import Update
from yoloquant.report.charts import Bars, Boxes, Chart, Curves, Histogram, Matrix, Points, shortened
from yoloquant.report.formats import check_format
from yoloquant.report.network_graph import ERROR_STEPS, NetworkDrawing, error_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BEFORE, _AFTER = "#0b63c4", "#bc4c00"
_ERRORS = ("#fff6e9", "#ffe2bd", "#ffc688", "#f9a04e", "#ec7a22")


def save_charts(
    charts: Iterable[Chart | NetworkDrawing], folder: Path, suffix: str, progress: Update | None = None
) -> list[Path]:
    """Write each chart into a file of its name.

    Args:
        charts: Charts to draw.
        folder: Folder to write into; created if missing.
        suffix: "png" or "pdf".
        progress: Callback, called with (charts done, charts).

    Returns:
        The files.

    Raises:
        YoloquantError: The format is unknown.
    """
    check_format(suffix)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(charts)
    paths = []
    for done, chart in enumerate(wanted, start=1):
        # Without pyplot: nothing is kept, and no display is asked for.
        figure = Figure(figsize=_size(chart), layout="tight")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(_text(chart.title, 100), fontsize=10)
        plot(chart, axes)
        path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', chart.name)}.{suffix}"
        figure.savefig(path, dpi=120)
        paths.append(path)
        if progress:
            progress(done, len(wanted))
    return paths


def _text(words: str, longest: int = 60) -> str:
    """Words as matplotlib shows them as they are: short, on one line, and without dollars, between which it reads formulas."""
    return shortened(words, longest).replace("$", r"\$")


def _size(chart: Chart | NetworkDrawing) -> tuple[float, float]:
    """Width and height, inches."""
    if isinstance(chart, Bars):
        return 7.0, 1.2 + 0.2 * len(chart.values)
    if isinstance(chart, Matrix):
        side = 4.0 + 0.12 * len(chart.labels)
        return side + 1.0, side
    if isinstance(chart, NetworkDrawing):
        return 2.0 + 1.7 * (chart.layout.width + 1.0), 1.0 + 0.55 * chart.layout.ranks
    return (max(5.0, 2.0 + 0.1 * len(chart.numbers)), 3.0) if isinstance(chart, Boxes) else (6.0, 3.5)


@singledispatch
def plot(chart: Any, axes: Axes) -> None:  # noqa: ARG001  (what each drawing takes)
    """Draw a chart into axes."""
    raise TypeError(f"no drawing for {type(chart).__name__}")


@plot.register(Bars)
def _(chart: Bars, axes: Axes) -> None:
    colors = [_BEFORE if value >= 0 else _AFTER for value in chart.values.values()]
    places = list(range(len(colors)))
    drawn = axes.barh(places, list(chart.values.values()), color=colors)
    axes.set_yticks(places, [_text(name, 43) for name in chart.values])
    for place, (name, value) in enumerate(chart.values.items()):
        if name in chart.errors:
            axes.errorbar(value, place, xerr=chart.errors[name], color="#7d8590", linewidth=1)
    axes.bar_label(drawn, fmt=f"%.{chart.digits}f", fontsize=7, padding=2)
    axes.invert_yaxis()
    axes.tick_params("y", labelsize=7)
    axes.set_xlabel(_text(chart.unit))
    axes.margins(x=0.12)


@plot.register(Points)
def _(chart: Points, axes: Axes) -> None:
    points = sorted(chart.points, key=lambda point: point.x)
    if chart.joined:
        axes.plot([point.x for point in points], [point.y for point in points], color=_BEFORE, linewidth=1)
    colors = [_AFTER if point.marked else _BEFORE for point in points]
    axes.scatter([point.x for point in points], [point.y for point in points], s=18, color=colors)
    for point in points:
        if point.marked:
            axes.annotate(
                _text(point.label.partition(":")[0]), (point.x, point.y), (4, 4), textcoords="offset points", fontsize=7
            )
    if chart.goal is not None:
        axes.axhline(chart.goal, color=_AFTER, linestyle="--", linewidth=1)
    axes.set_xlabel(_text(chart.x_label))
    axes.set_ylabel(_text(chart.y_label))


@plot.register(Curves)
def _(chart: Curves, axes: Axes) -> None:
    named = [line for line in chart.lines if line.label]
    for line in chart.lines:
        # Among named classes each has a colour of matplotlib's own; the mean, or what is compared, stands out.
        color = _AFTER if line.second else _BEFORE if len(named) <= 2 else None
        style = {"color": color, "label": _text(line.label, 43)} if line.label else {"color": "#b6bcc3"}
        axes.plot(chart.xs, line.values, linewidth=2 if line.second else 1, **style)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.0)
    axes.set_xlabel(_text(chart.x_label))
    axes.set_ylabel(_text(chart.y_label))
    # Many names stand beside the axes.
    if len(named) > 2:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    elif named:
        axes.legend(fontsize=7)


@plot.register(Matrix)
def _(chart: Matrix, axes: Axes) -> None:
    shares = [[math.nan] * len(chart.labels) for _ in chart.labels]
    few = len(chart.labels) < 30
    for row, column, count, share in chart.cells():
        shares[row][column] = share
        if few:
            color = "white" if share > 0.45 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="none")
    places, names = range(len(chart.labels)), [_text(label, 18) for label in chart.labels]
    axes.set_xticks(places, names, fontsize=7 if few else 4, rotation=90)
    axes.set_yticks(places, names, fontsize=7 if few else 4)
    axes.set_xlabel(_text(chart.column_label))
    axes.set_ylabel(_text(chart.row_label))


@plot.register(Histogram)
def _(chart: Histogram, axes: Axes) -> None:
    width = (chart.high - chart.low) / len(chart.before)
    edges = [chart.low + width * number for number in range(len(chart.before) + 1)]
    axes.stairs([math.log1p(count) for count in chart.before], edges, fill=True, color=_BEFORE, alpha=0.5, label="float")
    axes.stairs([math.log1p(count) for count in chart.after], edges, color=_AFTER, label="quantized")
    for limit in chart.limits:
        axes.axvline(limit, color=_AFTER, linestyle="--", linewidth=1)
    axes.set_ylabel("log(1 + values)")
    axes.legend(fontsize=7)


@plot.register(Boxes)
def _(chart: Boxes, axes: Axes) -> None:
    for channels, color, shift in ((chart.before, _BEFORE, -0.2), (chart.after, _AFTER, 0.2)):
        names = ("whislo", "q1", "med", "q3", "whishi")
        stats: list[dict[str, Any]] = [dict(zip(names, five, strict=True)) | {"fliers": []} for five in channels]
        line = {"color": color, "linewidth": 0.8}
        axes.bxp(
            stats, positions=[place + shift for place in range(len(stats))], widths=0.35, showfliers=False, manage_ticks=False,
            boxprops=line, whiskerprops=line, medianprops=line, capprops=line,
        )  # fmt: skip
    every = max(1, math.ceil(len(chart.numbers) / 16))
    places = range(0, len(chart.numbers), every)
    axes.set_xticks(list(places), [str(chart.numbers[place]) for place in places], fontsize=7)
    axes.set_xlabel("channel")


@plot.register(NetworkDrawing)
def _(chart: NetworkDrawing, axes: Axes) -> None:
    for edge, route in chart.layout.routes.items():
        axes.plot([x for x, _ in route], [rank for _, rank in route], color="#7d8590", linewidth=0.8, zorder=1)
        if edge in chart.quantized:
            x, rank = route[-1]
            axes.scatter([x], [rank - 0.45], s=14, marker="D", facecolor="white", edgecolor=_BEFORE, zorder=3)
    for node, box in chart.boxes.items():
        x, rank = chart.layout.places[node]
        color = "#eef0f2" if box.noise is None else _ERRORS[error_step(box.noise)]
        edge_color = _AFTER if box.precision == "float" else "#7d8590"
        frame = {"boxstyle": "round", "facecolor": color, "edgecolor": edge_color}
        axes.text(
            x, rank, f"{_text(box.name)}\n{_text(box.second_line)}", fontsize=6, ha="center", va="center", bbox=frame, zorder=2
        )
    axes.set_xlim(-0.6, chart.layout.width + 0.6)
    axes.set_ylim(chart.layout.ranks - 0.3, -0.7)
    axes.axis("off")
    steps = ", ".join(f"{step:.0f}" for step in ERROR_STEPS)
    axes.set_title(f"{_text(chart.title)}; darker below {steps} dB; orange edge: float; diamond: Q/DQ", fontsize=9)
