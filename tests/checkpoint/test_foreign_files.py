"""Files of other exporters, and odd ones: read right, or refused with one sentence by every command alike."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from foreign_files import ODD_FILES, write_foreign, write_half, write_odd, write_without_weights
from small_families import SMALL_FAMILIES, small_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.checkpoint.onnx_checks import load_onnx
from yoloquant.checkpoint.onnx_metadata import foreign_facts
from yoloquant.checkpoint.output_axes import read_axes, strides_of
from yoloquant.checkpoint.read import read_detector
from yoloquant.cli import app
from yoloquant.data.images import to_input
from yoloquant.data.loader import ImageLoader
from yoloquant.data.sample import calibration_images
from yoloquant.data.synthetic import generate_image, write_generated_dataset
from yoloquant.errors import CheckpointError, YoloquantError
from yoloquant.evaluation.parity import check_parity
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.flows.options import Measure
from yoloquant.flows.quantize import quantize
from yoloquant.graph.capture import capture
from yoloquant.models.registry import build_detector
from yoloquant.quant.quantized_detector import quantized_from
from yoloquant.runtime.open import load, open_runner
from yoloquant.targets.registry import TARGETS, get_target

SIDE = 64


def drawn(count, side=SIDE):
    images = [generate_image(3, index, side).image for index in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with files of the same small detector: of one size, of free sizes, in half precision, and a data set."""
    place = tmp_path_factory.mktemp("place")
    write_foreign(place / "fixed.onnx", small_detector("yolov8n"), (SIDE, SIDE))
    write_foreign(place / "dynamic.onnx", small_detector("yolov8n"), (SIDE, SIDE), dynamic=True)
    write_half(place / "half.onnx", place / "fixed.onnx")
    write_generated_dataset(place / "set", train=4, val=2)
    return place


def runtime_output(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})[0]


# Families whose files compute shapes at run time in different ways; the others run where time does not matter.
QUICK = ("yolov8n", "yolo11n", "yolov10n")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SMALL_FAMILIES if name != "yolox"],
)
def test_files_of_free_sizes_are_captured_and_give_the_runtimes_output_at_every_size(name, tmp_path):
    source = small_detector(name)
    path = write_foreign(tmp_path / "float.onnx", source, (SIDE, SIDE), dynamic=True)
    detector = read_detector(path)
    assert (detector.names, detector.input_size) == (source.names, (SIDE, SIDE))
    assert (detector.head.layout, detector.head.free_size) == (source.head.layout, True)
    captured = capture(detector.network, (SIDE, SIDE), max(detector.strides))
    for size in ((SIDE, SIDE), (96, 128)):
        images = to_input(drawn(2, 128)[:, :, : size[0], : size[1]]).contiguous()
        expected = runtime_output(path, images)
        with torch.no_grad():
            for network in (detector.network, captured):
                found = detector.head(list(network(images))).numpy()
                assert found.shape == expected.shape
                close = np.isclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
                # Final detections of nearly equal scores may change places.
                assert close.mean() > (0.98 if detector.head.layout == "rows_final" else 0.99999)


def test_a_file_of_free_sizes_is_quantized_at_the_size_asked_for(place, tmp_path):
    options = {"recipe": "int8-minmax", "measure": Measure(evaluate=False, runtimes=("onnxruntime",)), "report": None}
    detector = load(place / "dynamic.onnx", input_size=96)
    quantize(detector, place / "set" / "data.yaml", output=tmp_path / "out", **options)
    runner = open_runner(tmp_path / "out")
    assert runner.input_size == (96, 96)
    images = to_input(drawn(1, 96)).contiguous()
    expected = runtime_output(place / "dynamic.onnx", images)
    found = runner(images.numpy())
    assert found.shape == expected.shape
    noise = np.square(found - expected).sum() / np.square(expected - expected.mean()).sum()
    assert noise < 0.05


def test_half_precision_inside_is_computed_in_full(place, tmp_path):
    detector = read_detector(place / "half.onnx")
    images = to_input(drawn(2)).contiguous()
    expected = np.concatenate([runtime_output(place / "half.onnx", images[index : index + 1]) for index in range(2)])
    with torch.no_grad():
        found = detector(images).numpy()
    # Boxes of 16 bits are half a pixel wide at most.
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.5)
    captured = capture(detector.network, (SIDE, SIDE))
    quantized = quantized_from(detector, get_target("onnxruntime").place(captured), captured)
    calibrate(quantized, [drawn(4)])
    export_onnx(quantized, tmp_path / "int8.onnx", target="onnxruntime")
    (parity,) = check_parity(quantized, tmp_path / "int8.onnx", images.numpy(), ["onnxruntime"])
    assert parity.agrees, parity
    # The runtime's own half precision is read, too, by what only runs files.
    np.testing.assert_allclose(open_runner(place / "half.onnx")(images[:1].numpy()), expected[:1])


@pytest.mark.parametrize(("side", "classes"), [(32, 80), (64, 80), (64, 1203)])
def test_files_with_fewer_boxes_than_values_are_read_by_their_names(side, classes, tmp_path):
    names = tuple(f"thing {index}" for index in range(classes))
    source = build_detector("yolov8n", names, side, seed=0, width=0.125, depth=0.2)
    path = write_foreign(tmp_path / "float.onnx", source, (side, side))
    detector = read_detector(path)
    assert (detector.names, detector.head.layout, detector.strides) == (names, "columns_classes", (8, 16, 32))
    images = to_input(drawn(1, side)).contiguous()
    with torch.no_grad():
        np.testing.assert_allclose(detector(images).numpy(), runtime_output(path, images), rtol=1e-3, atol=1e-2)
    assert open_runner(path).layout == "columns_classes"


def written(name, place):
    path = place / f"{name}.onnx"
    if not path.is_file():
        (write_without_weights(path, place / "fixed.onnx") if name == "lost" else write_odd(path, place / "fixed.onnx", name))
    return path


SENTENCES = {**{name: words for name, (_, words) in ODD_FILES.items()}, "lost": "lost.data, which cannot be read"}
COMMANDS = {
    "quantize": "quantize {file} --data set/data.yaml --output new",
    "eval": "eval {file} --data set/data.yaml --predictions new.json",
    "eval in torch": "eval {file} --data set/data.yaml --runtime torch",
    "eval in openvino": "eval {file} --data set/data.yaml --runtime openvino",
    "eval as told": "eval {file} --data set/data.yaml --images rgb",
    "predict": "predict {file} set/images/val --output new",
    "bench": "bench {file} --runtime onnxruntime --runs 1",
    "check": "check {file} --fix new.onnx",
    "inspect": "inspect {file}",
    "export": "export {file} --output new.onnx",
    "analyze": "analyze {file} --data set/data.yaml --output new",
    "search": "search {file} --data set/data.yaml --max-drop 1 --output new.yaml",
    "train": "train {file} --data set/data.yaml --output new",
}
# What reads no output of the file does not tell its classes.
SILENT = {("check", "masks"), ("check", "other-names")}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", SENTENCES)
def test_every_command_refuses_odd_files_with_the_same_sentence(name, command, place, monkeypatch):
    monkeypatch.chdir(place)
    path = written(name, place)
    before = set(place.rglob("*"))
    answer = CliRunner().invoke(app, COMMANDS[command].format(file=path.name).split())
    if (command, name) in SILENT:
        assert answer.exit_code in (0, 1)
        (place / "new.onnx").unlink()
        return
    assert isinstance(answer.exception, YoloquantError), answer.exception
    sentence = str(answer.exception)
    assert SENTENCES[name] in sentence
    assert path.name in sentence
    assert "\n" not in sentence
    assert set(place.rglob("*")) == before


@pytest.mark.parametrize(
    "command",
    [
        "quantize fixed.onnx --data set/data.yaml --image-size 128 --output new",
        "export fixed.onnx --image-size 128 --output new.onnx",
        "eval fixed.onnx --data set/data.yaml --image-size 128",
        "eval fixed.onnx --data set/data.yaml --rectangular",
        "eval fixed.onnx --data set/data.yaml --runtime torch --image-size 128",
        "eval fixed.onnx --data set/data.yaml --runtime torch --rectangular",
        "eval fixed.onnx --data set/data.yaml --runtime openvino --rectangular",
        "train fixed.onnx --data set/data.yaml --image-size 128 --output new",
    ],
)
def test_files_of_one_size_say_so_before_anything_runs(command, place, monkeypatch):
    monkeypatch.chdir(place)
    before = set(place.rglob("*"))
    answer = CliRunner().invoke(app, command.split())
    assert isinstance(answer.exception, YoloquantError), answer.exception
    assert "64x64" in str(answer.exception)
    assert "alone" in str(answer.exception)
    assert not any(step in answer.output for step in ("Calibrate", "Evaluate", "Train"))
    assert set(place.rglob("*")) == before


LEVELS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))


@given(
    classes=st.integers(1, 1300),
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    strides=st.sampled_from(LEVELS),
    anchors=st.sampled_from([1, 3]),
    first=st.booleans(),
)
def test_axes_are_told_by_names_however_long_they_are(classes, rows, columns, strides, anchors, first):
    size = (rows * max(strides), columns * max(strides))
    boxes = anchors * sum(size[0] // stride * (size[1] // stride) for stride in strides)
    shape = (1, 4 + classes, boxes) if first else (1, boxes, 5 + classes)
    axes = read_axes(shape, classes, size, selects=False)
    other = (boxes - 5 == classes) if first else (boxes - 4 == classes)
    if not other:
        assert axes.layout == ("columns_classes" if first else "rows_objectness")
        assert axes.class_count == classes
        assert axes.strides == strides_of(boxes, size)


def test_axes_without_names_are_told_by_the_number_of_boxes():
    # 80 classes at 32 and 64 pixels, 1203 classes at 64: fewer boxes than values.
    assert read_axes((1, 84, 21), None, (32, 32), selects=False).layout == "columns_classes"
    assert read_axes((1, 1207, 84), None, (64, 64), selects=False).layout == "columns_classes"
    assert read_axes((1, 252, 1208), None, (64, 64), selects=False).layout == "rows_objectness"
    assert read_axes((1, 8500, 85), None, (640, 640), selects=False).strides == (8, 16, 32, 64)
    assert read_axes((1, 25200, 85), None, (640, 640), selects=False).strides == (8, 16, 32)
    assert read_axes((1, 84, 999), None, (640, 640), selects=False) == ("columns_classes", 80, None)


def test_final_detections_are_told_from_rows_of_one_class():
    assert read_axes((1, 300, 6), 80, (640, 640), selects=True).layout == "rows_final"
    assert read_axes((1, 300, 6), None, (640, 640), selects=False).layout == "rows_final"
    assert read_axes((1, 21, 6), 1, (32, 32), selects=True).layout == "rows_final"
    assert read_axes((1, 63, 6), 1, (32, 32), selects=False).layout == "rows_objectness"
    assert read_axes((1, 25200, 6), 1, (640, 640), selects=False).layout == "rows_objectness"
    with pytest.raises(CheckpointError, match="38 values each, not 6"):
        read_axes((1, 300, 38), 80, (640, 640), selects=True)
    with pytest.raises(CheckpointError, match="80 classes that its metadata names"):
        read_axes((1, 8400, 84), 80, (640, 640), selects=False)


def test_strides_of_files_are_those_whose_boxes_there_are(tmp_path):
    """A fourth level is told by the boxes, since files do not name strides one by one."""
    source = small_detector("yolov8n")
    path = write_foreign(tmp_path / "float.onnx", source, (SIDE, SIDE), names=None, stride=None)
    model = load_onnx(path)
    assert foreign_facts(model).strides == (8, 16, 32)
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 85
    assert foreign_facts(model).strides == (8, 16, 32, 64)


def foreign_detector(shared):
    """The real file, its captured network, and two photographs."""
    detector = read_detector(shared / "weights" / "yolov6lite_s.onnx")
    entries = calibration_images(shared / "coco" / "data.yaml", 2)
    (batch,) = ImageLoader(entries, (640, 640), 2)
    return detector, capture(detector.network, detector.input_size, max(detector.strides)), batch.images


def test_the_real_foreign_file_gives_the_runtimes_output_in_torch(shared):
    detector, captured, photographs = foreign_detector(shared)
    assert (detector.head.layout, detector.strides, len(detector.names)) == ("columns_classes", (8, 16, 32, 64), 80)
    targets = [node.target for node in captured.graph.nodes]
    assert targets.count(torch.ops.aten.hardswish.default) == 100
    assert torch.ops.aten.clamp.default not in targets
    images = to_input(photographs[:1]).contiguous()
    expected = runtime_output(shared / "weights" / "yolov6lite_s.onnx", images)
    with torch.no_grad():
        found = detector.head(list(captured(images))).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.05)
    assert np.abs(found[:, 4:] - expected[:, 4:]).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_real_foreign_file_is_quantized_for_every_target(target, shared, tmp_path):
    detector, captured, photographs = foreign_detector(shared)
    quantized = quantized_from(detector, get_target(target).place(captured), captured)
    calibrate(quantized, [photographs])
    export_onnx(quantized, tmp_path / "int8.onnx", target=target)
    (parity,) = check_parity(quantized, tmp_path / "int8.onnx", to_input(photographs).contiguous().numpy(), ["onnxruntime"])
    assert parity.agrees, parity
