"""Statistics of every quantized tensor: what is clipped, what becomes zero, how much noise there is, which channels stand out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from yoloquant.graph.interpret import COMPUTE, observe
from yoloquant.graph.operators import kind
from yoloquant.progress import Progress
from yoloquant.quant.arithmetic import expand_parameter
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.quant.histogram import Histogram
from yoloquant.quant.observers import rows, sampling_stride
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.spec import TensorSpec

BINS = 1024
_COARSER = 8
# A channel stands out where its largest value is so many times the median channel's.
OUTLIER = 8.0
# Values that count as the bulk of a tensor.
BULK = 0.999
# Values of one channel that its quartiles are taken from.
_SAMPLED = 512
# Values of a map that are counted, of each batch, at most.
_COUNTED = 1 << 17
# Attributes that only pictures need: many numbers each.
PICTURED = ("counts", "quantized_counts", "edges", "channels", "quantized_channels")
# A class or an object with this logit has a score of one in a hundred: what lies below is of no box that counts.
NO_BOX = -4.6
# Observers that answer with extremes, so that single values decide the range.
_EXTREMES = frozenset({"minmax", "absmax", "average", "moving_average"})

# Minimum, quartiles and maximum.
FiveNumbers = tuple[float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class TensorStatistics:
    """One quantized tensor, as the float network has it.

    Attributes:
        name: Name of its quantizer, without the suffix.
        is_weight: Whether the tensor is a weight; otherwise an activation.
        spec: Spec of the quantization, in words.
        bits: Bits of its integers.
        observer: Name of the observer that chose the range.
        scales: Minimum and maximum scale.
        low: Minimum value; high: Maximum value.
        range_low: Minimum value that its integers represent, of the widest channel; range_high: Maximum value.
        clipped: Share of values outside of the represented range, 0..1.
        zeros: Share of values other than 0 that become 0.
        signal_to_noise: Signal-to-noise ratio of the quantized values, dB.
        bulk: Share of the represented range, 0..1, that holds 99.9 % of the values; 1 where channels have scales of their own.
        outlier_channels: Numbers of channels that reach `OUTLIER` times as far as the median channel.
        median_levels: Integers that the median channel's values spread over; all of a channel's own where each has its scale.
        counts: Histogram of the values, 128 bins at most; edges: Edges of its bins.
        quantized_counts: Counts of the quantized values, in the same bins.
        channels: Quartiles of each channel's values, from a sample of the first batch.
        quantized_channels: Quartiles of the quantized values.
        answers: Whether the tensor is an output of the network: logits.
    """

    name: str
    is_weight: bool
    spec: str
    bits: int
    observer: str
    scales: tuple[float, float]
    low: float
    high: float
    range_low: float
    range_high: float
    clipped: float
    zeros: float
    signal_to_noise: float
    bulk: float
    outlier_channels: tuple[int, ...]
    median_levels: float
    counts: tuple[float, ...]
    edges: tuple[float, ...]
    quantized_counts: tuple[float, ...]
    channels: tuple[FiveNumbers, ...]
    quantized_channels: tuple[FiveNumbers, ...]
    answers: bool = False

    def figures(self) -> dict[str, Any]:
        """As JSON values, without what only pictures need."""
        return {name: value for name, value in asdict(self).items() if name not in PICTURED}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TensorStatistics:
        """The inverse of `dataclasses.asdict`, and of `figures`, behind which nothing is left to picture."""
        return cls(**{name: _as_tuple(value) for name, value in {**dict.fromkeys(PICTURED, ()), **values}.items()})

    def advice(self) -> str | None:
        """A sentence to act on; none where nothing is wrong."""
        rest = 1.0 - BULK
        if self.bulk < 0.25 and self.signal_to_noise < 40.0:
            where = f", most of them in {_listed(self.outlier_channels)}" if self.outlier_channels else ""
            span = f"the range {self.range_low:.3g} to {self.range_high:.3g}"
            return f"{self.name}: {1.0 - self.bulk:.0%} of {span} is used by {rest:.1%} of the values{where}; {self._narrower()}"
        used = min(self.high, self.range_high) - max(self.low, self.range_low, NO_BOX)
        wanted = used / max(self.range_high - self.range_low, 1e-30)
        if self.answers and self.bulk < 1.0 and wanted < 0.5:
            return (
                f"{self.name}: {1.0 - wanted:.0%} of the range {self.range_low:.3g} to {self.range_high:.3g} is for logits below "
                f"{NO_BOX}, scores under 1 %, or for nothing; let those saturate: use detection_ranges, or fix the scale"
            )
        if self.outlier_channels and self.median_levels < 16.0:
            return (
                f"{self.name}: {_listed(self.outlier_channels)} reach so far that the median channel has "
                f"{self.median_levels:.0f} of {1 << self.bits} levels; {self._apart()}"
            )
        if self.signal_to_noise < 15.0:
            what = "more bits, groups, or learned rounding" if self.is_weight else "more bits, or keep the layer in float"
            return f"{self.name}: quantization leaves a signal-to-noise ratio of {self.signal_to_noise:.0f} dB; use {what}"
        if self.clipped > 0.02:
            span = f"{self.range_low:.3g} to {self.range_high:.3g} (they reach from {self.low:.3g} to {self.high:.3g})"
            return f"{self.name}: {self.clipped:.1%} of the values lie outside {span}; use a wider range (observer minmax)"
        return None

    def _narrower(self) -> str:
        """What helps where few values make the range wide."""
        if self.is_weight:
            return "use one scale for each channel, weight_ranges, or equalize"
        if self.observer in _EXTREMES:
            return "fix the scale, or use the observer percentile or mse"
        return f"the observer {self.observer} chose it: try percentile or detection_ranges, or keep the layer in float"

    def _apart(self) -> str:
        """What helps where a few channels are far greater than the others."""
        if self.is_weight:
            return "use one scale for each channel, or equalize"
        return "use equalize (ReLU networks), more bits, or keep the layer in float"


def _as_tuple(value: Any) -> Any:
    """A value read from JSON, which has lists for tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _listed(channels: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, channels[:4])) + (f" and {len(channels) - 4} more" if len(channels) > 4 else "")
    return f"channels {shown}" if len(channels) > 1 else f"channel {shown}"


class _Tally:
    """Sums over batches for one quantizer."""

    def __init__(self, quantizer: FakeQuantize, axis: int, *, answers: bool) -> None:
        self.quantizer, self.axis, self.answers = quantizer, axis, answers
        self.histogram, self.after = Histogram(1, BINS), Histogram(1, BINS)
        self.total = self.clipped = self.zeros = self.nonzero = 0.0
        self.signal = self.noise = 0.0
        # A shared quantizer sees values of different numbers of channels.
        self.reaches: dict[Node, Tensor] = {}
        self.channels: dict[Node, tuple[Tensor, Tensor]] = {}

    def see(self, x: Tensor, source: Node, rounded: Tensor | None = None) -> None:
        """Count a tensor; `rounded` is what is quantized in its place, where that is not the tensor itself."""
        if source not in self.channels:
            whole = self.quantizer(x if rounded is None else rounded)
            self.channels[source] = (_five_numbers(x, self.axis), _five_numbers(whole, self.axis))
        reach = x.abs().transpose(0, self.axis).flatten(1).amax(1)
        known = self.reaches.get(source)
        self.reaches[source] = reach if known is None else torch.maximum(known, reach)
        low, high = (end.reshape(1) for end in torch.aminmax(x))
        counted = x if self.quantizer.of_weight else _sampled(x, self.quantizer.spec)
        self._count(counted, self.quantizer(counted if rounded is None else rounded), low, high, x.numel() / counted.numel())

    def _count(self, x: Tensor, quantized: Tensor, lowest: Tensor, highest: Tensor, each: float) -> None:
        """Add up some values, each of which has the weight `each`, and their quantized form; the ends are those of all values."""
        quantizer = self.quantizer
        scale = expand_parameter(quantizer.scale, x, quantizer.axis, quantizer.group_size)
        zero = expand_parameter(quantizer.zero_point, x, quantizer.axis, quantizer.group_size).to(x.dtype)
        # Half a step beyond the ends is still rounded, not clipped.
        low, high = (quantizer.spec.quant_min - zero - 0.5) * scale, (quantizer.spec.quant_max - zero + 0.5) * scale
        self.total += each * x.numel()
        self.clipped += each * float(((x < low) | (x > high)).sum())
        self.nonzero += each * float((x != 0).sum())
        self.zeros += each * float(((x != 0) & (quantized == 0)).sum())
        self.signal += each * float(x.double().square().sum())
        self.noise += each * float((quantized - x).double().square().sum())
        self.histogram.update(x.reshape(1, -1).float(), lowest.float(), highest.float())
        self.after.update(quantized.reshape(1, -1).float())

    def result(self) -> TensorStatistics:
        quantizer = self.quantizer
        spec, scale, zero = quantizer.spec, quantizer.scale.detach(), quantizer.zero_point
        range_low, range_high = float(((spec.quant_min - zero) * scale).min()), float(((spec.quant_max - zero) * scale).max())
        low, high = float(self.histogram.low), float(self.histogram.high)
        counts = self.histogram.counts[0]
        share = counts.cumsum(0) / counts.sum()
        edge = float(self.histogram.width) * (float(self.histogram.first) + torch.arange(len(counts) + 1))
        start = edge[int((share > (1.0 - BULK) / 2).long().argmax())]
        end = edge[int((share >= 1.0 - (1.0 - BULK) / 2).long().argmax()) + 1]
        bulk = float((min(float(end), range_high) - max(float(start), range_low)) / max(range_high - range_low, 1e-30))
        if scale.dim():
            # Channels have ranges of their own, and one histogram of all says nothing about them.
            bulk = 1.0
        # The value of most channels: of a concat and what it joins, the concat.
        reach = max(self.reaches.values(), key=len)
        median = float(reach.median())
        outliers = tuple(torch.nonzero(reach > OUTLIER * median).flatten().tolist()) if median > 0 else ()
        noise = max(self.noise, 1e-30)
        # Values of both signs spread over twice the reach.
        levels = median / float(scale.max()) * (2.0 if low < -0.3 * high else 1.0) if scale.dim() == 0 else 2.0**spec.bits
        # For files and pictures an eighth of the bins is enough.
        counts, edge = counts.view(-1, _COARSER).sum(1), edge[::_COARSER]
        used = torch.nonzero(counts).flatten()
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        channels = self.channels[max(self.channels, key=lambda node: len(self.channels[node][0]))]
        return TensorStatistics(
            name=quantizer.name.removesuffix("_quantizer"),
            is_weight=quantizer.of_weight,
            spec=str(spec),
            bits=spec.bits,
            observer=spec.observer,
            scales=(float(scale.min()), float(scale.max())),
            low=low,
            high=high,
            range_low=range_low,
            range_high=range_high,
            clipped=self.clipped / self.total,
            zeros=self.zeros / max(self.nonzero, 1.0),
            signal_to_noise=float(10.0 * torch.log10(torch.tensor(max(self.signal, 1e-30) / noise))),
            bulk=max(0.0, min(1.0, bulk)),
            outlier_channels=outliers,
            median_levels=levels,
            counts=tuple(counts[first:last].tolist()),
            edges=tuple(edge[first : last + 1].tolist()),
            quantized_counts=tuple(_rebinned(self.after, edge[first : last + 1])),
            channels=_as_numbers(channels[0]),
            quantized_channels=_as_numbers(channels[1]),
            answers=self.answers,
        )


def _sampled(x: Tensor, spec: TensorSpec) -> Tensor:
    """Some values of a large map, `(n,)`."""
    values = rows(x, spec)[0]
    return values[:: sampling_stride(len(values), _COUNTED)]


def _five_numbers(x: Tensor, axis: int) -> Tensor:
    """Minimum, quartiles and maximum of each channel, `(C, 5)`."""
    rows = x.transpose(0, axis).flatten(1)
    sample = rows[:, :: max(1, rows.shape[1] // _SAMPLED)].sort(1).values
    last = sample.shape[1] - 1
    quartiles = [sample[:, round(last * share)] for share in (0.25, 0.5, 0.75)]
    return torch.stack([rows.amin(1), *quartiles, rows.amax(1)], 1)


def _as_numbers(channels: Tensor) -> tuple[FiveNumbers, ...]:
    """Rows of five, with the digits that a picture shows."""
    return tuple(tuple(float(f"{value:.4g}") for value in channel) for channel in channels.tolist())  # type: ignore[misc]


def _rebinned(histogram: Histogram, edges: Tensor) -> list[float]:
    """Counts of a histogram in other bins; what lies outside goes to the first and the last."""
    used = torch.nonzero(histogram.counts[0]).flatten()
    index = torch.bucketize(histogram.centers[0, used], edges.double()[1:-1])
    return torch.zeros(len(edges) - 1, dtype=torch.float64).index_add_(0, index, histogram.counts[0, used]).tolist()


def tensor_statistics(
    detector: QuantizedDetector,
    batches: Iterable[Tensor],
    total: int = 0,
    progress: Progress | None = None,
    reference: Mapping[str, Tensor] | None = None,
) -> list[TensorStatistics]:
    """Watch every quantized tensor of the float network while images run through it.

    Args:
        detector: Calibrated detector.
        batches: Images, uint8 `(N, 3, H, W)`, RGB.
        total: Number of batches, for `progress`.
        progress: Callback, called with (batches done, total).
        reference: The float network's parameters by name, where the detector's own were changed, as learned rounding does.

    Returns:
        In the graph's order; a quantizer that several values share is one entry.
    """
    tallies: dict[str, _Tally] = {}
    for node in detector.network.graph.nodes:
        if kind(node) == "quantizer" and str(node.target) not in tallies:
            quantizer = detector.network.get_submodule(str(node.target))
            assert isinstance(quantizer, FakeQuantize)
            is_weight = quantizer.of_weight
            value = node.meta.get("val")
            axis = quantizer.spec.axis if is_weight else (value.dim() - 1 if value is not None and value.dim() == 3 else 1)
            answers = any(kind(user) == "output" for user in node.users)
            tallies[str(node.target)] = _Tally(quantizer, axis, answers=answers)
    known, done = reference or {}, 0

    def instead(node: Node, env: Mapping[Node, Any]) -> Any:
        """Float weights, and quantizers that only show what they read."""
        if node.op == "get_attr":
            return known.get(str(node.target), COMPUTE)
        if kind(node) != "quantizer":
            return COMPUTE
        source = node.all_input_nodes[0]
        if source.op != "get_attr":
            tallies[str(node.target)].see(env[source], source)
        elif done == 0:
            own = detector.network.get_parameter(str(source.target))
            tallies[str(node.target)].see(env[source], source, own)
        return env[source]

    def count(batches_done: int, all_batches: int) -> None:
        nonlocal done
        done = batches_done
        if progress:
            progress(batches_done, all_batches)

    observe(detector.network, batches, total=total, progress=count, instead=instead)
    return [tally.result() for tally in tallies.values() if tally.total]
