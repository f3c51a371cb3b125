"""Fake quantization against ONNX Runtime's QuantizeLinear/DequantizeLinear and against published formulas."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from yoloquant.quant.arithmetic import PER_TENSOR, fake_quantize
from yoloquant.quant.qparams import SMALLEST_SCALE, scale_and_zero_point
from yoloquant.spec import TensorSpec

CONTAINERS = {
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
    (16, True): TensorProto.INT16,
    (16, False): TensorProto.UINT16,
    (4, True): TensorProto.INT4,
    (4, False): TensorProto.UINT4,
}
NUMPY = {8: (np.uint8, np.int8), 16: (np.uint16, np.int16), 4: (np.uint8, np.int8)}
finite = st.floats(-1e4, 1e4, width=32)


def onnx_answer(x: np.ndarray, scale: float, zero_point: int, bits: int, signed: bool) -> np.ndarray:
    """What ONNX Runtime makes of QuantizeLinear -> DequantizeLinear."""
    kind = CONTAINERS[bits, signed]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor("s", TensorProto.FLOAT, (), [scale]), helper.make_tensor("z", kind, (), [zero_point])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    # The runtime would otherwise remove the pair.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(np.float32, st.integers(1, 40), elements=finite),
    scale=st.floats(2.0**-10, 128.0, width=32),
    bits=st.sampled_from([4, 8, 16]),
    signed=st.booleans(),
    fraction=st.floats(0, 1),
)
def test_equals_onnx_runtime(x, scale, bits, signed, fraction):
    spec = TensorSpec(bits=bits, signed=signed)
    zero_point = round(spec.quant_min + fraction * (spec.quant_max - spec.quant_min))
    ours = fake_quantize(
        torch.from_numpy(x), torch.tensor(scale, dtype=torch.float32), torch.tensor(zero_point, dtype=torch.int32),
        spec.quant_min, spec.quant_max, PER_TENSOR, 0, "x",
    )  # fmt: skip
    np.testing.assert_array_equal(ours.numpy(), onnx_answer(x, scale, zero_point, bits, signed))


def test_ties_round_to_even():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    answer = fake_quantize(x, torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), -128, 127, PER_TENSOR, 0, "x")
    assert answer.tolist() == [0.0, 2.0, 2.0, 0.0, -2.0]


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 5, 2, 2)), (1, (5, 3, 2, 2))])
def test_per_channel_is_each_channel_alone(axis, shape):
    x = torch.randn(shape)
    scale, zero = torch.rand(3) + 0.1, torch.randint(0, 9, (3,), dtype=torch.int32)
    whole = fake_quantize(x, scale, zero, 0, 15, axis, 0, "x")
    for channel in range(3):
        alone = fake_quantize(x.select(axis, channel), scale[channel], zero[channel], 0, 15, PER_TENSOR, 0, "x")
        assert torch.equal(whole.select(axis, channel), alone)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("inputs", [8, 7, 3, 2])
def test_groups_are_blocks_of_input_channels(inputs, axis):
    x = torch.randn(2, inputs, 3, 3)
    groups = -(-inputs // 4)
    scale, zero = torch.rand(2, groups) + 0.1, torch.randint(-3, 3, (2, groups), dtype=torch.int32)
    # Transposed convolutions hold outputs on axis 1, and inputs on axis 0.
    whole = fake_quantize(x.transpose(0, axis).contiguous(), scale, zero, -8, 7, axis, 4, "x").transpose(0, axis)
    for output in range(2):
        for group in range(groups):
            block = slice(4 * group, 4 * group + 4)
            alone = fake_quantize(x[output, block], scale[output, group], zero[output, group], -8, 7, PER_TENSOR, 0, "x")
            assert torch.equal(whole[output, block], alone)


def lsq_gradient(x: float, scale: float, low: int, high: int) -> float:
    """Esser et al. 2020, equation 3, zero point 0, saturated where rounding saturates."""
    v = x / scale
    if v <= low - 0.5:
        return low
    if v >= high + 0.5:
        return high
    return round(v) - v


@pytest.mark.parametrize(("axis", "group", "shape"), [(PER_TENSOR, 0, ()), (0, 0, (3,)), (0, 2, (3, 3)), (1, 2, (5, 2))])
def test_gradients_are_straight_through_and_lsq(axis, group, shape):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 2, 2, requires_grad=True)
    scale = (torch.rand(shape) * 0.1 + 0.1).requires_grad_()
    answer = fake_quantize(x, scale, torch.zeros(shape, dtype=torch.int32), -8, 7, axis, group, "x")
    answer.sum().backward()
    expected = torch.zeros(shape)
    for index in np.ndindex(*x.shape):
        where = () if axis == PER_TENSOR else (index[axis],) if not group else (index[axis], index[1 - axis] // group)
        step = scale[where].item()
        expected[where] += lsq_gradient(x[index].item(), step, -8, 7)
        assert x.grad[index] == float(-8.5 < x[index].item() / step < 7.5)
    torch.testing.assert_close(scale.grad, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(
    ends=st.tuples(finite, finite),
    bits=st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16]),
    signed=st.booleans(),
    symmetric=st.booleans(),
    power_of_two=st.booleans(),
)
def test_range_is_represented(ends, bits, signed, symmetric, power_of_two):
    spec = TensorSpec(bits=bits, signed=signed, symmetric=symmetric, power_of_two=power_of_two)
    low, high = (torch.tensor([end]) for end in sorted(ends))
    scale, zero_point = scale_and_zero_point(low, high, spec)
    assert scale.item() > 0
    assert spec.quant_min <= zero_point.item() <= spec.quant_max
    if power_of_two:
        assert float(np.log2(scale.item())).is_integer()
    # Zero is exact, and no end is further away than a step and a half (half a step from the zero point's own rounding).
    values = torch.cat([low, high, torch.zeros(1)])
    answer = fake_quantize(values, scale[0], zero_point[0], spec.quant_min, spec.quant_max, PER_TENSOR, 0, "x")
    assert answer[2] == 0
    slack = 1.5 if not symmetric or power_of_two else 0.51
    # An unsigned symmetric 2-bit range holds two steps below zero and one above.
    if not (symmetric and power_of_two):
        assert torch.all((answer - values).abs() <= slack * scale * 1.001 + SMALLEST_SCALE)


def test_power_of_two_formula():
    """2^ceil(log2(max(|min|, |max|))) / 128 for int8."""
    spec = TensorSpec(power_of_two=True)
    for low, high in [(-3.0, 5.0), (-0.7, 0.2), (-16.0, 1.0), (-100.0, 130.0)]:
        scale, _ = scale_and_zero_point(torch.tensor(low), torch.tensor(high), spec)
        assert scale.item() == 2.0 ** np.ceil(np.log2(max(abs(low), abs(high)))) / 128


def test_onnx_model_of_the_helper_is_valid():
    assert onnx_answer(np.array([0.26], np.float32), 0.5, 0, 8, True) == np.float32(0.5)
    assert onnx.__version__
