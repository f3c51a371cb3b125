"""Families beside YOLOv5: official-format files against the original code's answers, through every step."""

import numpy as np
import onnx
import pytest
import torch

from yoloquant.algorithms.calibrate import calibrate
from yoloquant.checkpoint.read import detector_from_checkpoint, read_detector
from yoloquant.checkpoint.recognise import build_head, recognised
from yoloquant.checkpoint.safetensors_file import load_detector, save_detector
from yoloquant.data.images import to_input
from yoloquant.data.loader import ImageLoader
from yoloquant.data.sample import calibration_images
from yoloquant.errors import CheckpointError
from yoloquant.evaluation.parity import check_parity, signal_to_noise
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.graph.capture import capture
from yoloquant.models.record import Record
from yoloquant.quant.fake_quantize import passing
from yoloquant.quant.quantized_detector import quantized_from
from yoloquant.targets.registry import get_target

FAMILIES = {
    "yolov5n_v70_custom5": "yolov5",
    "yolov5n_v60_custom2": "yolov5",
    "yolov6n_w12": "yolov6",
    "yolov6s_repopt_w12": "yolov6",
    "yolov7-tiny_w25": "yolov7",
    "yolov7_training_w12": "yolov7",
    "yolov8n_w12": "yolov8",
    "yolo11n_w12": "yolo11",
}


def golden(shared, name):
    """Input in 0..1 and what the original code answers."""
    values = np.load(shared / "checkpoints" / f"{name}.npz")
    return torch.from_numpy(values["input"]).float() / 255, values["decoded"]


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_the_original_code_also_when_deployed(shared, name):
    detector = read_detector(shared / "checkpoints" / f"{name}.pt")
    images, expected = golden(shared, name)
    assert detector.family == FAMILIES[name]
    assert detector.strides == (8, 16, 32)
    network = capture(detector.network, (320, 320))
    with torch.no_grad():
        answers = [detector(images).numpy(), detector.head(list(network(images))).numpy()]
    for answer in answers:
        np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
        assert np.abs(answer - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", [name for name in FAMILIES if "yolov5" not in name])
def test_a_detector_survives_this_projects_own_format(shared, name, tmp_path):
    detector = read_detector(shared / "checkpoints" / f"{name}.pt")
    save_detector(detector, tmp_path / "detector.safetensors")
    again = load_detector(tmp_path / "detector.safetensors")
    images, _ = golden(shared, name)
    with torch.no_grad():
        torch.testing.assert_close(again(images), detector(images), rtol=0, atol=0)
    assert (again.family, again.names, again.strides) == (detector.family, detector.names, detector.strides)


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name in FAMILIES if "yolov5" not in name])
def test_int8_keeps_the_signal_and_the_file_answers_alike(shared, name, target, tmp_path):
    detector = read_detector(shared / "checkpoints" / f"{name}.pt")
    detector.input_size = (320, 320)
    network = capture(detector.network, (320, 320))
    quantized = quantized_from(detector, get_target(target).place(network), network)
    entries = calibration_images(shared / "coco" / "data.yaml", 8)
    batches = [batch.images for batch in ImageLoader(entries, (320, 320), 8)]
    calibrate(quantized, batches)
    images = to_input(batches[0][:2])
    with torch.no_grad():
        found = [raw.numpy() for raw in quantized.network(images)]
        with passing([quantizer for _, quantizer in quantized.quantizers()]):
            expected = [raw.numpy() for raw in quantized.network(images)]
    assert min(signal_to_noise(*pair) for pair in zip(expected, found, strict=True)) >= 20
    path = tmp_path / "model.onnx"
    export_onnx(quantized, path, target=target)
    assert not any(node.op_type == "BatchNormalization" for node in onnx.load(str(path)).graph.node)
    for parity in check_parity(quantized, path, images.contiguous().numpy()):
        assert parity.agrees, parity


def record(path, children=None, **state):
    """An inert module, as the unpickler leaves it."""
    made = Record(path)
    made.state = {"_modules": children or {}, "_parameters": {}, "_buffers": {}, **state}
    return made


def test_the_repository_is_told_by_contents():
    detect = record("models.yolo.Detect")
    conv = record("models.common.Conv")
    assert recognised(record("models.yolo.Model", {"model": record("Sequential", {"0": conv, "1": detect})}))[0] == "yolov5"
    layers = {"0": conv, "1": record("models.common.SPPCSPC"), "2": detect}
    assert recognised(record("models.yolo.Model", {"model": record("Sequential", layers)}))[0] == "yolov7"

    def ultralytics(*blocks, reg_max=16, head="Detect"):
        names = [f"ultralytics.nn.modules.block.{block}" for block in blocks]
        layers = {str(index): record(name) for index, name in enumerate(names)}
        layers["head"] = record(f"ultralytics.nn.modules.head.{head}", reg_max=reg_max)
        return recognised(record("ultralytics.nn.tasks.DetectionModel", {"model": record("Sequential", layers)}))[0]

    assert ultralytics("C2f", "SPPF") == "yolov8"
    assert ultralytics("C2f", "SCDown", head="v10Detect") == "yolov10"
    assert ultralytics("C3k2", "A2C2f") == "yolo12"
    assert ultralytics("C3k2", reg_max=1) == "yolo26"
    assert ultralytics("C3") == "yolov5u"
    assert ultralytics("RepNCSPELAN4") == "yolov9"
    assert ultralytics("SPP") == "ultralytics"


def test_networks_for_other_tasks_are_refused_by_the_name_of_their_head(tmp_path):
    segment = record("ultralytics.nn.modules.head.Segment")
    network = record("ultralytics.nn.tasks.SegmentationModel", {"model": record("Sequential", {"0": segment})})
    with pytest.raises(CheckpointError, match=r"ends in a ultralytics\.nn\.modules\.head\.Segment, not in a detection head"):
        detector_from_checkpoint({"model": network}, tmp_path / "seg.pt")


def test_a_yolov6_of_release_0_1_is_told_so(shared):
    detector = read_detector(shared / "checkpoints" / "yolov6n_w12.pt")
    head = record("yolov6.models.effidehead.Detect", {"obj_preds": record("ModuleList")}, stride=torch.tensor([8, 16, 32]))
    network = record("yolov6.models.yolo.Model", {"detect": head})
    _, reader = recognised(network)
    with pytest.raises(CheckpointError, match=r"release 0\.1"):
        build_head(reader, network, detector.network)
