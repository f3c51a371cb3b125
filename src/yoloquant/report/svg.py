"""Charts as inline SVG: no colour of their own, so that the page's style sheet makes them dark or light."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import singledispatch
from itertools import pairwise

from markupsafe import Markup, escape

from yoloquant.analysis.tensor_statistics import FiveNumbers
from yoloquant.report.charts import Bars, Boxes, Curves, Histogram, Matrix, Point, Points, shortened, ticks
from yoloquant.report.network_graph import LayerBox, NetworkDrawing

_WIDTH, _ROW, _CHARACTER = 640.0, 18.0, 6.6


@singledispatch
def draw(chart: object) -> Markup:
    """A chart as an SVG element."""
    raise TypeError(f"no drawing for {type(chart).__name__}")


def _svg(name: str, title: str, width: float, height: float, parts: Iterable[str]) -> Markup:
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" style="width:{width:.0f}px"'
    return Markup(f'<svg class="{name}" {size} role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>')


# Characters of a name beside a bar.
_LONGEST_NAME = 43


@draw.register
def _(chart: Bars) -> Markup:
    names = {name: shortened(name, _LONGEST_NAME) for name in chart.values}
    left = 12.0 + _CHARACTER * max((len(name) for name in names.values()), default=0)
    ends = [end for name, value in chart.values.items() for end in _ends(value, chart.errors.get(name, 0.0))]
    low, high = min(0.0, *ends), max(0.0, *ends)
    # On the right there is room for the figure.
    scale = (_WIDTH - left - 70.0) / (high - low or 1.0)
    zero = left - low * scale
    parts = []
    for row, (name, value) in enumerate(chart.values.items()):
        y = row * _ROW
        start, length = zero + min(value, 0.0) * scale, max(abs(value) * scale, 0.5)
        figure, error = f"{value:.{chart.digits}f}", chart.errors.get(name)
        note = figure if error is None else f"{figure} ± {error:.{chart.digits}f}"
        whisker = [zero + end * scale for end in _ends(value, error or 0.0)]
        parts.append(
            f'<text x="{left - 6:.0f}" y="{y + 13:.0f}" text-anchor="end">{escape(names[name])}</text>'
            f'<rect x="{start:.1f}" y="{y + 3:.0f}" width="{length:.1f}" height="12" class="{"a" if value >= 0 else "b"}">'
            f"<title>{escape(name)}: {note} {escape(chart.unit)}</title></rect>"
            f'<text x="{max(start + length, whisker[1]) + 5:.1f}" y="{y + 13:.0f}">{figure}</text>'
        )
        if error is not None:
            parts.append(f'<path class="error" d="M{whisker[0]:.1f} {y + 9:.0f}H{whisker[1]:.1f}"/>')
    return _svg("bars", chart.title, _WIDTH, _ROW * len(chart.values) + 4.0, parts)


def _ends(value: float, error: float) -> tuple[float, float]:
    """A value's range of one error on both sides."""
    return value - error, value + error


class _Axes:
    """Where values lie in a picture of a given size, and the lines and figures around it."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], width: float, height: float, left: float) -> None:
        self.x_range, self.y_range = _widened(xs), _widened(ys)
        self.left, self.top, self.right, self.bottom = left, 8.0, width - 12.0, height - 40.0

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def rows(self) -> str:
        """Lines across at round values of y."""
        return "".join(
            f'<path class="grid" d="M{self.left:.0f} {self.y(tick):.1f}H{self.right:.0f}"/>'
            f'<text x="{self.left - 6:.0f}" y="{self.y(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
            for tick in ticks(*self.y_range)
        )

    def columns(self) -> str:
        """Figures below at round values of x."""
        return "".join(
            f'<path class="grid" d="M{self.x(tick):.1f} {self.bottom:.0f}v5"/>'
            f'<text x="{self.x(tick):.1f}" y="{self.bottom + 17:.0f}" text-anchor="middle">{tick:.4g}</text>'
            for tick in ticks(*self.x_range)
        )


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """The values' range with some room on both sides, never empty."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(abs(low) * 0.05, 0.5)
    return low - room, high + room


@draw.register
def _(chart: Points) -> Markup:
    points = sorted(chart.points, key=lambda point: point.x)
    goal = [] if chart.goal is None else [chart.goal]
    height = 320.0
    axes = _Axes([point.x for point in points], [*(point.y for point in points), *goal], _WIDTH, height, 64.0)
    parts = [axes.rows(), axes.columns(), _axis_titles(chart.x_label, chart.y_label, axes, height)]
    if chart.goal is not None:
        parts.append(f'<path class="goal" d="M{axes.left:.0f} {axes.y(chart.goal):.1f}H{axes.right:.0f}"/>')
    if chart.joined:
        corners = "L".join(f"{axes.x(point.x):.1f} {axes.y(point.y):.1f}" for point in points)
        parts.append(f'<path class="line" d="M{corners}"/>')
    parts += [_dot(point, axes, 3.0 if chart.joined and len(points) > 24 else 5.0) for point in points]
    return _svg("points", chart.title, _WIDTH, height, parts)


def _dot(point: Point, axes: _Axes, radius: float) -> str:
    x, y = axes.x(point.x), axes.y(point.y)
    kind = "a best" if point.marked else "a"
    circle = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"><title>{escape(point.label)}</title></circle>'
    if not point.marked:
        return circle
    # Towards the middle of the picture there is room for words.
    anchor, offset = ("end", -9.0) if x > (axes.left + axes.right) / 2.0 else ("start", 9.0)
    label = escape(point.label.partition(":")[0])
    return f'{circle}<text x="{x + offset:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{label}</text>'


def _axis_titles(x_label: str, y_label: str, axes: _Axes, height: float) -> str:
    middle = (axes.top + axes.bottom) / 2.0
    return (
        f'<text x="{(axes.left + axes.right) / 2:.0f}" y="{height - 6:.0f}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">'
        f"{escape(y_label)}</text>"
    )


@draw.register
def _(chart: Curves) -> Markup:
    width, height = 440.0, 320.0
    axes = _Axes([0.0, 1.0], [0.0, 1.0], width, height, 56.0)
    parts = [axes.rows(), axes.columns(), _axis_titles(chart.x_label, chart.y_label, axes, height)]
    for line in chart.lines:
        corners = "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in zip(chart.xs, line.values, strict=True))
        kind = "after" if line.second else "line" if line.label else "edge"
        parts.append(f'<path class="{kind}" d="M{corners}"><title>{escape(line.label)}</title></path>')
    for row, line in enumerate(line for line in chart.lines if line.label):
        y = axes.bottom - 12.0 - 18.0 * row
        parts.append(
            f'<path class="{"after" if line.second else "line"}" d="M{axes.left + 24:.0f} {y - 4:.0f}h18"/>'
            f'<text x="{axes.left + 48:.0f}" y="{y:.0f}">{escape(shortened(line.label, _LONGEST_NAME))}</text>'
        )
    return _svg("curves", chart.title, width, height, parts)


@draw.register
def _(chart: Matrix) -> Markup:
    names = [shortened(label, 18) for label in chart.labels]
    margin, step = 20.0 + 5.6 * max(map(len, names)), max(10.0, min(36.0, 360.0 / len(names)))
    end = margin + step * len(names)
    parts = [f'<path class="grid" d="M{margin:.0f} 4H{end:.0f}V{end - margin + 4:.0f}H{margin:.0f}Z"/>']
    for row, column, count, share in chart.cells():
        note = f"{chart.row_label} {chart.labels[row]}, {chart.column_label} {chart.labels[column]}: {count} ({share:.0%})"
        place = f'x="{margin + step * column:.1f}" y="{4 + step * row:.1f}" width="{step:.1f}" height="{step:.1f}"'
        parts.append(f'<rect {place} class="a" fill-opacity="{0.08 + 0.92 * share:.2f}"><title>{escape(note)}</title></rect>')
    for number, name in enumerate(names):
        middle = step * (number + 0.5)
        x, y = margin + middle + 3.0, end - margin + 10.0
        parts.append(
            f'<text x="{margin - 4:.0f}" y="{middle + 7:.1f}" text-anchor="end">{escape(name)}</text>'
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="end" transform="rotate(-90 {x:.1f} {y:.1f})">{escape(name)}</text>'
        )
    return _svg("matrix", chart.title, end + 4.0, end + 4.0, parts)


@draw.register
def _(chart: Histogram) -> Markup:
    width, height = 320.0, 110.0
    floor = height - 18.0
    low, high = min(chart.low, chart.limits[0]), max(chart.high, chart.limits[1])
    scale = width / (high - low or 1.0)
    top = math.log1p(max(*chart.before, *chart.after)) or 1.0

    def outline(counts: Sequence[float]) -> str:
        step = (chart.high - chart.low) * scale / len(counts)
        heights = [floor - (floor - 4.0) * math.log1p(count) / top for count in counts]
        steps = "".join(f"V{y:.0f}h{step:.3g}" for y in heights)
        return f"M{(chart.low - low) * scale:.1f} {floor:.0f}{steps}V{floor:.0f}Z"

    limits = "".join(f"M{min(max((limit - low) * scale, 1.0), width - 1.0):.1f} 0V{floor:.0f}" for limit in chart.limits)
    parts = [
        f'<path class="a soft" d="{outline(chart.before)}"/><path class="after" d="{outline(chart.after)}"/>',
        f'<path class="goal" d="{limits}"/>',
        f'<text x="0" y="{height - 4:.0f}">{low:.3g}</text>',
        f'<text x="{width:.0f}" y="{height - 4:.0f}" text-anchor="end">{high:.3g}</text>',
    ]
    return _svg("histogram", f"histogram of {chart.title}", width, height, parts)


@draw.register
def _(chart: Boxes) -> Markup:
    step, left, height = 11.0, 52.0, 170.0
    width = left + 14.0 + step * max(len(chart.numbers), 24)
    extremes = [value for channel in (*chart.before, *chart.after) for value in (channel[0], channel[-1])]
    axes = _Axes([0.0, 1.0], extremes, width, height, left)
    parts = [axes.rows()]
    for kind, channels, offset in (("a", chart.before, 3.0), ("b", chart.after, 7.5)):
        parts.append(_box_paths(kind, channels, axes, left + offset, step))
    every = max(1, math.ceil(len(chart.numbers) / 16))
    parts += [
        f'<text x="{left + 5 + step * place:.0f}" y="{axes.bottom + 17:.0f}" text-anchor="middle">{number}</text>'
        for place, number in enumerate(chart.numbers)
        if place % every == 0
    ]
    parts.append(f'<text x="{left:.0f}" y="{height - 6:.0f}">channel</text>')
    return _svg("boxes", f"channels of {chart.title}", width, height, parts)


def _box_paths(kind: str, channels: Sequence[FiveNumbers], axes: _Axes, start: float, step: float) -> str:
    """All channels in three paths, since hundreds of elements for each tensor would make a page slow."""
    whiskers, boxes, medians = [], [], []
    for place, (low, first, median, third, high) in enumerate(channels):
        x = f"{start + step * place:.1f}"
        whiskers.append(f"M{x} {axes.y(low):.0f}V{axes.y(high):.0f}")
        boxes.append(f"M{x} {axes.y(first):.1f}V{min(axes.y(third), axes.y(first) - 0.5):.1f}")
        medians.append(f"M{start + step * place - 2:.1f} {axes.y(median):.1f}h4")
    named = (("whisker", whiskers), ("box", boxes), ("median", medians))
    return "".join(f'<path class="{kind} {name}" d="{"".join(lines)}"/>' for name, lines in named)


_BOX_WIDTH, _BOX_HEIGHT, _RANK = 190.0, 38.0, 66.0


@draw.register
def _(chart: NetworkDrawing) -> Markup:
    layout = chart.layout

    def x(value: float) -> float:
        return 16.0 + (value + 0.5) * _BOX_WIDTH

    def y(rank: int) -> float:
        return 8.0 + rank * _RANK

    parts = []
    for edge, route in layout.routes.items():
        path, (mark_x, mark_y) = _route([(x(place), y(rank)) for place, rank in route])
        parts.append(f'<path class="edge" d="{path}"/>')
        if edge in chart.quantized:
            parts.append(_diamond(mark_x, mark_y, chart.quantized[edge]))
    parts += [_layer_box(box, x(layout.places[node][0]), y(layout.places[node][1])) for node, box in chart.boxes.items()]
    return _svg("network by-precision", chart.title, x(layout.width + 0.5) + 16.0, y(layout.ranks), parts)


def _route(corners: Sequence[tuple[float, float]]) -> tuple[str, tuple[float, float]]:
    """A smooth path through the corners from below the first box to above the last, and where its quantizer is drawn."""
    start, end = corners[0], corners[-1]
    points = [(start[0], start[1] + _BOX_HEIGHT)]
    for corner in corners[1:-1]:
        points += [corner, (corner[0], corner[1] + _BOX_HEIGHT)]
    points.append(end)
    path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (left, above), (right, below) in pairwise(points):
        middle = (above + below) / 2.0
        path += f"V{below:.0f}" if left == right else f"C{left:.0f} {middle:.0f} {right:.0f} {middle:.0f} {right:.0f} {below:.0f}"
    # At the reader's end, where the lines of one value have parted.
    before = points[-2]
    return path, (end[0] + 0.16 * (before[0] - end[0]), end[1] - 9.0)


def _diamond(x: float, y: float, words: str) -> str:
    return f'<path class="qdq" d="M{x:.0f} {y - 6:.0f}l6 6l-6 6l-6 -6Z"><title>Q/DQ {escape(words)}</title></path>'


def _layer_box(box: LayerBox, x: float, y: float) -> str:
    left = x - _BOX_WIDTH / 2.0
    # The end of a long name tells layers apart.
    name = box.name if len(box.name) <= 29 else f"…{box.name[-28:]}"
    content = (
        f'<rect x="{left:.0f}" y="{y:.0f}" width="{_BOX_WIDTH:.0f}" height="{_BOX_HEIGHT:.0f}" rx="6"/>'
        f'<text x="{x:.0f}" y="{y + 16:.0f}" text-anchor="middle">{escape(name)}</text>'
        f'<text x="{x:.0f}" y="{y + 31:.0f}" text-anchor="middle" class="small">{escape(box.second_line)}</text>'
        f"<title>{escape(box.note)}</title>"
    )
    if box.precision != "none":
        content = f'<a href="#layer-{escape(box.name)}">{content}</a>'
    marks = _diamond(left, y + _BOX_HEIGHT / 2.0, box.weight) if box.weight else ""
    marks += _diamond(left + _BOX_WIDTH, y + _BOX_HEIGHT / 2.0, box.inside) if box.inside else ""
    return f'<g class="layer {box.classes}">{content}</g>{marks}'
