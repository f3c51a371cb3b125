"""The whole flow on the shipped detector and a small generated set, and on official files."""

import json

import numpy as np
import pytest

from yoloquant.assets import demo_weights
from yoloquant.checkpoint.read import read_detector
from yoloquant.data.dataset import load_dataset
from yoloquant.data.generated import write_generated_dataset
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluate.evaluator import EvaluationSettings, evaluate
from yoloquant.export.quantized_folder import load_quantized
from yoloquant.loading import open_model
from yoloquant.pipeline import quantize
from yoloquant.runtime.torch_runner import TorchRunner


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_generated_dataset(tmp_path_factory.mktemp("set"), train=16, val=32)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("quantized") / "out"
    return quantize(demo_weights(), data, target="onnxruntime", output=output, runtimes=("onnxruntime",))


def test_the_table_compares_float_and_int8_in_each_runtime(finished):
    assert [(row.model, row.runtime) for row in finished.rows] == [
        ("float", "torch"), ("int8", "torch"), ("float", "onnxruntime"), ("int8", "onnxruntime"),
    ]  # fmt: skip
    scores = {(row.model, row.runtime): row.evaluation.map50_95 for row in finished.rows}
    assert scores["float", "torch"] == pytest.approx(scores["float", "onnxruntime"], abs=0.05)
    assert scores["int8", "torch"] == pytest.approx(scores["int8", "onnxruntime"], abs=0.5)
    assert scores["int8", "torch"] > scores["float", "torch"] - 3
    sizes = {row.model: row.file_size for row in finished.rows if row.file_size}
    assert sizes["int8"] < sizes["float"] / 2.5


def test_the_folder_holds_what_is_promised(finished):
    folder = finished.output
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.json", "model.onnx", "quantized.safetensors", "recipe.yaml", "report.html",
    ]  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["rows"][1]["evaluation"]["figures"]["mAP50-95"] == pytest.approx(finished.rows[1].evaluation.map50_95)
    assert metrics["calibration_images"] == 16
    page = (folder / "report.html").read_text()
    assert "onnxruntime" in page
    assert "model.9.cv1.conv.weight_quantizer" in page
    assert "http" not in page
    # Nothing is left beside the folder.
    assert list(folder.parent.iterdir()) == [folder]


def test_the_folder_answers_as_before(finished):
    images = np.random.default_rng(0).random((2, 3, 192, 192), dtype=np.float32)
    again = TorchRunner(load_quantized(finished.output))(images)
    np.testing.assert_array_equal(again, TorchRunner(finished.detector)(images))


def test_a_folder_is_evaluated_like_any_model(finished, data):
    dataset = load_dataset(data)
    answer = evaluate(open_model(finished.output), dataset, EvaluationSettings())
    assert answer.map50_95 == pytest.approx(finished.row("int8", "onnxruntime").evaluation.map50_95)


def test_float_layers_and_low_bits_by_recipe(data):
    result = quantize(
        demo_weights(),
        data,
        target="reference",
        overrides=("weights.bits=4", "ignore=['model.24.*']", "algorithms=[calibrate]"),
        measure=False,
        runtimes=(),
    )
    specs = {name: quantizer.spec for name, quantizer in result.detector.quantizers()}
    assert specs["model.0.conv.weight_quantizer"].bits == 4
    assert not any(name.startswith("model.24") for name in specs)
    assert result.quantized_layers == result.layer_count - 3


def test_what_cannot_be_done_is_told_before_anything_is_written(data, tmp_path):
    with pytest.raises(DataError, match="calibration needs images"):
        quantize(demo_weights())
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(YoloquantError, match="holds other files"):
        quantize(demo_weights(), data, output=tmp_path)
    with pytest.raises(YoloquantError, match="is a file"):
        quantize(demo_weights(), data, output=tmp_path / "thesis.txt")
    with pytest.raises(YoloquantError, match="not a multiple of the network's stride"):
        quantize(demo_weights(), data, output=tmp_path / "out", input_size=200)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_official_yolov5_is_quantized_and_right_in_onnx_runtime(shared, tmp_path):
    result = quantize(
        shared / "checkpoints" / "yolov5n_v60_custom2.pt",
        calibration=shared / "coco" / "train2017.txt",
        overrides=("calibration.images=8",),
        output=tmp_path / "out",
        measure=False,
        input_size=320,
    )
    assert {parity.runtime for parity in result.parity} >= {"onnxruntime"}
    assert all(parity.agrees for parity in result.parity)
    assert open_model(tmp_path / "out").names == ("helmet", "vest")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "recipe", "drop"), [("onnxruntime", "int8", 0.3), ("openvino", "int8", 0.3), ("tensorrt", "int8", 0.8)]
)
def test_mean_average_precision_on_all_photographs(shared, target, recipe, drop):
    result = quantize(shared / "weights" / "yolov5n.pt", shared / "coco" / "data.yaml", target=target, recipe=recipe)
    in_float = result.row("float", "torch").evaluation.map50_95
    in_torch = result.row("int8", "torch").evaluation.map50_95
    assert in_float - in_torch <= drop
    assert result.row("int8", "onnxruntime").evaluation.map50_95 == pytest.approx(in_torch, abs=0.1)


def test_demo_weights_are_small_and_known():
    assert demo_weights().stat().st_size < 5_000_000
    assert read_detector(demo_weights()).names[0] == "circle"
