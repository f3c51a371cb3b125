"""Observers and the streaming histogram against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from yoloquant.errors import RecipeError
from yoloquant.quant.aciq import best_clip
from yoloquant.quant.arithmetic import PER_TENSOR, fake_quantize
from yoloquant.quant.entropy import divergences
from yoloquant.quant.histogram import Histogram
from yoloquant.quant.observers import OBSERVERS, make_observer, sampling_stride
from yoloquant.quant.qparams import scale_and_zero_point
from yoloquant.spec import TensorSpec

values = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e5, 1e5, width=32))


@settings(max_examples=150, deadline=None)
@given(batches=st.lists(values, min_size=1, max_size=6), bins=st.sampled_from([16, 64, 256]))
def test_streaming_counts_equal_counting_all_at_once(batches, bins):
    histogram = Histogram(1, bins)
    for batch in batches:
        histogram.update(torch.from_numpy(batch)[None])
    everything = np.concatenate(batches).astype(np.float64)
    assert histogram.low.item() == everything.min()
    assert histogram.high.item() == everything.max()
    assert histogram.counts.sum() == len(everything)
    width, first = histogram.width.item(), int(histogram.first)
    if width > 0:
        expected = np.zeros(bins)
        for value in everything:
            expected[min(max(int(np.floor(value / width)) - first, 0), bins - 1)] += 1
        np.testing.assert_array_equal(histogram.counts[0].numpy(), expected)
        # Growing never wastes more than half of the resolution, and a bin at either end.
        span = max(everything.max(), 0.0) - min(everything.min(), 0.0)
        assert span < 1e-30 or span / width >= bins / 2 - 2


def test_channels_are_independent():
    torch.manual_seed(0)
    data = torch.randn(5, 3, 100) * torch.tensor([0.01, 1.0, 100.0])[:, None]
    together = Histogram(3, 64)
    alone = [Histogram(1, 64) for _ in range(3)]
    for batch in data:
        together.update(batch)
        for channel in range(3):
            alone[channel].update(batch[channel : channel + 1])
    for channel in range(3):
        assert torch.equal(together.counts[channel], alone[channel].counts[0])


def test_merging_keeps_every_count():
    torch.manual_seed(0)
    first, second = torch.randn(1, 1000), torch.randn(1, 1000) * 3 + 1
    left, right = Histogram(1, 128), Histogram(1, 128)
    left.update(first)
    right.update(second)
    left.merge(right)
    assert left.counts.sum() == 2000
    assert left.high == torch.cat([first, second], 1).max()
    cumulative = left.counts.cumsum(1)[0]
    everything = torch.cat([first, second], 1)[0].double()
    edges = (left.first[0] + torch.arange(1, 129)) * left.width[0]
    exact = torch.stack([(everything < edge).sum() for edge in edges])
    # A merged bin is off by at most the counts of one bin of the other histogram.
    assert (cumulative - exact).abs().max() <= right.counts.max() + 1


def brute_force_mse(data: torch.Tensor, spec: TensorSpec, low: float, high: float) -> float:
    scale, zero = scale_and_zero_point(torch.tensor(low), torch.tensor(high), spec)
    answer = fake_quantize(data, scale, zero, spec.quant_min, spec.quant_max, PER_TENSOR, 0, "x")
    return float((answer - data).double().square().mean())


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_finds_the_least_error(bits, symmetric):
    torch.manual_seed(bits)
    # After SiLU: a short negative side and a long positive tail.
    data = torch.nn.functional.silu(torch.randn(20000) * 2)
    data[:5] *= 6
    spec = TensorSpec(bits=bits, symmetric=symmetric, signed=symmetric, observer="mse", options={"samples": 1 << 20})
    observer = make_observer(spec)
    for batch in data.split(3000):
        observer.update(batch)
    low, high = (float(end) for end in observer.range())
    found = brute_force_mse(data, spec, low, high)
    extremes = float(data.min()), float(data.max())
    lows = [extremes[0] * f for f in np.linspace(0.1, 1, 12)]
    highs = [extremes[1] * f for f in np.linspace(0.1, 1, 91)]
    pairs = [(h / extremes[1] * extremes[0], h) for h in highs] if symmetric else [(a, b) for a in lows for b in highs]
    best = min(brute_force_mse(data, spec, a, b) for a, b in pairs)
    assert found <= best * 1.03
    # At 8 bits rounding is so fine that cutting the tail may not pay.
    assert found <= brute_force_mse(data, spec, *extremes) * (1.0 if bits == 8 else 0.7)


@pytest.mark.parametrize("function", [torch.nn.functional.silu, torch.relu, torch.sigmoid, torch.nn.functional.hardswish])
def test_mse_before_an_activation_minimises_the_error_of_its_output(function):
    torch.manual_seed(0)
    # As convolutions before a SiLU have it: a few values far below zero, where the function is all but constant.
    data = torch.randn(20000) * 3
    data[:200] *= 8
    data[data > 9] = 9.0
    spec = TensorSpec(symmetric=False, signed=False, observer="mse", options={"samples": 1 << 20})
    observer = make_observer(spec)
    observer.reader = function
    observer.update(data)

    def error(low, high):
        scale, zero = scale_and_zero_point(torch.tensor(low), torch.tensor(high), spec)
        quantized = fake_quantize(data, scale, zero, spec.quant_min, spec.quant_max, PER_TENSOR, 0, "x")
        return float((function(quantized) - function(data)).double().square().mean())

    low, high = (float(end) for end in observer.range())
    tried = [
        error(float(data.min()) * a, float(data.max()) * b) for a in np.linspace(0.1, 1, 19) for b in np.linspace(0.1, 1, 19)
    ]
    assert error(low, high) <= 1.03 * min(tried)
    own = make_observer(spec)
    own.update(data)
    # What minimises the error of the values themselves is far from that.
    assert error(low, high) < 0.6 * error(*(float(end) for end in own.range()))


def test_percentile_leaves_the_shares_outside():
    torch.manual_seed(0)
    data = torch.randn(100_000)
    spec = TensorSpec(
        signed=False,
        symmetric=False,
        observer="percentile",
        options={"alpha": 0.01, "low_alpha": 0.05, "samples": 1 << 20},
    )
    observer = make_observer(spec)
    observer.update(data)
    low, high = (float(end) for end in observer.range())
    positive, negative = data[data > 0], data[data < 0]
    assert float((positive > high).float().mean()) == pytest.approx(0.01, abs=0.002)
    assert float((negative < low).float().mean()) == pytest.approx(0.05, abs=0.005)


def test_moving_average_formula():
    observer = make_observer(TensorSpec(observer="moving_average", options={"momentum": 0.9}))
    low = high = None
    for batch in torch.randn(7, 50):
        observer.update(batch)
        low = batch.min() if low is None else 0.9 * low + 0.1 * batch.min()
        high = batch.max() if high is None else 0.9 * high + 0.1 * batch.max()
    torch.testing.assert_close(torch.cat(observer.range()), torch.stack([low, high]))


@pytest.mark.parametrize("name", sorted(OBSERVERS))
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_every_observer_answers_in_the_right_shape(name, granularity):
    spec = TensorSpec(bits=4, granularity=granularity, group_size=4 if granularity == "group" else 0, observer=name)
    observer = make_observer(spec)
    weight = torch.randn(6, 10, 3, 3)
    observer.update(weight)
    scale, zero_point = observer.quantization_parameters()
    assert scale.shape == zero_point.shape == {"tensor": (), "channel": (6,), "group": (6, 3)}[granularity]
    assert torch.isfinite(scale).all()


# A fixed range is what it is, whatever is seen.
@pytest.mark.parametrize("name", sorted(set(OBSERVERS) - {"fixed"}))
def test_constant_and_zero_tensors(name):
    for value in (0.0, 3.0, -2.0):
        observer = make_observer(TensorSpec(signed=False, symmetric=False, observer=name))
        observer.update(torch.full((100,), value))
        scale, zero = observer.quantization_parameters()
        answer = fake_quantize(torch.full((1,), value), scale, zero, 0, 255, PER_TENSOR, 0, "x")
        assert answer.item() == pytest.approx(value, rel=0.02, abs=1e-6)


def test_a_fixed_range_is_that_of_its_options_whatever_is_seen():
    spec = TensorSpec(signed=True, symmetric=False, observer="fixed", options={"low": 0.0, "high": 255 / 256})
    observer = make_observer(spec)
    observer.update(torch.full((10,), 7.0))
    assert tuple(float(each) for each in observer.quantization_parameters()) == (1 / 256, -128)
    with pytest.raises(RecipeError, match="around 0"):
        make_observer(spec.with_changes(options={"low": 0.5, "high": 1.0}))


def test_unknown_names_and_options_are_refused():
    with pytest.raises(RecipeError, match="no observer 'mean'"):
        make_observer(TensorSpec(observer="mean"))
    with pytest.raises(RecipeError, match="no option 'alpha': it has none"):
        make_observer(TensorSpec(observer="minmax", options={"alpha": 1}))
    with pytest.raises(RecipeError, match="its options are bins, power, samples, steps"):
        make_observer(TensorSpec(observer="mse", options={"alpha": 2}))
    with pytest.raises(RecipeError, match="does not take these values"):
        make_observer(TensorSpec(observer="percentile", options={"alpha": "wide"}))
    with pytest.raises(RecipeError, match="alpha"):
        make_observer(TensorSpec(observer="percentile", options={"alpha": 2}))


def naive_divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """Migacz's procedure, bin by bin: groups as `numpy.digitize` finds them, infinite where Q is 0 and P is not."""
    p = counts[:end].copy()
    p[-1] += counts[end:].sum()
    group = np.digitize(np.arange(end), np.linspace(0, end, levels + 1)) - 1
    filled = counts[:end] > 0
    q = np.zeros(end)
    for level in range(levels):
        members = filled & (group == level)
        if members.any():
            q[members] = counts[:end][members].mean()
    if not filled.any():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    with np.errstate(divide="ignore"):
        return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 50), min_size=2, max_size=60).filter(any),
    levels=st.sampled_from([4, 8]),
    share=st.floats(0.01, 1.0),
)
def test_divergence_from_prefix_sums_is_the_one_from_loops(counts, levels, share):
    end = max(1, int(len(counts) * share))
    array = np.array(counts, np.float64)
    found = divergences(torch.from_numpy(array), torch.tensor([end]), levels)
    assert found.item() == pytest.approx(naive_divergence(array, end, levels), rel=1e-6, abs=1e-9)


def calibrated_by_loops(counts: np.ndarray, width: float, levels: int, narrowest: int) -> float:
    """NVIDIA's procedure: the bin of zeros replaced, every end tried, the last of equals."""
    counts = counts.copy()
    counts[0] = counts[1]
    ends = range(narrowest, len(counts) + 1)
    found = np.array([naive_divergence(counts, end, levels) for end in ends])
    return ends[int(np.nonzero(found == found.min())[0][-1])] * width


def heavy_tailed(count: int = 100_000) -> torch.Tensor:
    """ReLU of a Student's t distribution: half are zeros, a few are very large."""
    return torch.from_numpy(np.random.default_rng(0).standard_t(3, count)).float().relu()


@pytest.mark.parametrize("spec", [TensorSpec(), TensorSpec(bits=4), TensorSpec(signed=False, symmetric=False, bits=7)])
@pytest.mark.parametrize("values", [heavy_tailed(), torch.randn(100_000, generator=torch.Generator().manual_seed(1))])
def test_entropy_takes_the_range_of_the_published_calibrator(spec, values):
    if not spec.symmetric:
        values = values.abs()
    options = {"bins": 256, "steps": 256}
    observed = make_observer(spec.with_changes(observer="entropy", options=options))
    observed.update(values)
    histogram = observed.histogram
    assert histogram.first.item() == 0
    levels = 1 << (spec.bits - int(spec.signed))
    counts = histogram.counts[0].numpy()[: int(np.nonzero(histogram.counts[0].numpy())[0][-1]) + 1]
    expected = calibrated_by_loops(counts, histogram.width.item(), levels, narrowest=256 // 16)
    _, high = observed.range()
    assert high.item() == pytest.approx(min(expected, values.abs().max().item()), rel=1e-6)


def test_mse_is_as_good_as_the_published_calibrator_that_tries_every_bin():
    """`pytorch-quantization`'s MSE calibrator: the centres of 2,048 bins from number 128 on."""
    values = heavy_tailed()
    counts, edges = np.histogram(values.abs().numpy(), 2048, (0.0, float(values.max())))
    centres = (edges[1:] + edges[:-1]) / 2
    scales = centres[128:, None] / 127
    errors = (counts * (np.clip(np.rint(centres / scales), -127, 127) * scales - centres) ** 2).sum(1)
    observed = make_observer(TensorSpec(narrow=True, observer="mse"))
    observed.update(values)
    found = brute_force_mse(values, observed.spec, *(end.item() for end in observed.range()))
    published = float(centres[128:][errors.argmin()])
    assert found <= 1.01 * brute_force_mse(values, observed.spec, -published, published)


def test_entropy_does_not_spend_its_levels_on_zeros():
    values = heavy_tailed()

    def noise(**options):
        observed = make_observer(TensorSpec(observer="entropy", options=options))
        observed.update(values)
        quantized = fake_quantize(values, *observed.quantization_parameters(), -128, 127, PER_TENSOR, 0, "x")
        return float((quantized - values).square().sum() / values.square().sum())

    # 8 dB are between them.
    assert noise() < 0.2 * noise(keep_zeros=True)
    # PaddleSlim's KL: zeros count, but half of the range always stays.
    observed = make_observer(TensorSpec(observer="entropy", options={"narrowest": 0.5, "keep_zeros": True}))
    observed.update(values)
    assert observed.range()[1].item() >= 0.5 * values.max().item() - observed.histogram.width.item()
    with pytest.raises(RecipeError, match="narrowest"):
        make_observer(TensorSpec(observer="entropy", options={"narrowest": 0.0}))


@pytest.mark.parametrize("symmetric", [True, False])
def test_entropy_cuts_rare_outliers_and_keeps_the_bulk(symmetric):
    torch.manual_seed(0)
    values = torch.cat([torch.randn(200_000), torch.tensor([40.0])])
    observed = make_observer(TensorSpec(signed=symmetric, symmetric=symmetric, observer="entropy"))
    observed.update(values)
    low, high = observed.range()
    assert 2.5 < high.item() < 8.0
    assert -8.0 < low.item() < -2.5


def test_entropy_keeps_the_short_side_of_silu():
    torch.manual_seed(0)
    values = torch.nn.functional.silu(torch.randn(100_000) * 2)
    observed = make_observer(TensorSpec(signed=False, symmetric=False, observer="entropy"))
    observed.update(values)
    low, high = (end.item() for end in observed.range())
    assert low == pytest.approx(-0.278, abs=0.03)
    assert 3.0 < high <= values.max().item() + 1e-6


# Best clips as Banner et al. print them, for 2, 3 and 4 bits.
@pytest.mark.parametrize(("name", "published"), [("laplace", (2.83, 3.89, 5.03)), ("gaussian", (1.71, 2.15, 2.55))])
def test_best_clips_are_the_published_ones(name, published):
    for bits, clip in zip((2, 3, 4), published, strict=True):
        assert best_clip(name, bits) == pytest.approx(clip, abs=0.01)


@pytest.mark.parametrize("name", ["laplace", "gaussian"])
def test_aciq_is_near_the_range_of_least_error_on_its_own_distribution(name):
    generator = np.random.default_rng(0)
    data = (generator.laplace if name == "laplace" else generator.normal)(0.0, 1.0, 400_000)
    values = torch.from_numpy(data).float()
    spec = TensorSpec(bits=4, observer="aciq", options={"distribution": name})
    observed = make_observer(spec)
    observed.update(values)
    low, high = observed.range()
    best = min(brute_force_mse(values, spec, -float(t), float(t)) for t in torch.linspace(1.0, 9.0, 33))
    assert brute_force_mse(values, spec, low.item(), high.item()) < 1.05 * best


def test_earth_mover_is_the_mean_distance_of_sorted_values():
    torch.manual_seed(0)
    values = torch.randn(64)
    spec = TensorSpec(bits=3, observer="emd")
    observed = make_observer(spec)
    observed.update(values)
    _, high = observed.range()

    def distance(limit):
        scale, zero = scale_and_zero_point(torch.tensor(-limit), torch.tensor(limit), spec)
        answer = fake_quantize(values, scale, zero, spec.quant_min, spec.quant_max, PER_TENSOR, 0, "x")
        return float((answer.sort().values - values.sort().values).abs().mean())

    largest = float(values.abs().max())
    best = min(distance(share * largest) for share in np.linspace(0.1, 1.0, 400))
    assert distance(high.item()) <= best * 1.02


def test_averages_and_absolute_maxima():
    batches = [torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 4.0])]
    found = {}
    for name in ("average", "absmax", "minmax"):
        observed = make_observer(TensorSpec(observer=name))
        for batch in batches:
            observed.update(batch)
        found[name] = tuple(end.item() for end in observed.range())
    assert found == {"average": (-2.0, 3.0), "absmax": (-4.0, 4.0), "minmax": (-3.0, 4.0)}


@settings(max_examples=50, deadline=None)
@given(values=hnp.arrays(np.float32, st.integers(5, 200), elements=st.floats(-10, 10, width=32)), share=st.floats(0.5, 1.0))
def test_hist_percent_holds_the_share_of_sizes(values, share):
    # Few values are kept as they are, so the answer is exact.
    observed = make_observer(TensorSpec(granularity="channel", observer="hist_percent", options={"percent": share}))
    observed.update(torch.from_numpy(values)[None])
    low, high = (end.item() for end in observed.range())
    sizes = np.sort(np.abs(values))
    needed = sizes[min(len(sizes) - 1, int(np.ceil(share * len(sizes) - 1e-9)) - 1)]
    assert high == pytest.approx(min(needed, values.max()), abs=1e-6)
    assert low == pytest.approx(max(-needed, values.min()), abs=1e-6)


def test_moments_keep_mean_and_deviation():
    torch.manual_seed(0)
    values = torch.cat([torch.randn(1000), torch.tensor([12.0])])
    spec = TensorSpec(bits=3, observer="moments", granularity="channel", options={"steps": 50})
    observed = make_observer(spec)
    observed.update(values[None])
    low, high = (end.item() for end in observed.range())

    def distance(low, high):
        scale, zero = scale_and_zero_point(torch.tensor(low), torch.tensor(high), spec)
        answer = fake_quantize(values, scale, zero, spec.quant_min, spec.quant_max, PER_TENSOR, 0, "x").double()
        exact = values.double()
        return float(abs(answer.mean() - exact.mean()) + abs(answer.std(unbiased=False) - exact.std(unbiased=False)))

    tried = [distance(float(f * values.min()), float(f * values.max())) for f in torch.linspace(0.1, 1.0, 50).double()]
    assert distance(low, high) == pytest.approx(min(tried), abs=1e-6)


def test_what_is_seen_once_is_kept_exactly_and_still_merges():
    torch.manual_seed(0)
    weight = torch.randn(6, 50)
    spec = TensorSpec(bits=4, granularity="channel", observer="mse", options={"steps": 200})
    observed = make_observer(spec)
    observed.update(weight)
    scale, _ = observed.quantization_parameters()
    for channel in range(6):
        limit = float(weight[channel].abs().max())
        errors = {s: brute_force_mse(weight[channel], spec, -s * limit, s * limit) for s in np.linspace(0.1, 1.0, 200)}
        found = float(scale[channel]) * 7
        assert brute_force_mse(weight[channel], spec, -found, found) <= min(errors.values()) * 1.001
    other = make_observer(spec)
    other.update(weight * 2)
    observed.merge(other)
    assert observed.histogram.counts.sum() == 2 * weight.numel()


@pytest.mark.parametrize("channels", [24, 80, 144, 255])
def test_a_sample_of_a_large_map_sees_every_channel_alike(channels):
    values = (
        torch.arange(1.0, channels + 1)
        .view(1, -1, 1, 1)
        .expand(2, channels, 40, 40)
        .contiguous(memory_format=torch.channels_last)
    )
    seen = make_observer(TensorSpec(observer="mse", options={"bins": 2048, "samples": 8192}))
    seen.update(values)
    counts = seen.histogram.counts[0]
    assert int((counts > 0).sum()) == channels
    assert counts[counts > 0].max() <= counts[counts > 0].min() + 1


@given(count=st.integers(1, 10**8), most=st.integers(1, 10**6))
def test_sampling_strides_fall_into_step_with_nothing(count, most):
    stride = sampling_stride(count, most)
    assert np.gcd(stride, count) == 1
    assert -(-count // stride) <= most
