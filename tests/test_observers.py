"""Observers and the streaming histogram against brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from yoloquant.errors import RecipeError
from yoloquant.quant.arithmetic import PER_TENSOR, fake_quantize
from yoloquant.quant.histogram import Histogram
from yoloquant.quant.observers import OBSERVERS, make_observer
from yoloquant.quant.parameters import scale_and_zero_point
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


@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_constant_and_zero_tensors(name):
    for value in (0.0, 3.0, -2.0):
        observer = make_observer(TensorSpec(signed=False, symmetric=False, observer=name))
        observer.update(torch.full((100,), value))
        scale, zero = observer.quantization_parameters()
        answer = fake_quantize(torch.full((1,), value), scale, zero, 0, 255, PER_TENSOR, 0, "x")
        assert answer.item() == pytest.approx(value, rel=0.02, abs=1e-6)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(RecipeError, match="no observer 'mean'"):
        make_observer(TensorSpec(observer="mean"))
    with pytest.raises(RecipeError, match="does not take"):
        make_observer(TensorSpec(observer="minmax", options={"alpha": 1}))
    with pytest.raises(RecipeError, match="alpha"):
        make_observer(TensorSpec(observer="percentile", options={"alpha": 2}))
