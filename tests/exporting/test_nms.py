"""Suppression inside of a file against the project's own, through ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from typer.testing import CliRunner

from small_networks import images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.assets import demo_weights
from yoloquant.cli import app
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.errors import ExportError
from yoloquant.evaluation.postprocess import detections_of
from yoloquant.exporting.nms import PLUGIN_OUTPUTS, NmsOptions, add_nms
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.flows.options import Measure, Output
from yoloquant.flows.quantize import quantize
from yoloquant.models.onnx.metadata import ModelMetadata
from yoloquant.runtime.registry import open_onnx
from yoloquant.targets.registry import get_target

CLASSES, ANCHORS = 3, 60
SHAPES = {"rows_objectness": (ANCHORS, 5 + CLASSES), "columns_classes": (4 + CLASSES, ANCHORS)}


def identity_model(layout):
    """A file that answers with its input, as if it were decoded boxes."""
    shape = ["N", *SHAPES[layout]]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["output"])], "identity", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    metadata = ModelMetadata(tuple("abc"), (8,), (64, 64), "yolov5", layout)
    helper.set_model_props(model, metadata.to_properties())
    return model


def decoded(layout, seed, count=2):
    """Random boxes that overlap much; scores without ties."""
    generator = np.random.default_rng(seed)
    rows = np.zeros((count, ANCHORS, 5 + CLASSES), np.float32)
    rows[..., :2] = generator.uniform(10, 40, (count, ANCHORS, 2))
    rows[..., 2:4] = generator.uniform(5, 30, (count, ANCHORS, 2))
    rows[..., 4] = generator.uniform(0.3, 1, (count, ANCHORS))
    rows[..., 5:] = generator.permutation(count * ANCHORS * CLASSES).reshape(count, ANCHORS, CLASSES) / (
        count * ANCHORS * CLASSES
    )
    rows = rows.astype(np.float32)
    return rows if layout == "rows_objectness" else np.delete(rows, 4, 2).transpose(0, 2, 1).copy()


def answer(model, values):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": values})[0]


@settings(deadline=None, max_examples=12)
@given(
    layout=st.sampled_from(list(SHAPES)),
    agnostic=st.booleans(),
    seed=st.integers(0, 1000),
    most=st.sampled_from([1, 4, 40, 300]),
    iou=st.sampled_from([0.2, 0.45, 0.9]),
    confidence=st.sampled_from([0.0, 0.25, 0.999]),
)
def test_detections_are_those_of_our_own_suppression(layout, agnostic, seed, most, iou, confidence):
    values = decoded(layout, seed)
    options = NmsOptions(confidence=confidence, iou=iou, max_detections=most, class_agnostic=agnostic)
    found = answer(add_nms(identity_model(layout), options), values)
    assert found.shape == (2, most, 6)
    expected = detections_of(values, layout, confidence, iou, most, class_agnostic=agnostic, multi_label=not agnostic)
    for rows, wanted in zip(found, expected, strict=True):
        count = len(wanted)
        assert not rows[count:].any()
        np.testing.assert_allclose(rows[:count, 4], wanted.scores, rtol=1e-5)
        np.testing.assert_allclose(rows[:count, :4], wanted.boxes, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(rows[:count, 5], wanted.classes)


def test_tensorrt_gets_its_plugin():
    model = add_nms(identity_model("rows_objectness"), NmsOptions(max_detections=50, class_agnostic=True), tensorrt=True)
    onnx.checker.check_model(model)
    (node,) = [node for node in model.graph.node if node.op_type == "EfficientNMS_TRT"]
    facts = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert (facts["max_output_boxes"], facts["box_coding"], facts["class_agnostic"], facts["background_class"]) == (50, 0, 1, -1)
    assert facts["score_threshold"] == pytest.approx(0.25)
    assert tuple(output.name for output in model.graph.output) == PLUGIN_OUTPUTS
    # What the plugin gets is boxes as corners and one row of scores for each box.
    nodes = [other for other in model.graph.node if other.op_type != "EfficientNMS_TRT"]
    cut = helper.make_graph(nodes, "cut", model.graph.input, [helper.make_empty_tensor_value_info(n) for n in node.input])
    cut.initializer.extend(model.graph.initializer)
    session = onnxruntime.InferenceSession(
        helper.make_model(cut, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
    values = decoded("rows_objectness", 3)
    boxes, scores = session.run(None, {"images": values})
    np.testing.assert_allclose(boxes[..., 2:] - boxes[..., :2], values[..., 2:4], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores, values[..., 5:] * values[..., 4:5], rtol=1e-6)


def test_only_decoded_files_get_it():
    model = add_nms(identity_model("rows_objectness"), NmsOptions())
    with pytest.raises(ExportError, match="final already"):
        add_nms(model, NmsOptions())
    del model.metadata_props[:]
    with pytest.raises(ExportError, match="yoloquant exported"):
        add_nms(model, NmsOptions())


def test_exported_file_runs_as_final_detections(tmp_path):
    detector = quantized_detector(get_target("onnxruntime"))
    calibrate(detector, [images(4)])
    export_onnx(detector, tmp_path / "plain.onnx", target="onnxruntime")
    model = add_nms(onnx.load(str(tmp_path / "plain.onnx")), NmsOptions(confidence=0.2))
    onnx.save(model, str(tmp_path / "nms.onnx"))
    x = images(2).numpy().astype(np.float32) / 255
    runners = [open_onnx(tmp_path / name) for name in ("plain.onnx", "nms.onnx")]
    plain, final = (detections_of(runner(x), runner.layout, 0.2, 0.45) for runner in runners)
    assert runners[1].layout == "rows_final"
    for wanted, found in zip(plain, final, strict=True):
        assert len(wanted) > 0
        np.testing.assert_allclose(np.sort(found.scores), np.sort(wanted.scores), rtol=1e-5)


@pytest.mark.slow
def test_quantize_puts_it_into_the_finished_file(tmp_path):
    data = write_generated_dataset(tmp_path / "set", train=4, val=1)
    measure, output = Measure(evaluate=False, runtimes=("onnxruntime",)), Output(tmp_path / "out", NmsOptions(max_detections=7))
    result = quantize(demo_weights(), data, recipe="int8-minmax", target="onnxruntime", measure=measure, output=output)
    assert all(parity.agrees for parity in result.parity)
    runner = open_onnx(tmp_path / "out" / "model.onnx")
    assert runner.layout == "rows_final"
    assert runner(np.zeros((1, 3, *runner.input_size), np.float32)).shape == (1, 7, 6)


def test_command_line(tmp_path, shared):
    arguments = ["export", str(shared / "checkpoints" / "yolov8n_w12.pt"), "--output", str(tmp_path / "model.onnx")]
    result = CliRunner().invoke(app, [*arguments, "--image-size", "64", "--nms", "--nms-max", "20", "--nms-confidence", "0.0"])
    assert result.exit_code == 0, result.output
    runner = open_onnx(tmp_path / "model.onnx")
    assert runner.layout == "rows_final"
    assert runner(np.zeros((1, 3, 64, 64), np.float32)).shape == (1, 20, 6)
