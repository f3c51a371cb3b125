"""YOLOv10 and YOLO26 hold two pairs of branches: the one that is asked for is read, written and told, in every kind of file."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner

from small_families import CLASS_NAMES, SIDE, small_detector, small_images
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.checkpoint.from_module import detector_from_live
from yoloquant.checkpoint.onnx_branch import branch_in
from yoloquant.checkpoint.read import read_detector
from yoloquant.checkpoint.safetensors_file import save_detector
from yoloquant.cli import app
from yoloquant.errors import CheckpointError
from yoloquant.exporting.folder import load_quantized, save_quantized
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.graph.capture import capture
from yoloquant.models.branches import BRANCHES, ONE_TO_MANY, ONE_TO_ONE, choose_branch
from yoloquant.models.registry import build_detector
from yoloquant.quant.quantized_detector import quantized_from
from yoloquant.runtime.open import open_runner
from yoloquant.targets.registry import get_target

WITH_BOTH = ("yolov10n", "yolo26n")


def with_both(name):
    """A small detector whose pairs of branches differ."""
    detector = small_detector(name)
    generator = torch.Generator().manual_seed(5)
    layer = detector.network.model[-1]
    with torch.no_grad():
        for parameter in (*layer.one2one_cv2.parameters(), *layer.one2one_cv3.parameters()):
            parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))
    return detector


def expected_output(detector, images, branch):
    """By numpy, from the branches' own layers."""
    network, layer = detector.network, detector.network.model[-1]
    maps = []
    hook = layer.register_forward_pre_hook(lambda _, given: maps.extend(given[0]))
    with torch.no_grad():
        network(images)
        hook.remove()
        prefix = "one2one_" if branch == ONE_TO_ONE else ""
        boxes = [conv(x).numpy() for conv, x in zip(getattr(layer, f"{prefix}cv2"), maps, strict=True)]
        scores = [conv(x).numpy() for conv, x in zip(getattr(layer, f"{prefix}cv3"), maps, strict=True)]
    rows = []
    for box, score, stride in zip(boxes, scores, detector.strides, strict=True):
        count, _, height, width = box.shape
        sides = box.reshape(count, 4, -1, height * width)
        if sides.shape[2] > 1:
            shares = np.exp(sides - sides.max(2, keepdims=True))
            sides = (shares / shares.sum(2, keepdims=True) * np.arange(sides.shape[2])[:, None]).sum(2, keepdims=True)
        sides = sides[:, :, 0]
        y, x = (axis.reshape(-1) + 0.5 for axis in np.mgrid[:height, :width])
        corners = np.stack([x - sides[:, 0], y - sides[:, 1], x + sides[:, 2], y + sides[:, 3]], 2) * stride
        rows.append(np.concatenate([corners, 1 / (1 + np.exp(-score.reshape(count, -1, height * width))).transpose(0, 2, 1)], 2))
    return np.concatenate(rows, 1)


def assert_answers(output, rows, branch):
    """Final boxes are the best pairs of box and class, or all boxes stand in columns."""
    if branch == ONE_TO_MANY:
        low, high = rows[..., :2], rows[..., 2:4]
        wanted = np.concatenate([(low + high) / 2, high - low, rows[..., 4:]], 2).transpose(0, 2, 1)
        np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-3)
        return
    assert output.shape == (len(rows), 300, 6)
    for found, image in zip(output, rows, strict=True):
        best = np.sort(image[:, 4:].ravel())[::-1][:300]
        np.testing.assert_allclose(found[:, 4], best, rtol=1e-4, atol=1e-6)
        for box in found[:20]:
            same = np.abs(image[:, :4] - box[:4]).max(1) < 1e-2
            assert np.abs(image[same, 4 + int(box[5])] - box[4]).min() < 1e-4


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("name", WITH_BOTH)
def test_a_branch_answers_with_its_own_layers(name, branch):
    detector = with_both(name)
    images = small_images(2, first=30) / 255.0
    with torch.no_grad():
        assert_answers(choose_branch(detector, branch)(images).numpy(), expected_output(detector, images, branch), branch)


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_answers_alike_from_every_kind_of_file(branch, tmp_path):
    detector = with_both("yolo26n")
    images = small_images(2, first=30) / 255.0
    rows = expected_output(detector, images, branch)
    chosen = choose_branch(detector, branch)
    save_detector(detector, tmp_path / "both.safetensors")
    export_onnx(chosen, tmp_path / "one.onnx")
    for path, runtime in (("both.safetensors", "torch"), ("one.onnx", "onnxruntime"), ("one.onnx", "torch")):
        runner = open_runner(tmp_path / path, runtime, branch=branch)
        assert runner.branch == branch
        assert_answers(runner(images.numpy()), rows, branch)
    assert read_detector(tmp_path / "one.onnx").head.branch == branch
    other = next(other for other in BRANCHES if other != branch)
    for runtime in ("onnxruntime", "torch"):
        with pytest.raises(CheckpointError, match=f"its {branch} branch and holds no {other} one"):
            open_runner(tmp_path / "one.onnx", runtime, branch=other)


def test_a_quantized_folder_keeps_its_branch(tmp_path):
    """The one that is not the default."""
    branch = ONE_TO_ONE
    detector = choose_branch(with_both("yolo26n"), branch)
    network = capture(detector.network, (SIDE, SIDE))
    quantized = quantized_from(detector, get_target("onnxruntime").place(network), network)
    calibrate(quantized, [small_images(2)])
    save_quantized(quantized, detector, tmp_path / "quantized.safetensors")
    again = load_quantized(tmp_path)
    assert again.head.branch == branch
    images = small_images(1, first=9) / 255.0
    with torch.no_grad():
        torch.testing.assert_close(again(images), quantized(images), rtol=1e-5, atol=1e-4)


def test_the_other_pair_stays_for_training_and_behind_the_used_one():
    detector = with_both("yolo26n")
    images = small_images(1) / 255.0
    for branch in BRANCHES:
        network = choose_branch(detector, branch).network
        with torch.no_grad():
            used, both = network.eval()(images), network.train()(images)
        assert len(both) == 2 * len(used)
        assert [raw.shape for raw in both[: len(used)]] == [raw.shape for raw in used]
        first = network.model[-1].one2one_cv2[0] if branch == ONE_TO_ONE else network.model[-1].cv2[0]
        seen = []
        hook = first.register_forward_hook(lambda _, given, output, seen=seen: seen.append(output))
        with torch.no_grad():
            again = network(images)
        hook.remove()
        torch.testing.assert_close(again[0], seen[0])


def test_fresh_networks_begin_with_the_branch_that_files_are_read_with():
    for name in WITH_BOTH:
        assert build_detector(name, ["a"], width=0.06, depth=0.1).head.branch == ONE_TO_MANY


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n"])
def test_networks_with_one_pair_have_no_choice(name):
    detector = small_detector(name)
    assert choose_branch(detector, ONE_TO_MANY) is detector
    with pytest.raises(CheckpointError, match="holds no one-to-one one"):
        choose_branch(detector, ONE_TO_ONE)
    with pytest.raises(CheckpointError, match="there is no branch 'end2end': choose one-to-one or one-to-many"):
        choose_branch(detector, "end2end")


@pytest.mark.parametrize(
    ("metadata", "weight", "branch"),
    [
        ({"description": "Ultralytics YOLO26n model", "end2end": "False"}, "w", ONE_TO_MANY),
        ({"description": "Ultralytics YOLOv10s model", "end2end": "True"}, "w", ONE_TO_ONE),
        ({}, "model.23.one2one_cv2.0.2.weight", ONE_TO_ONE),
        ({"description": "Ultralytics YOLO11n model", "end2end": "False"}, "w", None),
    ],
)
def test_foreign_files_tell_their_branch(metadata, weight, branch):
    node = helper.make_node("Conv", ["images", weight], ["output"])
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("images", "output")]
    graph = helper.make_graph([node], "graph", sides[:1], sides[1:])
    model = helper.make_model(graph)
    onnx.helper.set_model_props(model, metadata)
    assert branch_in(model) == branch


def test_commands_tell_the_branch_and_refuse_the_one_that_is_not_there(tmp_path):
    save_detector(with_both("yolo26n"), tmp_path / "both.safetensors")
    run = CliRunner()
    told = run.invoke(app, ["inspect", str(tmp_path / "both.safetensors"), "--no-layers"])
    assert "branches    one-to-one, one-to-many" in told.output
    made = run.invoke(
        app,
        ["export", str(tmp_path / "both.safetensors"), "--output", str(tmp_path / "many.onnx"), "--branch", "one-to-many"],
    )
    assert made.exit_code == 0
    assert "branch one-to-many: boxes that suppression thins out" in made.output
    with pytest.raises(CheckpointError, match="holds no one-to-one one"):
        run.invoke(
            app,
            ["export", str(tmp_path / "many.onnx"), "--output", str(tmp_path / "x.onnx"), "--branch", "one-to-one"],
            catch_exceptions=False,
        )
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("nms_free", [False, True])
@pytest.mark.parametrize("name", WITH_BOTH)
def test_both_branches_are_those_of_ultralytics(name, nms_free):
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    torch.manual_seed(0)
    theirs = tasks.DetectionModel(tasks.yaml_model_load(f"{name}.yaml"), nc=len(CLASS_NAMES), verbose=False).eval()
    with torch.no_grad():
        for key, parameter in theirs.model[-1].named_parameters():
            # Those of `dfl` are the constants 0, 1, 2, ...
            parameter.add_(0.1 * torch.randn(parameter.shape) * ("dfl" not in key))
    read = detector_from_live(theirs)
    # Whatever it was marked with last, as validation does.
    theirs.end2end = nms_free
    assert detector_from_live(theirs).head.branch == read.head.branch == ONE_TO_MANY
    images = torch.rand(1, 3, 64, 96)
    branch = ONE_TO_ONE if nms_free else ONE_TO_MANY
    with torch.no_grad():
        torch.testing.assert_close(choose_branch(read, branch)(images), theirs(images)[0], rtol=1e-4, atol=1e-3)
    theirs.fuse(verbose=False)
    fused = detector_from_live(theirs)
    assert fused.head.branch == (ONE_TO_ONE if nms_free else None)
    with torch.no_grad():
        torch.testing.assert_close(fused(images), theirs(images)[0], rtol=1e-3, atol=1e-2)
