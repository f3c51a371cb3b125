"""Files for ncnn: operators and integer layers against ONNX Runtime, contents against what was quantized."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from small_families import small_detector, small_images
from small_graphs import SHAPE, graph, ints, node
from small_networks import SmallNetwork, quantized_detector
from small_networks import images as random_images
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.errors import CheckpointError, ExportError, YoloquantError
from yoloquant.evaluation.parity import signal_to_noise
from yoloquant.exporting.formats.registry import FORMATS
from yoloquant.exporting.ncnn.convert import convert
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.runtime.native import open_native
from yoloquant.runtime.ncnn_runner import NcnnRunner, executed_in_ncnn, load_net
from yoloquant.targets.registry import get_target

ncnn = pytest.importorskip("ncnn")

GENERATOR = np.random.default_rng(0)


def random(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def in_onnxruntime(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def in_ncnn(path, x):
    """What ncnn makes of an ONNX file's conversion, without this project's runner."""
    place = path.with_suffix(".param")
    layers, weights = convert(path)
    place.write_text(layers)
    place.with_suffix(".bin").write_bytes(weights)
    net = ncnn.Net()
    assert net.load_param(str(place)) == 0
    assert net.load_model(str(place.with_suffix(".bin"))) == 0
    extractor = net.create_extractor()
    (source,), (output,) = net.input_names(), net.output_names()
    # A copy: memory of its own is what layers in place change.
    extractor.input(source, ncnn.Mat(x[0]).clone())
    code, found = extractor.extract(output)
    assert code == 0
    return np.array(found)[None]


def rows(kind, *inputs, **attributes):
    """An operator on the map with its rows behind one another, `(1, 8, 130)`."""
    flat = helper.make_node("Reshape", ["x", "flat"], ["rows"])
    return [flat, helper.make_node(kind, ["rows", *inputs], ["y"], name="layer", **attributes)], {"flat": ints(1, 8, -1)}


CASES = {
    "conv": ([node("Conv", "w", "b")], {"w": random(5, 8, 1, 1), "b": random(5)}),
    "conv of stride 2": ([node("Conv", "w", pads=[1, 1, 1, 1], strides=[2, 2])], {"w": random(5, 8, 3, 3)}),
    "conv, neither square nor padded alike": (
        [node("Conv", "w", pads=[0, 1, 2, 3], strides=[2, 1])],
        {"w": random(5, 8, 3, 2)},
    ),
    "conv in groups": ([node("Conv", "w", pads=[1, 1, 1, 1], group=2)], {"w": random(6, 4, 3, 3)}),
    "depthwise": ([node("Conv", "w", pads=[1, 1, 1, 1], group=8)], {"w": random(8, 1, 3, 3)}),
    "depthwise with two outputs each": ([node("Conv", "w", pads=[2, 2, 2, 2], group=8)], {"w": random(16, 1, 5, 5)}),
    "dilated": ([node("Conv", "w", pads=[2, 2, 2, 2], dilations=[2, 2])], {"w": random(5, 8, 3, 3)}),
    "transposed": ([node("ConvTranspose", "w", "b", strides=[2, 2])], {"w": random(8, 5, 2, 2), "b": random(5)}),
    "transposed, padded": ([node("ConvTranspose", "w", strides=[2, 2], pads=[1, 1, 1, 1])], {"w": random(8, 5, 4, 4)}),
    "max pool": ([node("MaxPool", kernel_shape=[5, 5], pads=[2, 2, 2, 2])], {}),
    "max pool of stride 2": ([node("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])], {}),
    "average pool": ([node("AveragePool", kernel_shape=[2, 2])], {}),
    "average pool, padded": ([node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}),
    "average pool with its padding": (
        [node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        {},
    ),
    "twice as large": (
        [node("Resize", "", "s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "every second pixel": (
        [node("Slice", "from", "to", "axes", "steps")],
        {"from": ints(1, 0), "to": ints(2**31, 2**31), "axes": ints(2, 3), "steps": ints(2, 2)},
    ),
    "part of the channels": ([node("Slice", "from", "to", "axes")], {"from": ints(-5), "to": ints(-1), "axes": ints(1)}),
    "one of two parts": (
        [helper.make_node("Split", ["x", "sizes"], ["unread", "y"], axis=-3)],
        {"sizes": ints(3, 5)},
    ),
    "cap": ([node("Clip", "low", "high")], {"low": np.float32(-0.5), "high": np.float32(0.25)}),
    "conv and cap": (
        [helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node("Clip", ["z", "low"], ["y"])],
        {"w": random(5, 8, 1, 1), "low": np.float32(-0.5)},
    ),
    "softmax of channels": ([node("Softmax", axis=1)], {}),
    "softmax of rows": ([node("Softmax", axis=-1)], {}),
    "channel constant": ([node("Mul", "c")], {"c": random(1, 8, 1, 1)}),
    "constant of few sides": ([node("Sub", "c")], {"c": random(13, 1)}),
    "less than one": ([helper.make_node("Sub", ["one", "x"], ["y"])], {"one": np.float32(1.0)}),
    "one by": ([helper.make_node("Div", ["one", "x"], ["y"])], {"one": np.float32([1.0])}),
    "square": ([node("Pow", "two")], {"two": np.float32(2.0)}),
    "swish": ([helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["s", "x"], ["y"])], {}),
    "sigmoid that more reads": (
        [
            helper.make_node("Sigmoid", ["x"], ["s"]),
            helper.make_node("Mul", ["s", "x"], ["z"]),
            helper.make_node("Add", ["z", "s"], ["y"]),
        ],
        {},
    ),
    "hardswish": ([node("HardSwish")], {}),
    "reshape of a map": ([node("Reshape", "shape")], {"shape": ints(1, 2, 4, -1)}),
    "mean of the map": ([node("ReduceMean", "axes", keepdims=1)], {"axes": ints(2, 3)}),
    "sum of channels": ([node("ReduceSum", "axes", keepdims=0)], {"axes": ints(1)}),
    "highest of rows": ([node("ReduceMax", "axes", keepdims=0)], {"axes": ints(-1)}),
    "leaky": ([node("LeakyRelu", alpha=0.1)], {}),
    "tanh": ([node("Tanh")], {}),
    "exp": ([node("Exp")], {}),
    "concat of channels": ([helper.make_node("Concat", ["x", "x"], ["y"], axis=1)], {}),
    "concat of rows": ([helper.make_node("Concat", ["x", "x"], ["y"], axis=-2)], {}),
    "product": (
        [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), helper.make_node("MatMul", ["x", "t"], ["y"])],
        {},
    ),
    "shape of itself": (
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Slice", ["shape", "from", "to"], ["first"]),
            helper.make_node("Concat", ["first", "rest"], ["new"], axis=0),
            helper.make_node("Reshape", ["x", "new"], ["y"]),
        ],
        {"from": ints(0), "to": ints(2), "rest": ints(-1)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_is_onnx_runtimes(case, tmp_path):
    path = tmp_path / "one.onnx"
    onnx.save(graph(*CASES[case]), str(path))
    x = random(*SHAPE)
    expected, found = in_onnxruntime(path, x), in_ncnn(path, x)
    assert found.reshape(expected.shape).shape == expected.shape
    # ncnn's exponential is a polynomial.
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


def test_several_outputs_have_the_files_order(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["late"]), helper.make_node("Tanh", ["late"], ["early"])]
    model = graph([*nodes, helper.make_node("Exp", ["x"], ["y"])], {})
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("early", "late"))
    onnx.save(model, str(tmp_path / "one.onnx"))
    layers, weights = convert(tmp_path / "one.onnx")
    (tmp_path / "one.param").write_text(layers)
    (tmp_path / "one.bin").write_bytes(weights)
    net, x = load_net(tmp_path / "one.param"), random(*SHAPE)
    assert list(net.output_names()) == ["y", "early", "late"]
    extractor = net.create_extractor()
    extractor.input("x", ncnn.Mat(x[0]).clone())
    for name, expected in (("y", np.exp(x)), ("early", np.tanh(np.maximum(x, 0))), ("late", np.maximum(x, 0))):
        np.testing.assert_allclose(np.array(extractor.extract(name)[1]), expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sides", [2, 3, 4])
def test_every_order_of_sides_is_numpys(sides, tmp_path):
    shape = (2, 3, 4, 5)[:sides]
    for order in itertools.permutations(range(1, sides + 1)):
        nodes = [node("Reshape", "shape"), helper.make_node("Transpose", ["y"], ["z"], perm=[0, *order])]
        model = graph(nodes, {"shape": ints(1, *shape)}, (1, 1, 1, int(np.prod(shape))))
        model.graph.output[0].name = "z"
        onnx.save(onnx.shape_inference.infer_shapes(model), str(tmp_path / "one.onnx"))
        x = random(1, 1, 1, int(np.prod(shape)))
        np.testing.assert_array_equal(in_ncnn(tmp_path / "one.onnx", x), x.reshape(1, *shape).transpose(0, *order))


REFUSED = {
    "Erf": ([node("Erf")], {}, r"no layer for Erf \(layer\)"),
    "the batch": ([helper.make_node("Concat", ["x", "x"], ["y"], axis=0)], {}, "no batch"),
    "the moved batch": ([node("Transpose", perm=[1, 0, 2, 3])], {}, "move the batch"),
    "five sides": ([node("Reshape", "shape")], {"shape": ints(1, 2, 2, 2, 13, 10)}, "of shape"),
    "ceil": ([node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, "padding or dilation"),
    "backwards": (
        [node("Slice", "from", "to", "axes", "steps")],
        {"from": ints(-1), "to": ints(-(2**31)), "axes": ints(2), "steps": ints(-1)},
        "steps of layer",
    ),
    "linear": (
        [node("Resize", "", "s", mode="linear")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
        "to the nearest pixel",
    ),
    "1.5 times": (
        [node("Resize", "", "s", mode="nearest")],
        {"s": np.array([1, 1, 1, 1.5], np.float32)},
        "by whole factors",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_ncnn_does_not_compute_is_refused(case, tmp_path):
    nodes, constants, message = REFUSED[case]
    onnx.save(graph(nodes, constants), str(tmp_path / "one.onnx"))
    with pytest.raises(ExportError, match=message):
        convert(tmp_path / "one.onnx")


SCALE, ZERO = np.float32(0.031), np.int8(0)


def quantized_input(source, name, scale=SCALE, limit=127, zero=ZERO):
    """Clip, QuantizeLinear and DequantizeLinear as files of target ncnn have them."""
    constants = {
        f"{name}.low": -limit * scale,
        f"{name}.high": limit * scale,
        f"{name}.scale": scale,
        f"{name}.zero": zero,
    }
    parameters = [f"{name}.scale", f"{name}.zero"]
    nodes = [
        helper.make_node("Clip", [source, f"{name}.low", f"{name}.high"], [f"{name}.clipped"]),
        helper.make_node("QuantizeLinear", [f"{name}.clipped", *parameters], [f"{name}.integers"]),
        helper.make_node("DequantizeLinear", [f"{name}.integers", *parameters], [name]),
    ]
    return nodes, constants


def quantized_weight(name, *shape):
    constants = {
        f"{name}.integers": GENERATOR.integers(-127, 128, shape).astype(np.int8),
        f"{name}.scale": GENERATOR.uniform(0.001, 0.01, shape[0]).astype(np.float32),
        f"{name}.zero": np.zeros(shape[0], np.int8),
    }
    parts = [f"{name}.{part}" for part in ("integers", "scale", "zero")]
    return [helper.make_node("DequantizeLinear", parts, [name], axis=0)], constants


def layer(shape, bias=True, limit=127, **attributes):
    """One convolution in integers."""
    (first, constants), (second, more) = quantized_input("x", "q", limit=limit), quantized_weight("w", *shape)
    constants = {**constants, **more, "b": random(shape[0])}
    inputs = ["q", "w", "b"] if bias else ["q", "w"]
    return [*first, *second, helper.make_node("Conv", inputs, ["y"], name="layer", **attributes)], constants


def chain(activation, readers, **attributes):
    """A convolution, an activation, and convolutions that read it, whose outputs are added."""
    nodes, constants = layer((16, 8, 3, 3), pads=[1, 1, 1, 1])
    nodes[-1].output[0] = "first"
    nodes.append(helper.make_node(activation, ["first"], ["active"], **attributes))
    more, parts = quantized_input("active", "p", np.float32(0.05))
    nodes, constants = [*nodes, *more], {**constants, **parts}
    for number in range(readers):
        more, parts = quantized_weight(f"v{number}", 8, 16, 1, 1)
        nodes += [*more, helper.make_node("Conv", ["p", f"v{number}"], [f"out{number}"], name=f"reader{number}")]
        constants.update(parts)
    nodes.append(helper.make_node("Sum" if readers == 1 else "Add", [f"out{number}" for number in range(readers)], ["y"]))
    if readers == 1:
        del nodes[-1]
        nodes[-1].output[0] = "y"
    return nodes, constants


INTEGER = {
    "conv": (layer((6, 8, 1, 1)), 1),
    "conv without bias": (layer((6, 8, 1, 1), bias=False), 1),
    "conv of 3 by 3": (layer((16, 8, 3, 3), pads=[1, 1, 1, 1]), 1),
    "conv of stride 2": (layer((6, 8, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]), 1),
    "seven bits": (layer((6, 8, 1, 1), limit=63), 1),
    "depthwise": (layer((8, 1, 3, 3), pads=[1, 1, 1, 1], group=8), 1),
    "groups": (layer((6, 4, 3, 3), pads=[1, 1, 1, 1], group=2), 2),
    "depthwise with two outputs each": (layer((16, 1, 3, 3), pads=[1, 1, 1, 1], group=8), 8),
    "relu between": (chain("Relu", 1), 2),
    "leaky between": (chain("LeakyRelu", 1, alpha=0.1), 2),
    "hardswish between": (chain("HardSwish", 1), 2),
    "swish between, two readers": (chain("Tanh", 2), 3),
    "relu between, two readers": (chain("Relu", 2), 3),
}


@pytest.mark.parametrize("case", INTEGER)
def test_a_layer_in_integers_is_onnx_runtimes(case, tmp_path):
    path = tmp_path / "one.onnx"
    (nodes, constants), count = INTEGER[case]
    onnx.save(graph(nodes, constants), str(path))
    # No value halfway between two integers, which ncnn rounds away from zero.
    x = (GENERATOR.integers(-140, 141, SHAPE) + GENERATOR.uniform(-0.4, 0.4, SHAPE)).astype(np.float32) * SCALE
    expected, found = in_onnxruntime(path, x), in_ncnn(path, x)
    assert found.shape == expected.shape
    assert signal_to_noise(expected, found) > 60
    # What rounds to the same integers is the same to it, as no layer in float has it.
    np.testing.assert_array_equal(in_ncnn(path, np.rint(x / SCALE) * SCALE), found)
    assert len(executed_in_ncnn(path.with_suffix(".param")).integer) == count


def test_a_value_that_only_integer_layers_read_stays_in_integers(tmp_path):
    onnx.save(graph(*chain("Relu", 2)), str(tmp_path / "one.onnx"))
    layers, _ = convert(tmp_path / "one.onnx")
    terms = {line.split()[1]: [part for part in line.split() if part.startswith("8=")] for line in layers.splitlines()[2:]}
    assert terms["layer"] == ["8=102"]
    assert terms["reader0"] == terms["reader1"] == ["8=2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero": np.int8(3)}, "or a zero point"),
        ({"zero": np.int16(0)}, "has int16 integers"),
    ],
)
def test_other_integers_are_refused(change, message, tmp_path):
    nodes, constants = layer((6, 8, 1, 1))
    _, others = quantized_input("x", "q", **change)
    onnx.save(graph(nodes, {**constants, **others}), str(tmp_path / "one.onnx"))
    with pytest.raises(ExportError, match=f"{message}.*quantize with --target ncnn"):
        convert(tmp_path / "one.onnx")


def test_quantized_values_that_float_reads_are_refused(tmp_path):
    nodes, constants = quantized_input("x", "q")
    onnx.save(graph([*nodes, helper.make_node("Tanh", ["q"], ["y"])], constants), str(tmp_path / "one.onnx"))
    with pytest.raises(ExportError, match="quantized and read in float"):
        convert(tmp_path / "one.onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    detector = quantized_detector(get_target("ncnn"), SmallNetwork(nn.ReLU), float_outputs=False)
    calibrate(detector, [random_images(4)])
    folder = tmp_path_factory.mktemp("small_ncnn_model")
    FORMATS["ncnn"].write(detector, "ncnn", folder)
    return detector, folder / "model.ncnn.param"


def test_the_file_holds_the_integers_and_scales_of_the_folder(made):
    detector, path = made
    content, inputs = path.with_suffix(".bin").read_bytes(), dict(detector.quantizers())
    place = 0
    layers = {str(weight.node.meta["layer"]): weight for weight in detector.quantized_weights()}
    lines = [line.split() for line in path.read_text().splitlines()[2:]]
    names = [line[1] for line in lines if line[0] == "Convolution"]
    assert sorted(names) == sorted(layers)
    for name in names:
        weight = layers[name]
        line = next(line for line in lines if line[1] == name)
        scale = weight.quantizer.scale
        expected = torch.clamp(torch.round(weight.weight.detach() / scale.reshape(-1, 1, 1, 1)), -127, 127).to(torch.int8)
        assert content[place : place + 4] == bytes.fromhex("384b0d00")
        place += 4
        found = np.frombuffer(content, np.int8, expected.numel(), place)
        np.testing.assert_array_equal(found.reshape(expected.shape), expected.numpy())
        # Filled up to four bytes, then the bias.
        place += (expected.numel() + 3) // 4 * 4 + (4 * len(scale) if "5=1" in line else 0)
        found = np.frombuffer(content, np.float32, len(scale) + 1, place)
        np.testing.assert_allclose(1 / found[:-1], scale.numpy().reshape(-1), rtol=1e-6)
        assert any(np.isclose(1 / found[-1], float(part.scale), rtol=1e-6) for part in inputs.values() if part.scale.numel() == 1)
        place += 4 * (len(scale) + 1) + (4 if "8=102" in line else 0)
    assert place == len(content)


def test_its_kernels_compute_what_onnx_runtimes_do(made, tmp_path):
    detector, path = made
    export_onnx(detector, tmp_path / "small.onnx", target="ncnn", dynamic_batch=False)
    x = random_images(1, seed=3).numpy().astype(np.float32) / 255
    assert signal_to_noise(in_onnxruntime(tmp_path / "small.onnx", x), NcnnRunner(path)(x)) > 30


def test_all_layers_are_in_integers_and_images_come_one_by_one(made):
    _, path = made
    found = executed_in_ncnn(path)
    assert (len(found.integer), found.floating) == (6, ())
    runner = NcnnRunner(path)
    x = random_images(2, seed=3).numpy().astype(np.float32) / 255
    np.testing.assert_array_equal(runner(x), np.concatenate([runner(x[:1]), runner(x[1:])]))


def test_a_float_network_can_be_converted_too(tmp_path):
    detector = small_detector("yolov8n")
    export_onnx(detector, tmp_path / "float.onnx", dynamic_batch=False)
    x = small_images(1).numpy().astype(np.float32) / 255
    with torch.inference_mode():
        expected = detector(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(in_ncnn(tmp_path / "float.onnx", x), expected, rtol=1e-3, atol=2e-2)


def test_files_that_are_missing_or_damaged_are_one_sentence(made, tmp_path):
    _, path = made
    for name in ("model.ncnn.param", "metadata.yaml"):
        (tmp_path / name).write_bytes((path.parent / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"there is no file .*model.ncnn.bin"):
        open_native(tmp_path / path.name)
    (tmp_path / "model.ncnn.bin").write_bytes(b"")
    with pytest.raises(YoloquantError, match="ncnn cannot load"):
        load_net(tmp_path / path.name)
    (tmp_path / "metadata.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"there is no metadata.yaml"):
        open_native(tmp_path / path.name)


def test_ultralytics_reads_the_folder(made, tmp_path):
    """Its own backend takes the files by their names and `metadata.yaml`."""
    backends = pytest.importorskip("ultralytics.nn.backends.ncnn")
    detector, path = made
    backend = backends.NCNNBackend(str(path.parent), torch.device("cpu"))
    x = random_images(1, seed=3).to(torch.float32) / 255
    (found,) = backend.forward(x)
    assert list(backend.names.values()) == list(detector.names)
    np.testing.assert_allclose(found, NcnnRunner(path)(x.numpy()), rtol=1e-3, atol=1e-3)
