"""The small detectors that other tests are parametrised over, and fresh networks against the package ultralytics."""

import pytest
import torch

from small_families import SIDE, SMALL_FAMILIES, small_detector, small_images
from yoloquant.checkpoint.safetensors_file import load_detector, save_detector
from yoloquant.data.synthetic import CLASS_NAMES
from yoloquant.models.branches import ONE_TO_MANY, ONE_TO_ONE, choose_branch
from yoloquant.models.registry import ARCHITECTURES, build_detector
from yoloquant.models.ultralytics.plans import PLANS


@pytest.mark.parametrize("name", SMALL_FAMILIES)
def test_a_small_detector_survives_its_file_and_finds_something(name, tmp_path):
    detector = small_detector(name)
    assert detector.family == SMALL_FAMILIES[name].family
    assert (detector.names, detector.strides, detector.input_size) == (CLASS_NAMES, (8, 16, 32), (SIDE, SIDE))
    images = small_images(2, first=20) / 255.0
    save_detector(detector, tmp_path / "float.safetensors")
    again = load_detector(tmp_path / "float.safetensors")
    with torch.no_grad():
        maps = list(detector.network(images))
        torch.testing.assert_close(list(again.network(images)), maps, rtol=0, atol=0)
    scores = detector.head.candidates(maps).scores
    assert all(raw.isfinite().all() for raw in maps)
    assert scores.amax() > 0.5
    assert scores.median() < 0.3


@pytest.mark.parametrize("name", SMALL_FAMILIES)
def test_rounding_does_not_blow_up_in_a_small_network(name):
    """Random networks can be chaotic; what tests measure in such a one is its chaos."""
    network = small_detector(name).network
    images = small_images(2, first=20) / 255.0
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator) * 0.001
    with torch.no_grad():
        for clean, noisy in zip(network(images), network(images + noise), strict=True):
            assert 20 * torch.log10(clean.std() / (noisy - clean).std()) > 30


def test_every_family_that_can_be_built_has_a_small_detector():
    families = {build_detector(name, ["a"], width=0.06, depth=0.1).family for name in ARCHITECTURES if name[-1] in "nty"}
    assert families <= {entry.family for entry in SMALL_FAMILIES.values()}


SIZES = ("yolov8n", "yolov9t", "yolov10n", "yolov10s", "yolo11n", "yolo12n", "yolo26n")
LARGE_SIZES = sorted(set(PLANS) - set(SIZES) - {"yolov8s", "yolov9s", "yolo11s", "yolo12s", "yolo26s"})


def test_fresh_networks_are_those_of_ultralytics():
    for name in SIZES:
        _compare_with_ultralytics(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_SIZES)
def test_fresh_large_networks_are_those_of_ultralytics(name):
    _compare_with_ultralytics(name)


def _compare_with_ultralytics(name):
    """Names, shapes and order of all tensors, and raw maps with the same weights."""
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    theirs = tasks.DetectionModel(tasks.yaml_model_load(f"{name}.yaml"), nc=7, verbose=False).eval()
    ours = build_detector(name, [str(index) for index in range(7)])
    weights = {key: value for key, value in theirs.state_dict().items() if ".dfl." not in key}
    assert {key: value.shape for key, value in weights.items()} == {
        key: value.shape for key, value in ours.network.state_dict().items()
    }
    assert list(weights) == list(ours.network.state_dict())
    generator = torch.Generator().manual_seed(0)
    for key, value in weights.items():
        if value.is_floating_point() and value.ndim == 1 and "running_mean" not in key:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    ours.network.load_state_dict(weights)
    images = torch.rand(1, 3, 64, 128, generator=generator)
    with torch.no_grad():
        maps = theirs(images)[1]
        pairs = {ONE_TO_MANY: maps["one2many"], ONE_TO_ONE: maps["one2one"]} if "one2one" in maps else {None: maps}
        for branch, expected in pairs.items():
            raw = choose_branch(ours, branch).network(images)
            for kind, levels in {"boxes": raw[::2], "scores": raw[1::2]}.items():
                found = torch.cat([level.flatten(2) for level in levels], 2)
                torch.testing.assert_close(found, expected[kind], rtol=1e-5, atol=1e-5)
