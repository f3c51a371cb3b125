"""Observers: they see tensors batch by batch and return scale and zero point.

An observer holds statistics of bounded size, never the tensors. It sees values as `(C, n)` rows, one row for each scale, and
`rows` makes those from any tensor. `merge` says how the statistics of two processes become one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from yoloquant.environment import plug_ins
from yoloquant.errors import RecipeError, YoloquantError
from yoloquant.quant import ranges
from yoloquant.quant.aciq import aciq
from yoloquant.quant.entropy import NARROWEST, STEPS, least_divergence
from yoloquant.quant.histogram import Distribution, Histogram, SortedValues
from yoloquant.quant.qparams import scale_and_zero_point
from yoloquant.spec import TensorSpec

OBSERVERS: dict[str, type[Observer]] = {}


def observer(name: str) -> Callable[[type[Observer]], type[Observer]]:
    """Register an observer class under the name that recipes use."""

    def register(cls: type[Observer]) -> type[Observer]:
        cls.name = name
        OBSERVERS[name] = cls
        return cls

    return register


def make_observer(spec: TensorSpec) -> Observer:
    """A fresh observer for a spec.

    Raises:
        RecipeError: No observer has that name, or it has no such option.
    """
    if spec.observer not in OBSERVERS:
        raise RecipeError(f"there is no observer {spec.observer!r}: choose one of {', '.join(sorted(OBSERVERS))}")
    known = _options_of(OBSERVERS[spec.observer])
    unknown = sorted(set(spec.options) - known)
    if unknown:
        offer = f"its options are {', '.join(sorted(known))}" if known else "it has none"
        raise RecipeError(f"observer {spec.observer!r} has no option {unknown[0]!r}: {offer}")
    try:
        return OBSERVERS[spec.observer](spec, **spec.options)
    except TypeError as error:
        raise RecipeError(f"observer {spec.observer!r} does not take these values: {spec.options} ({error})") from error


def _options_of(cls: type[Observer]) -> set[str]:
    """Names of the options that an observer takes, itself or from the class that it extends."""
    found: set[str] = set()
    for base in cls.__mro__[:-1]:
        parameters = inspect.signature(base).parameters
        found |= {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return found - {"spec"}


def rows(tensor: Tensor, spec: TensorSpec) -> Tensor:
    """Reshape to `(C, n)`: one row for each scale of the spec.

    Group-wise rows of a last, smaller group are filled with zeros, which never widen a range.
    """
    if spec.granularity == "tensor":
        # In the order of memory, whatever the order of axes: the row is a view, not a copy of a large map.
        strides = tensor.stride()
        by_stride = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
        return tensor.permute(by_stride).reshape(1, -1)
    by_channel = tensor.transpose(0, spec.axis) if spec.axis else tensor
    if spec.granularity == "channel":
        return by_channel.reshape(by_channel.shape[0], -1)
    outputs, inputs = by_channel.shape[:2]
    groups = -(-inputs // spec.group_size)
    flat = by_channel.reshape(outputs, inputs, -1)
    flat = torch.nn.functional.pad(flat, (0, 0, 0, groups * spec.group_size - inputs))
    return flat.reshape(outputs * groups, -1)


def sampling_stride(count: int, most: int) -> int:
    """The minimum stride that takes at most `most` of `count` values and has no factor in common with `count`.

    Another one falls into step with what divides it: with 255 channels every 51st value is always of the same five.
    """
    stride = max(1, -(-count // most))
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each row.

    Raises:
        YoloquantError: A value is NaN or infinite.
    """
    # Along a dimension aminmax is thirty times slower than over everything.
    low, high = (end.reshape(1) for end in torch.aminmax(values)) if len(values) == 1 else torch.aminmax(values, dim=1)
    if not bool(torch.isfinite(high - low).all()):
        raise YoloquantError("NaN or infinity was observed")
    return low, high


class Observer:
    """Base of all observers: subclasses only update and return statistics.

    Attributes:
        name: Name as recipes write it.
        spec: Spec of the tensor observed.
        empty: Whether nothing has been observed yet.
        reader: Elementwise function that is the only reader of the values; observers that minimise an error minimise that of its
            output. None: The values themselves count.
    """

    name = ""

    def __init__(self, spec: TensorSpec) -> None:
        """Start empty."""
        self.spec = spec
        self.empty = True
        self.reader: ranges.Reader | None = None
        self._leading: tuple[int, ...] = ()

    def update(self, tensor: Tensor) -> None:
        """See one batch, any shape whose channel axis is the spec's."""
        values = rows(tensor.detach(), self.spec)
        if self.spec.granularity == "group":
            self._leading = (tensor.shape[self.spec.axis], values.shape[0] // tensor.shape[self.spec.axis])
        elif self.spec.granularity == "channel":
            self._leading = (values.shape[0],)
        self._see(values)
        self.empty = False

    def quantization_parameters(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, shaped `()`, `(C,)` or `(C, G)`.

        Raises:
            RuntimeError: Nothing was observed.
        """
        if self.empty:
            raise RuntimeError("the observer has seen nothing; run calibration first")
        low, high = self.range()
        scale, zero_point = scale_and_zero_point(low, high, self.spec)
        return scale.reshape(self._leading), zero_point.reshape(self._leading)

    def range(self) -> tuple[Tensor, Tensor]:
        """The chosen range, two `(C,)` tensors."""
        raise NotImplementedError

    def merge(self, other: Observer) -> None:
        """Take in what another process observed."""
        raise NotImplementedError

    def _see(self, values: Tensor) -> None:
        raise NotImplementedError


@observer("minmax")
class MinMax(Observer):
    """The smallest and largest value seen."""

    low: Tensor
    high: Tensor

    def _see(self, values: Tensor) -> None:
        low, high = extremes(values)
        if self.empty:
            self.low, self.high = low, high
        else:
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)

    def range(self) -> tuple[Tensor, Tensor]:
        """Minimum and maximum."""
        return self.low, self.high

    def merge(self, other: Observer) -> None:
        """The wider of both ranges."""
        assert isinstance(other, MinMax)
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)


@observer("fixed")
class FixedRange(Observer):
    """A range that is known before any value is seen, such as 0..1 of a sigmoid's output."""

    def __init__(self, spec: TensorSpec, low: float = 0.0, high: float = 1.0) -> None:
        """`low` and `high`: ends of the range, around 0."""
        super().__init__(spec)
        if not (low <= 0.0 <= high and low < high):
            raise RecipeError(f"a fixed range goes from low to high around 0, not {low}..{high}")
        self.low, self.high = low, high
        self._scales = 1

    def _see(self, values: Tensor) -> None:
        extremes(values)
        self._scales = values.shape[0]

    def range(self) -> tuple[Tensor, Tensor]:
        """The range that was given."""
        return torch.full((self._scales,), self.low), torch.full((self._scales,), self.high)

    def merge(self, other: Observer) -> None:
        """Nothing: the range is known."""


@observer("moving_average")
class MovingAverageMinMax(Observer):
    """Exponential moving average of each batch's minimum and maximum (Jacob et al. 2018, section 3.1)."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: TensorSpec, momentum: float = 0.9) -> None:
        """`momentum`, 0..1: share of the old average that stays at each batch."""
        super().__init__(spec)
        if not 0.0 <= momentum < 1.0:
            raise RecipeError(f"momentum must be at least 0 and below 1, not {momentum}")
        self.momentum = momentum
        self.batches = 0

    def _see(self, values: Tensor) -> None:
        low, high = extremes(values)
        if self.empty:
            self.low, self.high = low, high
        else:
            self.low = torch.lerp(low, self.low, self.momentum)
            self.high = torch.lerp(high, self.high, self.momentum)
        self.batches += 1

    def range(self) -> tuple[Tensor, Tensor]:
        """The averages."""
        return self.low, self.high

    def merge(self, other: Observer) -> None:
        """Mean of both averages, weighted by their batches."""
        assert isinstance(other, MovingAverageMinMax)
        share = other.batches / max(1, self.batches + other.batches)
        self.low, self.high = torch.lerp(self.low, other.low, share), torch.lerp(self.high, other.high, share)
        self.batches += other.batches


@observer("absmax")
class AbsoluteMaximum(MinMax):
    """The largest absolute value seen, on both sides (PaddleSlim's `abs_max`)."""

    def range(self) -> tuple[Tensor, Tensor]:
        """`-m..m`; only the side that values are on where none is negative."""
        largest = torch.maximum(-self.low, self.high)
        return torch.where(self.low < 0.0, -largest, 0.0), largest


@observer("average")
class AverageMinMax(Observer):
    """Mean of all batches' minima and of their maxima (PaddleSlim's `avg`)."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: TensorSpec) -> None:
        """Start empty."""
        super().__init__(spec)
        self.batches = 0

    def _see(self, values: Tensor) -> None:
        low, high = extremes(values)
        if self.empty:
            self.low, self.high = low.double(), high.double()
        else:
            self.low, self.high = self.low + low, self.high + high
        self.batches += 1

    def range(self) -> tuple[Tensor, Tensor]:
        """The means."""
        return self.low / self.batches, self.high / self.batches

    def merge(self, other: Observer) -> None:
        """Add sums and batches."""
        assert isinstance(other, AverageMinMax)
        self.low, self.high = self.low + other.low, self.high + other.high
        self.batches += other.batches


class HistogramObserver(Observer):
    """Base of observers that choose the range from a histogram at the end.

    Large tensors are sampled for the counts: every k-th value from a start that moves with each batch. Minimum and maximum
    are always those of all values. What is seen once and has no more values than bins, as weights do, is kept as it is.
    """

    _histogram: Histogram
    _once: Tensor | None = None

    def __init__(self, spec: TensorSpec, bins: int = 2048, samples: int = 1 << 18) -> None:
        """`bins`: of each histogram, even; `samples`: values counted of a batch, at most, for each row."""
        super().__init__(spec)
        if bins < 16 or bins % 2:
            raise RecipeError(f"a histogram needs an even number of bins, at least 16, not {bins}")
        self.bins, self.samples = bins, samples
        self._updates = 0

    @property
    def distribution(self) -> Distribution:
        """What was seen: a histogram, or the values themselves."""
        return SortedValues(self._once) if self._once is not None else self._histogram

    @property
    def histogram(self) -> Histogram:
        """What was seen, always as a histogram."""
        if self._once is not None:
            values, self._once = self._once, None
            self._histogram = Histogram(values.shape[0], self.bins)
            self._histogram.update(values)
        return self._histogram

    def _see(self, values: Tensor) -> None:
        low, high = extremes(values)
        if self.empty and values.shape[1] <= self.bins:
            self._once = values.cpu().clone()
            return
        if self.empty:
            self._histogram = Histogram(values.shape[0], self.bins)
        stride = sampling_stride(values.shape[1], self.samples)
        start = (self._updates * 7919) % stride
        self.histogram.update(values[:, start::stride].cpu(), low.cpu(), high.cpu())
        self._updates += 1

    def merge(self, other: Observer) -> None:
        """Add the counts."""
        assert isinstance(other, HistogramObserver)
        self.histogram.merge(other.histogram)


@observer("percentile")
class Percentile(HistogramObserver):
    """Leaves a share of the positive values above the range and a share of the negative ones below it."""

    def __init__(self, spec: TensorSpec, alpha: float = 0.001, low_alpha: float | None = None, **options: Any) -> None:
        """`alpha`: share of the positive values, and of the negative ones unless `low_alpha` says otherwise."""
        super().__init__(spec, **options)
        self.high_alpha, self.low_alpha = alpha, alpha if low_alpha is None else low_alpha
        if not (0.0 <= self.high_alpha < 1.0 and 0.0 <= self.low_alpha < 1.0):
            raise RecipeError(f"percentile's alpha must be at least 0 and below 1, not {alpha} and {low_alpha}")

    def range(self) -> tuple[Tensor, Tensor]:
        """The range that leaves the shares outside."""
        return ranges.percentile(self.distribution, self.low_alpha, self.high_alpha)


@observer("lp")
class LeastError(HistogramObserver):
    """The range whose quantization has the minimum error in the p-norm (Nahshan et al. 2021, "Loss aware
    post-training quantization").

    The higher the power, the more weight rare large values have; 2 is the squared error of `mse`.
    """

    def __init__(self, spec: TensorSpec, power: float = 2.5, steps: int = 100, **options: Any) -> None:
        """`power`: p, of the absolute error; `steps`: ranges tried along each end."""
        super().__init__(spec, **options)
        if power <= 0 or steps < 2:
            raise RecipeError(f"power must be above 0 and steps at least 2, not {power} and {steps}")
        self.power, self.steps = power, steps

    def range(self) -> tuple[Tensor, Tensor]:
        """The range of minimum error."""
        return ranges.least_error(self.distribution, self.spec, self.power, self.steps, reader=self.reader)


@observer("mse")
class LeastSquaredError(LeastError):
    """The range whose quantization has the minimum squared error."""

    def __init__(self, spec: TensorSpec, steps: int = 100, **options: Any) -> None:
        """`steps`: ranges tried along each end."""
        super().__init__(spec, 2.0, steps, **options)


@observer("mse_shrink")
class ShrinkBothEnds(HistogramObserver):
    """Minimum squared error over ranges whose two ends shrink together by 1 % steps (Sparsebit's MSE observer)."""

    def __init__(self, spec: TensorSpec, steps: int = 80, **options: Any) -> None:
        """`steps`: how many percent at most, less one."""
        super().__init__(spec, **options)
        self.steps = steps

    def range(self) -> tuple[Tensor, Tensor]:
        """The range of minimum error."""
        return ranges.shrink_both_ends(self.distribution, self.spec, self.steps)


@observer("entropy")
class Entropy(HistogramObserver):
    """The range of minimum Kullback-Leibler divergence between the values and their quantized form (TensorRT's calibrator).

    PaddleSlim's `KL` keeps the zeros, and no range is narrower than half of the values seen.
    """

    def __init__(
        self, spec: TensorSpec, steps: int = STEPS, narrowest: float = NARROWEST, *, keep_zeros: bool = False, **options: Any
    ) -> None:
        """`steps`: ranges tried; `narrowest`: share of the bins, 0..1, of every range; `keep_zeros`: the bin at zero counts."""
        super().__init__(spec, **options)
        if not 0.0 < narrowest <= 1.0 or steps < 2:
            raise RecipeError(f"narrowest is above 0 and at most 1, and steps at least 2, not {narrowest} and {steps}")
        self.steps, self.narrowest, self.keep_zeros = steps, narrowest, keep_zeros

    def _see(self, values: Tensor) -> None:
        # All bins serve the sizes of values where the range is symmetric.
        super()._see(values.abs() if self.spec.symmetric else values)

    def range(self) -> tuple[Tensor, Tensor]:
        """The range of minimum divergence."""
        return least_divergence(self.histogram, self.spec, self.steps, self.narrowest, keep_zeros=self.keep_zeros)


@observer("emd")
class EarthMover(LeastError):
    """The range of minimum earth mover's distance between the values and their quantized form.

    Rounding keeps the order of values, so the best plan moves each to its own quantized value, and the distance is the mean
    absolute error (Vallender 1974): `lp` with power 1.
    """

    def __init__(self, spec: TensorSpec, steps: int = 100, **options: Any) -> None:
        """`steps`: ranges tried along each end."""
        super().__init__(spec, 1.0, steps, **options)


@observer("moments")
class Moments(HistogramObserver):
    """The range that keeps mean and standard deviation best: what PaddleSlim calls `emd`."""

    def __init__(self, spec: TensorSpec, steps: int = 100, **options: Any) -> None:
        """`steps`: ranges tried."""
        super().__init__(spec, **options)
        self.steps = steps

    def range(self) -> tuple[Tensor, Tensor]:
        """The range of minimum distance."""
        return ranges.moment_distance(self.distribution, self.spec, self.steps)


@observer("hist_percent")
class HistogramPercent(HistogramObserver):
    """The symmetric range that holds a share of all values (PaddleSlim's `hist`)."""

    def __init__(self, spec: TensorSpec, percent: float = 0.99999, **options: Any) -> None:
        """`percent`: the share, 0..1."""
        super().__init__(spec, **options)
        if not 0.0 < percent <= 1.0:
            raise RecipeError(f"percent is a share above 0 and at most 1, not {percent}")
        self.percent = percent

    def range(self) -> tuple[Tensor, Tensor]:
        """The range."""
        return ranges.absolute_percentile(self.distribution, self.percent)


@observer("aciq")
class AnalyticClipping(HistogramObserver):
    """The best clipping of the Gaussian or Laplace distribution that has the values' moments (ACIQ, Banner et al. 2019)."""

    def __init__(self, spec: TensorSpec, distribution: str = "laplace", **options: Any) -> None:
        """`distribution`: "laplace" or "gaussian"."""
        super().__init__(spec, **options)
        if distribution not in ("laplace", "gaussian"):
            raise RecipeError(f"aciq's distribution is laplace or gaussian, not {distribution!r}")
        self.distribution_name = distribution

    def range(self) -> tuple[Tensor, Tensor]:
        """The range."""
        return aciq(self.distribution, self.spec, self.distribution_name)


# At the end, since plug-ins import the decorator.
plug_ins("yoloquant.observers")
