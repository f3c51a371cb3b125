"""TensorRT where it is absent: the calibration cache, the command, and what a user is told."""

import struct
import sys

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from small_networks import images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.cli import app
from yoloquant.errors import ExportError, YoloquantError
from yoloquant.evaluate.parity import signal_to_noise
from yoloquant.export.calibration_cache import write_calibration_cache
from yoloquant.export.onnx_file import export_onnx
from yoloquant.export.tensorrt_command import trtexec_command
from yoloquant.runtime.loading import open_onnx
from yoloquant.runtime.tensorrt_runner import detections_of_plugin
from yoloquant.targets.registry import get_target


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    detector = quantized_detector(get_target("tensorrt"))
    calibrate(detector, [images(4)])
    path = tmp_path_factory.mktemp("files") / "model.onnx"
    export_onnx(detector, path, target="tensorrt")
    return detector, path


def test_the_cache_holds_every_scale_at_a_tensor_of_the_float_file(quantized, tmp_path):
    detector, path = quantized
    count = write_calibration_cache(path, tmp_path / "float.onnx", tmp_path / "calibration.cache")
    header, *lines = (tmp_path / "calibration.cache").read_text().splitlines()
    assert header.startswith("TRT-")
    found = {name: struct.unpack("!f", bytes.fromhex(value))[0] for name, value in (line.split(": ") for line in lines)}
    scales = {float(quantizer.scale) for name, quantizer in detector.quantizers() if not name.endswith("weight_quantizer")}
    assert set(found.values()) == scales
    assert len(found) == count
    model = onnx.load(str(tmp_path / "float.onnx"))
    values = {name for node in model.graph.node for name in node.output} | {model.graph.input[0].name}
    assert set(found) <= values
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}
    x = images(1).numpy().astype(np.float32) / 255
    # What is left of quantization are the rounded weights.
    assert signal_to_noise(open_onnx(path)(x), open_onnx(tmp_path / "float.onnx")(x)) > 20


def test_zero_points_do_not_fit_into_a_cache(tmp_path):
    detector = quantized_detector(get_target("openvino"))
    calibrate(detector, [images(4)])
    export_onnx(detector, tmp_path / "model.onnx", target="openvino")
    with pytest.raises(ExportError, match="zero point"):
        write_calibration_cache(tmp_path / "model.onnx", tmp_path / "float.onnx", tmp_path / "calibration.cache")
    assert not (tmp_path / "float.onnx").exists()


def test_the_command_names_the_shapes_of_a_free_batch(quantized, tmp_path):
    _, path = quantized
    command = trtexec_command(path, batch_size=8)
    assert f"--onnx={path} --saveEngine={path.with_suffix('.engine')} --int8 --fp16" in command
    assert "--minShapes=images:1x3x64x96 --optShapes=images:8x3x64x96 --maxShapes=images:8x3x64x96" in command
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    command = trtexec_command(tmp_path / "fixed.onnx", tmp_path / "c.cache")
    assert "Shapes" not in command
    assert f"--calib={tmp_path / 'c.cache'}" in command


def test_plugin_outputs_become_rows():
    generator = np.random.default_rng(0)
    outputs = {
        "num_dets": np.array([[2], [0]], np.int32),
        "det_boxes": generator.random((2, 3, 4), np.float32),
        "det_scores": generator.random((2, 3), np.float32),
        "det_classes": np.array([[5, 1, -1], [-1, -1, -1]], np.int32),
    }
    rows = detections_of_plugin(outputs)
    assert rows.shape == (2, 3, 6)
    np.testing.assert_array_equal(rows[0, :2, 5], [5, 1])
    np.testing.assert_array_equal(rows[0, :2, :4], outputs["det_boxes"][0, :2])
    assert not rows[0, 2].any()
    assert not rows[1].any()


def test_absence_is_told(quantized, monkeypatch):
    if "tensorrt" in sys.modules:
        pytest.skip("tensorrt is there")
    with pytest.raises(YoloquantError, match=r"tensorrt is not installed|needs an NVIDIA GPU"):
        open_onnx(quantized[1], "tensorrt")


def test_export_command_writes_the_cache(tmp_path, shared):
    # A float checkpoint has no scales: the sentence says what to do.
    arguments = ["export", str(shared / "checkpoints" / "yolov8n_w12.pt"), "--output", str(tmp_path / "model.onnx")]
    result = CliRunner().invoke(app, [*arguments, "--image-size", "64", "--calibration-cache", str(tmp_path / "c.cache")])
    assert isinstance(result.exception, ExportError)
    assert "--target tensorrt" in str(result.exception)
