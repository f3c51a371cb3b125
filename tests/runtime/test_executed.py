"""What the runtimes execute is what the placement quantized."""

import pytest
from typer.testing import CliRunner

from small_networks import images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.cli import app
from yoloquant.errors import YoloquantError
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.runtime.executed_layers import executed_layers
from yoloquant.runtime.profile import layer_times
from yoloquant.targets.registry import get_target


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for target in ("onnxruntime", "openvino"):
        detector = quantized_detector(get_target(target))
        calibrate(detector, [images(4)])
        export_onnx(detector, folder / f"{target}.onnx", target=target)
    return folder


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_all_that_is_placed_runs_in_integers(files, runtime):
    pytest.importorskip(runtime)
    executed = executed_layers(files / f"{runtime}.onnx", runtime)
    # For ONNX Runtime the two output layers stay in float, and the one that reads the image.
    assert (len(executed.integer), len(executed.floating)) == ((3, 3) if runtime == "onnxruntime" else (6, 0))


def test_a_file_for_openvino_runs_in_float_in_onnxruntime(files):
    executed = executed_layers(files / "openvino.onnx", "onnxruntime")
    assert len(executed.integer) < 4


def test_unknown_runtimes_are_refused(files):
    with pytest.raises(YoloquantError, match="does not report"):
        executed_layers(files / "openvino.onnx", "torch")


@pytest.mark.parametrize(("runtime", "kernel"), [("onnxruntime", "QLinearConv"), ("openvino", "I8")])
def test_the_profile_names_the_integer_layers(files, runtime, kernel):
    pytest.importorskip(runtime)
    layers = layer_times(files / f"{runtime}.onnx", runtime, runs=2, threads=1)
    assert [layer.milliseconds for layer in layers] == sorted((layer.milliseconds for layer in layers), reverse=True)
    convolutions = [layer for layer in layers if kernel in layer.kind and "onv" in layer.kind]
    assert len(convolutions) == (3 if runtime == "onnxruntime" else 6)
    assert any(layer.name.startswith("down.conv") for layer in convolutions)


def test_unknown_runtimes_do_not_tell_times(files):
    with pytest.raises(YoloquantError, match="does not report what its layers cost"):
        layer_times(files / "openvino.onnx", "torch")


def test_bench_command(files):
    paths = [str(files / "onnxruntime.onnx"), str(files / "openvino.onnx")]
    result = CliRunner().invoke(
        app, ["bench", *paths, "--runtime", "onnxruntime", "--runs", "3", "--threads", "1", "--layers", "20"]
    )
    assert result.exit_code == 0, result.output
    assert "3 of 6" in result.output
    assert "1.00" in result.output
    assert "QLinearConv" in result.output
