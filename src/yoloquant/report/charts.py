"""Charts as data: what is drawn, not how. `svg.py` draws them into pages, `plots.py` into PNG and PDF files.

One frozen class for each kind of chart, and the functions that make them from results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from yoloquant.analysis.sensitivity import Sensitivity
from yoloquant.analysis.tensor_statistics import FiveNumbers, TensorStatistics

# A signal-to-noise ratio, dB, beyond which there was no error to speak of.
NO_NOISE = 200.0
# Bars of a histogram, and channels of a box plot, that are told apart in a picture.
BARS, CHANNELS = 64, 96


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, one a name.

    Attributes:
        name: Name of the chart, unique in a page and good for a file.
        title: Title in words.
        unit: Unit of the values.
        values: Mapping name -> value, in the order to draw.
        digits: Number of digits after the decimal point.
        errors: Mapping name -> standard error of the value, drawn on both sides of it; of some or none of the names.
    """

    name: str
    title: str
    unit: str
    values: Mapping[str, float]
    digits: int = 2
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        x: Value along the horizontal axis; y: Value along the vertical one.
        label: Text that identifies the point.
        marked: Whether the point is highlighted.
    """

    x: float
    y: float
    label: str
    marked: bool = False


@dataclass(frozen=True)
class Points:
    """Points, joined in the order of x where they are a curve.

    Attributes:
        name: Name of the chart.
        title: Title in words.
        x_label: Label of the horizontal axis; y_label: Label of the vertical axis.
        points: Points to draw.
        joined: Whether points are joined by a line.
        goal: A level of y to reach; drawn as a line across.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    joined: bool = False
    goal: float | None = None


@dataclass(frozen=True)
class Histogram:
    """Values before and after quantization, in the same bins.

    Attributes:
        name: Name of the chart.
        title: Title in words.
        low: Left end of the first bin; high: Right end of the last.
        before: Counts of each bin; after: Counts of the quantized values.
        limits: Ends of the range that integers represent.
    """

    name: str
    title: str
    low: float
    high: float
    before: tuple[float, ...]
    after: tuple[float, ...]
    limits: tuple[float, float]


@dataclass(frozen=True)
class Boxes:
    """Box plots of channels: extremes as a line, quartiles as a box, the median across it.

    Attributes:
        name: Name of the chart.
        title: Title in words.
        numbers: Numbers of the channels that are drawn.
        before: Five numbers of each channel; after: Five numbers of its quantized values.
    """

    name: str
    title: str
    numbers: tuple[int, ...]
    before: tuple[FiveNumbers, ...]
    after: tuple[FiveNumbers, ...]


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: Text that identifies the curve; curves without one stay in the background and out of the legend.
        values: Values at each x of its chart, 0..1.
        second: Whether the curve is drawn in the second colour.
    """

    label: str
    values: tuple[float, ...]
    second: bool = False


@dataclass(frozen=True)
class Curves:
    """Curves over the same x; both axes run from 0 to 1.

    Attributes:
        name: Name of the chart.
        title: Title in words.
        x_label: Label of the horizontal axis; y_label: Label of the vertical axis.
        xs: Positions on the horizontal axis, ascending, 0..1.
        lines: Curves to draw, the last on top.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    xs: tuple[float, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Matrix:
    """A table of counts as a picture: each column is shaded by the shares of its cells.

    Attributes:
        name: Name of the chart.
        title: Title in words.
        row_label: Label of the rows; column_label: Label of the columns.
        labels: Labels of rows and columns.
        counts: Counts, one tuple for each row.
    """

    name: str
    title: str
    row_label: str
    column_label: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def cells(self, smallest: float = 0.005) -> Iterator[tuple[int, int, int, float]]:
        """Row, column, count, and share of its column, of every cell whose share is at least `smallest`."""
        sums = [sum(column) for column in zip(*self.counts, strict=True)]
        for row, counts in enumerate(self.counts):
            for column, count in enumerate(counts):
                if count and count / sums[column] >= smallest:
                    yield row, column, count, count / sums[column]


Chart = Bars | Points | Histogram | Boxes | Curves | Matrix


def ranking(results: Sequence[Sensitivity], unit: str, count: int = 30) -> Bars:
    """The costliest layers."""
    whole = [result for result in results if result.part == "both"] or list(results)
    return Bars("sensitivity", "Costliest layers", unit, {result.name: result.cost for result in whole[:count]}, 4)


def noise(ratios: Mapping[str, float]) -> Points:
    """Signal-to-noise ratio of each output along the network; layers before any quantizer, which have no noise, are left out."""
    points = tuple(
        Point(float(number), value, f"{name}: {value:.1f} dB")
        for number, (name, value) in enumerate(ratios.items())
        if value <= NO_NOISE
    )
    return Points("noise", "Noise along the network", "layer, in the network's order", "dB", points, joined=True)


def histogram(entry: TensorStatistics) -> Histogram:
    """A tensor before and after quantization."""
    low, high = (entry.edges[0], entry.edges[-1]) if len(entry.edges) > 1 else (0.0, 1.0)
    before, after = _bars(entry.counts, entry.edges), _bars(entry.quantized_counts, entry.edges)
    return Histogram(f"histogram-{entry.name}", entry.name, low, high, before, after, (entry.range_low, entry.range_high))


def _bars(counts: Sequence[float], edges: Sequence[float]) -> tuple[float, ...]:
    """Counts in `BARS` equal bars."""
    bars = [0.0] * BARS
    span = edges[-1] - edges[0] if len(edges) > 1 else 0.0
    for count, (left, right) in zip(counts, pairwise(edges), strict=True):
        bars[min(BARS - 1, int(((left + right) / 2.0 - edges[0]) / span * BARS)) if span > 0.0 else 0] += count
    return tuple(bars)


def boxes(entry: TensorStatistics) -> Boxes:
    """A tensor's channels; of many, those that reach furthest."""

    def reach(number: int) -> float:
        return max(abs(entry.channels[number][0]), abs(entry.channels[number][-1]))

    count = len(entry.channels)
    numbers = tuple(sorted(sorted(range(count), key=reach)[-CHANNELS:]))
    shown = f"{count} channels" if count <= CHANNELS else f"the {CHANNELS} of {count} channels that reach furthest"
    before, after = (tuple(part[number] for number in numbers) for part in (entry.channels, entry.quantized_channels))
    return Boxes(f"channels-{entry.name}", f"{entry.name}: {shown}", numbers, before, after)


def of_tensors(statistics: Iterable[TensorStatistics]) -> list[Chart]:
    """Histogram and box plots of every tensor."""
    return [chart for entry in statistics for chart in (histogram(entry), boxes(entry))]


def shortened(name: str, longest: int) -> str:
    """A name that fits into a picture: on one line, its middle left out where it is long."""
    line = " ".join("".join(character if character.isprintable() else " " for character in name).split())
    half = longest // 2
    return line if len(line) <= longest else f"{line[: longest - half - 1]}…{line[-half:]}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers in a range."""
    span = high - low
    if not span > 0.0:
        return [low]
    raw = span / max(count - 1, 1)
    power = 10.0 ** _exponent(raw)
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= raw * 0.999)
    first = -int(-low // step)
    return [step * number for number in range(first, int(high // step + 1e-9) + 1)]


def _exponent(value: float) -> int:
    from math import floor, log10

    return floor(log10(value))
