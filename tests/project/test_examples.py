"""The examples run on an exported file and a picture, and say what the project's own prediction says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from yoloquant.assets import demo_weights
from yoloquant.checkpoint.read import read_detector
from yoloquant.data.images import letterbox, read_image
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.evaluation.postprocess import detections_of
from yoloquant.exporting.nms import NmsOptions, add_nms_to_file
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.runtime.torch_runner import TorchRunner

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Model file, picture, and the rows that must be printed: class name, score, corners."""
    folder = tmp_path_factory.mktemp("case")
    data = write_generated_dataset(folder / "set", train=1, val=3)
    picture = sorted((data.parent / "images" / "val").glob("*"))[0]
    image = read_image(picture)
    # Neither square nor of the network's size.
    image = cv2.resize(image, (200, 150))
    picture = folder / "picture.png"
    cv2.imwrite(str(picture), image[..., ::-1])
    detector = read_detector(demo_weights())
    export_onnx(detector, folder / "model.onnx")
    add_nms_to_file(folder / "model.onnx", NmsOptions(confidence=0.3))
    fitted, place = letterbox(image, detector.input_size)
    output = TorchRunner(detector)(fitted.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    (found,) = detections_of(output, detector.head.layout, 0.3, 0.45)
    boxes = place.to_original(found.boxes)
    rows = [(detector.names[number], score, box) for number, score, box in zip(found.classes, found.scores, boxes, strict=True)]
    assert rows
    return folder / "model.onnx", picture, rows, detector.names


def check(output, rows):
    lines = [line.split() for line in output.strip().splitlines()]
    assert len(lines) == len(rows)
    for name, score, box in rows:
        # Two of nearly the same score may change places in a runtime that computes in half precision: each has its own line.
        line = min(lines, key=lambda each: np.abs(np.clip([float(value) for value in each[2:]], 0, [200, 150] * 2) - box).sum())
        lines.remove(line)
        assert line[0] == name
        assert float(line[1]) == pytest.approx(score, abs=0.03)
        # Boxes are printed as they are, and ours are clipped to the picture.
        np.testing.assert_allclose(np.clip([float(value) for value in line[2:]], 0, [200, 150] * 2), box, atol=2)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_python_examples(case, runtime):
    pytest.importorskip(runtime)
    model, picture, rows, _ = case
    command = [sys.executable, str(EXAMPLES / f"python_{runtime}.py"), str(model), str(picture)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    check(result.stdout, rows)


def test_cpp_example(case, tmp_path):
    root = os.environ.get("ONNXRUNTIME_ROOT")
    if not root or not shutil.which("cmake"):
        pytest.skip("ONNXRUNTIME_ROOT names no C++ package of ONNX Runtime, or cmake is missing")
    model, picture, rows, names = case
    for step in (["-S", str(EXAMPLES / "cpp_onnxruntime"), f"-DONNXRUNTIME_ROOT={root}", "-B", "."], ["--build", "."]):
        subprocess.run(["cmake", *step], cwd=tmp_path, check=True, capture_output=True)
    image = read_image(picture)
    (tmp_path / "picture.ppm").write_bytes(f"P6\n{image.shape[1]} {image.shape[0]}\n255\n".encode() + image.tobytes())
    command = [str(tmp_path / "detect"), str(model), str(tmp_path / "picture.ppm")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    check(result.stdout, [(str(names.index(name)), score, box) for name, score, box in rows])


def test_tracking_example(case, tmp_path):
    pytest.importorskip("supervision")
    pytest.importorskip("trackers")
    model, picture, rows, _ = case
    image = cv2.imread(str(picture))
    writer = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, image.shape[1::-1])
    for _ in range(5):
        writer.write(image)
    writer.release()
    command = [sys.executable, str(EXAMPLES / "track_supervision.py"), str(model), str(tmp_path / "film.mp4")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    # Nothing moves: each object keeps its track through the frames.
    tracks = {(line[1], line[2]) for line in lines}
    assert {line[0] for line in lines} >= {"2", "3", "4"}
    assert 0 < len(tracks) == len({track for track, _ in tracks}) <= len(rows) + 1
    assert {name for _, name in tracks} <= {name for name, _, _ in rows}
