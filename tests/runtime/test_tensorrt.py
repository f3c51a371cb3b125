"""TensorRT where it is absent: calibration cache, command, what a user is told, and the runner on an imitated interface."""

import ctypes
import importlib.metadata
import struct
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from small_networks import images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.cli import app
from yoloquant.errors import ExportError, YoloquantError
from yoloquant.evaluation.parity import signal_to_noise
from yoloquant.exporting.calibration_cache import write_calibration_cache
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.exporting.tensorrt_command import commands_by_version, installed_major, trtexec_command
from yoloquant.runtime import tensorrt_runner
from yoloquant.runtime.registry import open_onnx
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


class FakeTensorRT:
    """As much of TensorRT's Python interface as the runner uses, computing with ONNX Runtime on the addresses it is given."""

    float32, int32 = np.float32, np.int32

    class Logger:
        ERROR = 0

        def __init__(self, severity):
            pass

    class TensorIOMode:
        INPUT, OUTPUT = "in", "out"

    class BuilderFlag:
        INT8, TF32 = "int8", "tf32"

    class ProfilingVerbosity:
        DETAILED = "detailed"

    class NetworkDefinitionCreationFlag:
        EXPLICIT_BATCH = 0

    def __init__(self):
        self.flags, self.profile, self.model = set(), None, b""

    def init_libnvinfer_plugins(self, logger, namespace):
        return True

    def nptype(self, dtype):
        return dtype

    def Builder(self, logger):
        config = SimpleNamespace(
            set_flag=self.flags.add, clear_flag=self.flags.discard, add_optimization_profile=lambda profile: None
        )

        def set_shape(name, *shapes):
            self.profile = (name, *shapes)

        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(
                get_input=lambda index: SimpleNamespace(name="images", shape=(-1, 3, 64, 96))
            ),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=set_shape),
            build_serialized_network=lambda network, config: self.model,
        )

    def OnnxParser(self, network, logger):
        def parse(model):
            self.model = model
            return model != b"broken"

        return SimpleNamespace(parse=parse, get_error=lambda index: SimpleNamespace(desc=lambda: "no such operator"))

    def Runtime(self, logger):
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: FakeEngine(plan))


class FakeEngine:
    def __init__(self, plan):
        self.session = onnxruntime.InferenceSession(plan)
        self.names = ["images", "output"]
        self.num_io_tensors, self.addresses, self.shape = 2, {}, None

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return "in" if name == "images" else "out"

    def get_tensor_dtype(self, name):
        return np.float32

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        self.shape = shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def get_tensor_shape(self, name):
        if self.shape is None:
            return (-1, 3, 64, 96)
        return self.shape if name == "images" else (self.shape[0], 480, 9)

    def execute_async_v3(self, stream):
        values = {name: self._array(name) for name in self.names}
        values["output"][...] = self.session.run(None, {"images": values["images"]})[0]
        return True

    def _array(self, name):
        shape = self.get_tensor_shape(name)
        pointer = ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, shape)


@pytest.fixture
def fake(monkeypatch):
    """TensorRT's interface without a GPU."""
    module = FakeTensorRT()
    stream = SimpleNamespace(cuda_stream=0, wait_stream=lambda other: None, synchronize=lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(tensorrt_runner, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    return module


def test_version_11_has_no_flags_of_precision(quantized, tmp_path, monkeypatch):
    _, path = quantized
    command = trtexec_command(path, major=11)
    assert f"--onnx={path} --saveEngine={path.with_suffix('.engine')} --minShapes" in command
    assert not {"--int8", "--fp16", "--calib", "--stronglyTyped"} & set(command.replace("=", " ").split())
    with pytest.raises(ExportError, match="takes no calibration cache"):
        trtexec_command(path, tmp_path / "c.cache", major=11)
    assert trtexec_command(path, major=8) == trtexec_command(path)


@pytest.mark.parametrize(
    ("version", "told"), [("8.6.1", ["TensorRT 8"]), ("11.0.0.1", ["TensorRT 11"]), (None, ["TensorRT 8.6 to 10", "TensorRT 11"])]
)
def test_the_command_is_that_of_the_installed_version(quantized, version, told, monkeypatch):
    def find(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", find)
    commands = commands_by_version(quantized[1])
    assert list(commands) == told
    assert ["--int8" in command for command in commands.values()] == ["11" not in name for name in told]


def test_without_a_version_a_cache_has_the_old_command_only(quantized, tmp_path):
    if installed_major() is not None:
        pytest.skip("tensorrt is there")
    assert list(commands_by_version(quantized[1], tmp_path / "c.cache")) == ["TensorRT 8.6 to 10"]


def test_the_runner_needs_no_flag_that_version_11_took_away(fake, quantized, monkeypatch):
    monkeypatch.delattr(FakeTensorRT.BuilderFlag, "INT8")
    runner = tensorrt_runner.TensorRtRunner(quantized[1])
    assert fake.flags == set()
    x = images(2).numpy().astype(np.float32) / 255
    np.testing.assert_array_equal(runner(x), open_onnx(quantized[1])(x))


def test_the_runner_uses_the_interface_as_documented(fake, quantized):
    _, path = quantized
    runner = tensorrt_runner.TensorRtRunner(path)
    assert runner.batch_size is None
    assert fake.flags == {"int8"}
    assert fake.profile == ("images", (1, 3, 64, 96), (1, 3, 64, 96), (32, 3, 64, 96))
    x = images(2).numpy().astype(np.float32) / 255
    np.testing.assert_array_equal(runner(x), open_onnx(path)(x))
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner(x)


def test_what_tensorrt_cannot_read_is_told(fake):
    with pytest.raises(YoloquantError, match="no such operator"):
        tensorrt_runner.TensorRtRunner(b"broken")
