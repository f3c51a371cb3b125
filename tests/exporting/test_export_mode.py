"""Exporting leaves a detector as it was."""

import copy

import pytest
import torch

from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.models.yolov5.build import build_yolov5, official_config


@pytest.mark.parametrize("training", [False, True])
def test_export_leaves_mode_and_weights(tmp_path, training):
    detector = build_yolov5(official_config("n", 2) | {"width_multiple": 0.1}, ("a", "b"), 64, seed=0)
    detector.network.train(training)
    before = copy.deepcopy(detector.network.state_dict())
    export_onnx(detector, tmp_path / "float.onnx")
    assert {module.training for module in detector.network.modules()} == {training}
    assert not detector.head.training
    for name, value in detector.network.state_dict().items():
        assert torch.equal(value, before[name]), name
