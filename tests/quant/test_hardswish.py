"""Hardswish on integers: exact, in every file for a runtime that has the operators, and refused nowhere."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from small_networks import images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.data.images import to_input
from yoloquant.evaluation.parity import check_parity
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.quant.hardswish import fit_hardswish, gate_steps
from yoloquant.targets.registry import TARGETS, get_target


class Chain(nn.Module):
    """Three layers with Hardswish between them; the first feeds a residual addition, too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(16, 8, 1)
        with torch.no_grad():
            for layer in (self.stem, self.first, self.second):
                layer.weight *= 4.0

    def forward(self, x):
        f = nn.functional.hardswish
        x = f(self.stem(x))
        return [self.last(f(self.second(f(self.first(x)))) + x)]


def fitted(target="onnxruntime"):
    detector = quantized_detector(get_target(target), Chain().eval())
    calibrate(detector, [images(4)])
    return detector, fit_hardswish(detector)


def before_hardswish(detector):
    network = detector.network
    found = {}
    for node in network.graph.nodes:
        if node.target is torch.ops.aten.hardswish.default and node.args[0].op == "call_module":
            quantizer = network.get_submodule(node.args[0].target)
            assert isinstance(quantizer, FakeQuantize)
            found[quantizer.name] = quantizer
    return found


@given(st.floats(-20, -0.01), st.floats(0.01, 200))
@settings(max_examples=60, deadline=None)
def test_a_fitted_range_begins_at_minus_three_and_reaches_as_high_as_before(low, high):
    detector, _ = FITTED
    quantizer = next(iter(before_hardswish(detector).values()))
    scale = (high - low) / 255
    zero = round(-low / scale)
    quantizer.set_parameters(torch.tensor(scale), torch.tensor(zero, dtype=torch.int32))
    reached = (255 - zero) * scale
    fit_hardswish(detector)
    steps, new = gate_steps(float(quantizer.scale)), float(quantizer.scale)
    assert int(quantizer.zero_point) == steps
    assert (255 - steps) * new >= reached * (1 - 1e-4)
    # The next finer scale that divides 3 would not reach as high.
    assert (255 - steps - 1) * 3 / (steps + 1) < reached * (1 + 1e-4)
    again = fit_hardswish(detector)
    assert quantizer.name not in again
    assert float(quantizer.scale) == new


FITTED = fitted()


def test_a_range_without_room_for_minus_three_stays():
    detector, _ = fitted()
    quantizer = next(iter(before_hardswish(detector).values()))
    quantizer.set_parameters(torch.tensor(10.0), torch.tensor(1, dtype=torch.int32))
    fit_hardswish(detector)
    assert (float(quantizer.scale), int(quantizer.zero_point)) == (10.0, 1)


def optimised(path, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]


def test_onnxruntime_computes_hardswish_on_integers(tmp_path):
    detector, changed = fitted()
    assert sorted(changed) == sorted(before_hardswish(detector))
    export_onnx(detector, tmp_path / "m.onnx", target="onnxruntime")
    operators = optimised(tmp_path / "m.onnx", tmp_path)
    # The first layer stays in float here, and so does its Hardswish.
    assert operators.count("QLinearMul") == len(changed) == 2
    assert operators.count("Clip") == 2
    assert operators.count("HardSigmoid") + operators.count("HardSwish") == 1


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_file_gives_what_the_detector_gives(tmp_path, runtime):
    detector, _ = fitted()
    export_onnx(detector, tmp_path / "m.onnx", target="onnxruntime")
    x = to_input(images(2, seed=8)).numpy()
    (found,) = check_parity(detector, tmp_path / "m.onnx", x, (runtime,))
    assert found.agrees
    assert found.signal_to_noise > 30


def test_every_integer_of_the_gate_is_exact(tmp_path):
    """All 256 inputs through ONNX Runtime's Clip, DequantizeLinear and Mul against Hardswish in double precision."""
    detector, _ = fitted()
    export_onnx(detector, tmp_path / "m.onnx", target="onnxruntime")
    model = onnx.load(tmp_path / "m.onnx")
    product = next(node for node in model.graph.node if node.op_type == "Mul" and node.input[1].endswith(".gate"))
    producers = {name: node for node in model.graph.node for name in node.output}
    values = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    pair, gate = producers[product.input[0]], producers[product.input[1]]
    clip = producers[gate.input[0]]
    integers = np.arange(256, dtype=np.uint8)
    part = onnx.helper.make_graph(
        [pair, clip, gate, product],
        "part",
        [onnx.helper.make_tensor_value_info(pair.input[0], onnx.TensorProto.UINT8, [256])],
        [onnx.helper.make_tensor_value_info(product.output[0], onnx.TensorProto.FLOAT, [256])],
        [entry for entry in model.graph.initializer if entry.name in {*pair.input, *clip.input, *gate.input}],
    )
    alone = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {pair.input[0]: integers})
    x = (integers.astype(np.float64) - values[pair.input[2]]) * values[pair.input[1]]
    np.testing.assert_allclose(found, x * np.clip(x + 3, 0, 6) / 6, atol=1e-5)


def test_a_wrong_gate_is_found(tmp_path):
    detector, _ = fitted()
    export_onnx(detector, tmp_path / "m.onnx", target="onnxruntime")
    model = onnx.load(tmp_path / "m.onnx")
    scale = next(entry for entry in model.graph.initializer if entry.name.endswith(".gate_scale"))
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.1), scale.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    (found,) = check_parity(detector, tmp_path / "wrong.onnx", to_input(images(2, seed=8)).numpy(), ("onnxruntime",))
    assert not found.agrees


@pytest.mark.parametrize("name", TARGETS)
def test_only_targets_that_want_it_get_it(tmp_path, name):
    detector, _ = fitted(name)
    export_onnx(detector, tmp_path / "m.onnx", target=name)
    gates = [node for node in onnx.load(tmp_path / "m.onnx").graph.node if node.name.endswith(".gate")]
    assert bool(gates) == TARGETS[name].integer_hardswish
