"""Every mistake is planted into a right file, found by name, and mended where that needs no calibration."""

import platform

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from small_networks import SIZE, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.checking.findings import check_graph, decode_nodes
from yoloquant.checking.qdq_graph import QdqGraph
from yoloquant.checking.repair import repair
from yoloquant.cli import app
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.runtime.executed_layers import executed_layers
from yoloquant.targets.registry import get_target


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Target -> path of a right file."""
    folder = tmp_path_factory.mktemp("files")
    paths = {}
    for target in ("onnxruntime", "openvino", "tensorrt"):
        detector = quantized_detector(get_target(target))
        calibrate(detector, [images(4)])
        paths[target] = folder / f"{target}.onnx"
        export_onnx(detector, paths[target], target=target)
    # With quantized output layers the concat before them is quantized, too.
    detector = quantized_detector(get_target("tensorrt"), float_outputs=False)
    calibrate(detector, [images(4)])
    paths["whole"] = folder / "whole.onnx"
    export_onnx(detector, paths["whole"], target="tensorrt")
    return paths


def kinds(model, target):
    return {finding.kind for finding in check_graph(QdqGraph(model), get_target(target)).findings}


def answer(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images(1).numpy().astype(np.float32) / 255})[0]


def layer(model, number=1):
    return QdqGraph(model).weighted()[number]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_our_own_files_have_no_findings_but_their_float_layers(files, target):
    result = check_graph(QdqGraph(onnx.load(str(files[target]))), get_target(target))
    in_float = {"onnxruntime": 3, "openvino": 0, "tensorrt": 2}[target]
    assert {finding.kind for finding in result.findings} == ({"float-layer"} if in_float else set())
    # The two output layers stay in float, and for ONNX Runtime the one that reads the image.
    assert (result.layers, result.integer_layers) == (6, 6 - in_float)
    assert result.integer_work == 1.0 if target == "openvino" else 0.6 < result.integer_work < 1.0


def plant_half_quantized(model):
    node = layer(model)
    graph = QdqGraph(model)
    node.input[0] = graph.producers[graph.dequantized(node.input[0]).input[0]].input[0]


def plant_float_weight(model):
    node = layer(model)
    graph = QdqGraph(model)
    scale = graph.scale_of(graph.dequantized(node.input[1]))
    integers = graph.constants[graph.dequantized(node.input[1]).input[0]]
    values = (integers * scale.scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, "float_weight"))
    node.input[1] = "float_weight"


def insert_pair(model, name, like, readers, suffix="planted", scale=None, zero=None):
    """Put Q/DQ on a value; parameters are those of a pair that is there, or new ones."""
    parameters = list(like.input[1:3])
    if scale is not None:
        dtype = QdqGraph(model).constants[like.input[2]].dtype
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.float32(scale), f"{suffix}_scale"),
                numpy_helper.from_array(dtype.type(zero or 0), f"{suffix}_zero"),
            ]
        )
        parameters = [f"{suffix}_scale", f"{suffix}_zero"]
    for reader in readers:
        for index, value in enumerate(reader.input):
            if value == name:
                reader.input[index] = f"{suffix}_d"
    nodes = list(model.graph.node)
    place = next(index for index, node in enumerate(nodes) if node == readers[0])
    model.graph.node.insert(place, helper.make_node("QuantizeLinear", [name, *parameters], [f"{suffix}_q"], name=f"{suffix}_q"))
    model.graph.node.insert(
        place + 1, helper.make_node("DequantizeLinear", [f"{suffix}_q", *parameters], [f"{suffix}_d"], name=f"{suffix}_d")
    )


def some_pair(model):
    graph = QdqGraph(model)
    return next(node for node in graph.nodes if node.op_type == "QuantizeLinear")


def plant_needless_pair(model):
    node = layer(model)
    pair = QdqGraph(model).dequantized(node.input[0])
    insert_pair(model, node.input[0], pair, [node])


def plant_rescaling(model):
    node = layer(model)
    insert_pair(model, node.input[0], some_pair(model), [node], scale=0.5)


def plant_before_activation(model):
    node = layer(model)
    readers = QdqGraph(model).readers[node.output[0]]
    insert_pair(model, node.output[0], some_pair(model), readers, scale=0.1)


def plant_per_tensor_weight(model):
    node = layer(model)
    dequantizer = QdqGraph(model).dequantized(node.input[1])
    del dequantizer.attribute[:]
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.01), "w_scale"), numpy_helper.from_array(np.int8(0), "w_zero")]
    )
    dequantizer.input[1], dequantizer.input[2] = "w_scale", "w_zero"


def plant_quantized_bias(model):
    node = layer(model)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.arange(16, dtype=np.int32), "b_integers"),
            numpy_helper.from_array(np.float32(0.01), "b_scale"),
            numpy_helper.from_array(np.int32(0), "b_zero"),
        ]
    )
    place = next(index for index, other in enumerate(model.graph.node) if other == node)
    node.input[2] = "b_float"
    model.graph.node.insert(
        place, helper.make_node("DequantizeLinear", ["b_integers", "b_scale", "b_zero"], ["b_float"], name="b")
    )


def plant_inside_activation(model):
    graph = QdqGraph(model)
    sigmoid = next(node for node in graph.nodes if node.op_type == "Sigmoid")
    insert_pair(model, sigmoid.output[0], some_pair(model), graph.readers[sigmoid.output[0]], scale=1 / 256)


def plant_quantized_decode(model):
    graph = QdqGraph(model)
    node = decode_nodes(graph)[-1]
    insert_pair(model, node.input[0], some_pair(model), [node], scale=1.0)


def plant_zero_point(model):
    name = some_pair(model).input[2]
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.int8(3), name))


def plant_signed(model):
    name = some_pair(model).input[2]
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.int8(0), name))


def plant_mismatched_scales(model):
    graph = QdqGraph(model)
    concat = next(node for node in graph.nodes if node.op_type == "Concat" and graph.dequantized(node.input[1]) is not None)
    pair = graph.dequantized(concat.input[1])
    value = graph.producers[pair.input[0]].input[0]
    concat.input[1] = value
    insert_pair(model, value, pair, [concat], scale=0.37)


PLANTED = [
    (plant_half_quantized, "tensorrt", "half-quantized"),
    (plant_float_weight, "openvino", "half-quantized"),
    (plant_needless_pair, "onnxruntime", "needless-pair"),
    (plant_rescaling, "openvino", "rescaling"),
    (plant_before_activation, "tensorrt", "before-activation"),
    (plant_before_activation, "openvino", "before-activation"),
    (plant_inside_activation, "openvino", "inside-activation"),
    (plant_inside_activation, "tensorrt", "inside-activation"),
    (plant_per_tensor_weight, "openvino", "per-tensor-weight"),
    (plant_quantized_bias, "tensorrt", "quantized-bias"),
    (plant_quantized_decode, "openvino", "quantized-decode"),
    (plant_zero_point, "tensorrt", "zero-point"),
    (plant_signed, "openvino", "signed-activation"),
]


@pytest.mark.parametrize(("plant", "target", "kind"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_what_is_planted_is_found_and_mended(files, plant, target, kind):
    model = onnx.load(str(files[target]))
    before = answer(model) if kind == "needless-pair" else None
    plant(model)
    assert kind in kinds(model, target)
    mended, done = repair(model, get_target(target))
    onnx.checker.check_model(mended)
    fixable = {"needless-pair", "before-activation", "inside-activation", "quantized-bias", "quantized-decode"}
    assert (kind in {finding.kind for finding in done}) == (kind in fixable)
    assert (kind in kinds(mended, target)) == (kind not in fixable)
    if before is not None:
        np.testing.assert_array_equal(answer(mended), before)
        assert len(mended.graph.node) == len(onnx.load(str(files[target])).graph.node)


def test_second_pairs_behind_a_concat_are_needless_for_openvino_only(tmp_path):
    detector = quantized_detector(get_target("openvino"), float_outputs=False)
    calibrate(detector, [images(4)])
    paths = tmp_path / "every.onnx", tmp_path / "fewer.onnx"
    export_onnx(detector, paths[0])
    export_onnx(detector, paths[1], target="openvino")
    every, fewer = (onnx.load(str(path)) for path in paths)
    assert kinds(every, "openvino") == {"needless-pair"}
    assert "needless-pair" not in kinds(every, "onnxruntime") | kinds(fewer, "openvino")
    mended, _ = repair(every, get_target("openvino"))
    assert len(mended.graph.node) == len(fewer.graph.node)
    np.testing.assert_array_equal(answer(mended), answer(every))


def test_a_concat_whose_scales_differ_is_found(files):
    model = onnx.load(str(files["whole"]))
    assert kinds(model, "tensorrt") == set()
    plant_mismatched_scales(model)
    assert kinds(model, "tensorrt") == {"mismatched-scales"}


def test_a_float_output_makes_a_float_convolution_in_onnxruntime_only(files):
    model = onnx.load(str(files["openvino"]))
    assert "output-not-quantized" in kinds(model, "onnxruntime")
    assert "output-not-quantized" not in kinds(model, "openvino")


def test_the_runtimes_own_quantizer_quantizes_the_decode(tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"images": images(1).numpy().astype(np.float32) / 255}])

        def get_next(self):
            return next(self.batches, None)

    from yoloquant.checkpoint.from_module import from_module

    detector = from_module(
        SmallNetwork().eval(),
        quantized_detector(get_target("reference")).head,
        names=("a", "b", "c", "d"),
        strides=(4, 8),
        input_size=SIZE,
    )
    export_onnx(detector, tmp_path / "float.onnx")
    quantize_static(str(tmp_path / "float.onnx"), str(tmp_path / "ort.onnx"), Reader(), QuantFormat.QDQ)
    found = kinds(onnx.load(str(tmp_path / "ort.onnx")), "tensorrt")
    # Per tensor, with zero points, biases and decode quantized: what its defaults are known for.
    assert {"per-tensor-weight", "zero-point", "quantized-decode", "quantized-bias", "inside-activation"} <= found
    # Its default activations are signed, for which ONNX Runtime itself has no integer convolutions on x86.
    checked = check_graph(QdqGraph(onnx.load(str(tmp_path / "ort.onnx"))), get_target("onnxruntime"))
    assert "signed-values" in {finding.kind for finding in checked.findings}
    if platform.machine() in ("x86_64", "AMD64"):
        executed = executed_layers(tmp_path / "ort.onnx", "onnxruntime")
        assert (len(executed.integer), len(executed.floating)) == (
            checked.integer_layers,
            checked.layers - checked.integer_layers,
        )


def test_costs_are_estimated(files):
    result = check_graph(QdqGraph(onnx.load(str(files["openvino"]))), get_target("onnxruntime"))
    in_float = sum(finding.work for finding in result.findings)
    assert in_float == pytest.approx(1.0 - result.integer_work)
    model = onnx.load(str(files["openvino"]))
    plant_rescaling(model)
    (finding,) = [f for f in check_graph(QdqGraph(model), get_target("openvino")).findings if f.kind == "rescaling"]
    # The second layer reads 8 channels of 32 x 48.
    assert finding.values == 8 * 32 * 48


def test_multiplications_are_those_of_the_shapes(files):
    graph = QdqGraph(onnx.load(str(files["openvino"])))
    assert graph.multiplications(graph.weighted()[0]) == 32 * 48 * 8 * 3 * 9


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_layers_in_float_on_purpose_are_notes(files, target):
    command = ["check", str(files[target]), "--target", target]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, [*command, "--fail-on", "note"]).exit_code == int(target != "openvino")


@pytest.mark.parametrize(("fail_on", "code"), [("note", 1), ("warning", 1), ("error", 0), ("never", 0)])
def test_what_costs_speed_is_a_warning(files, tmp_path, fail_on, code):
    model = onnx.load(str(files["openvino"]))
    plant_rescaling(model)
    onnx.save(model, str(tmp_path / "planted.onnx"))
    command = ["check", str(tmp_path / "planted.onnx"), "--target", "openvino", "--fail-on", fail_on]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == code
    assert "warning rescaling" in answer.output


def test_a_float_file_is_told_to_be_one(tmp_path):
    file = tmp_path / "float.onnx"
    torch.onnx.export(SmallNetwork(), (torch.zeros(1, 3, *SIZE),), str(file), dynamo=True, verbose=False)
    answer = CliRunner().invoke(app, ["check", str(file)])
    assert answer.exit_code == 1
    assert "not-quantized" in answer.output
    assert answer.output.count("float-layer") == 0


def test_command_line(files, tmp_path):
    model = onnx.load(str(files["tensorrt"]))
    plant_quantized_bias(model)
    onnx.save(model, str(tmp_path / "planted.onnx"))
    result = CliRunner().invoke(
        app, ["check", str(tmp_path / "planted.onnx"), "--target", "tensorrt", "--fix", str(tmp_path / "fixed.onnx")]
    )
    assert result.exit_code == 1
    assert "error quantized-bias" in result.output
    assert "4 of 6 layers in integers" in result.output
    assert "quantized-bias" not in kinds(onnx.load(str(tmp_path / "fixed.onnx")), "tensorrt")
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
