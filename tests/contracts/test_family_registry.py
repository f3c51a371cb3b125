"""What every family keeps to, and that nothing outside of its folder knows it by name."""

import ast
from pathlib import Path

import pytest
import torch

from yoloquant.checkpoint.read import detector_from_checkpoint
from yoloquant.models.architecture import CLASSES, NAMES
from yoloquant.models.change_classes import with_classes
from yoloquant.models.hyperparameters import Hyperparameters
from yoloquant.models.record import Record
from yoloquant.models.registry import ARCHITECTURES, FAMILIES, build_detector
from yoloquant.training.hyperparameters import hyperparameters_for
from yoloquant.training.losses import loss_for

SOURCE = Path(__file__).parent.parent.parent / "src" / "yoloquant"
SIDE = 64
CLASS_NAMES = ("ant", "bee", "cow")
# Families whose networks are read alone.
NOT_BUILT = {"yolov5u", "ultralytics", "yolox"}
TARGETS = torch.tensor([[0, 1, 0.4, 0.4, 0.3, 0.3], [1, 0, 0.6, 0.5, 0.5, 0.6]])


def small(architecture):
    return build_detector(architecture, CLASS_NAMES, SIDE, seed=0, width=0.06, depth=0.1)


def images(count=2):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_the_families_are_these():
    assert list(FAMILIES) == [
        "yolov5", "yolov6", "yolov7",
        "ultralytics", "yolov5u", "yolov8", "yolov9", "yolov10", "yolo11", "yolo12", "yolo26",
        "yolox",
    ]  # fmt: skip
    assert {name for name, family in FAMILIES.items() if not family.architectures} == NOT_BUILT
    assert len(ARCHITECTURES) == sum(len(family.architectures) for family in FAMILIES.values()) == 38


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_its_name_its_parts_and_hyperparameters(name):
    family = FAMILIES[name]
    assert family.name == name
    assert (family.build is None) == (not family.architectures)
    assert family.checkpoint is not None or family.onnx is not None
    assert set(family.hyperparameters) <= set(Hyperparameters.model_fields)
    assert hyperparameters_for(name) == Hyperparameters(**family.hyperparameters)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_built_and_has_a_loss_that_reaches_its_weights(architecture):
    detector = small(architecture)
    assert architecture in FAMILIES[detector.family].architectures
    assert (detector.names, detector.input_size) == (CLASS_NAMES, (SIDE, SIDE))
    assert isinstance(detector.head, FAMILIES[detector.family].head)
    loss = loss_for(detector, hyperparameters_for(detector.family), SIDE, 2)
    for parameter in detector.network.parameters():
        if parameter.dim() == 4 and not parameter.any():
            # The last convolutions of some begin with zeros, which no gradient passes.
            torch.nn.init.normal_(parameter, std=0.1)
    result = loss(list(detector.network.train()(images())), TARGETS)
    assert result.total.isfinite()
    result.total.backward()
    gradients = [parameter.grad for parameter in detector.network.parameters() if parameter.grad is not None]
    assert len(gradients) > 0.7 * len(list(detector.network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    # The first layers, too.
    assert gradients[0].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_classes_change_and_those_that_stay_are_scored_as_before(architecture):
    detector = small(architecture)
    with torch.no_grad():
        before = detector.head.candidates(list(detector.network(images())))
        changed = with_classes(detector, ["new", "cow", "other", "ant"])
        after = changed.head.candidates(list(changed.network(images())))
    assert changed.names == ("new", "cow", "other", "ant")
    assert after.scores.shape[-1] == changed.head.class_count == 4
    torch.testing.assert_close(after.boxes, before.boxes)
    torch.testing.assert_close(after.scores[..., [3, 1]], before.scores[..., [0, 2]], rtol=0, atol=1e-6)
    assert loss_for(changed, hyperparameters_for(changed.family), SIDE)(list(changed.network(images())), TARGETS).total.isfinite()


# Classes that stand for several of the original ones: the one that a family's own files hold.
ORIGINAL = {
    "yolov10": {"DecoupledDetect": "v10Detect"},
    "yolo11": {"C2f": "C3k2"},
    "yolo12": {"C2f": "C3k2"},
    "yolo26": {"C2f": "C3k2"},
}


def original_path(module, family):
    """The class path of a module in a family's own files."""
    short = ORIGINAL.get(family.name, {}).get(type(module).__name__)
    if short:
        return f"ultralytics.nn.modules.block.{short}"
    known = [path for path, cls in CLASSES.items() if cls is type(module)]
    return next((path for path in known if path.startswith(family.checkpoint.packages)), NAMES[type(module)])


def record_of(module, family):
    """The module as its family's training code pickles it."""
    record = Record(original_path(module, family))
    record.state = {**vars(module), "_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
    record.state["_modules"] = {name: record_of(child, family) for name, child in module.named_children()}
    return record


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_is_recognised_by_its_contents_alone(architecture, tmp_path):
    detector = small(architecture)
    network = record_of(detector.network, FAMILIES[detector.family])
    parts = network.state["_modules"]
    last = parts.get("detect") or list(parts["model"].state["_modules"].values())[-1]
    last.state["stride"] = torch.tensor(detector.strides)
    if hasattr(detector.head, "anchors"):
        cells = torch.tensor(detector.head.anchors) / torch.tensor(detector.strides).view(-1, 1, 1)
        last.state["_buffers"] = {"anchors": cells}
    network.state["names"] = list(CLASS_NAMES)
    found = detector_from_checkpoint({"model": network, "train_args": {"imgsz": SIDE}}, tmp_path / "some.pt")
    assert (found.family, found.names, found.strides) == (detector.family, CLASS_NAMES, detector.strides)
    assert found.head.branch == detector.head.branch
    with torch.no_grad():
        torch.testing.assert_close(found(images()), detector(images()))


def shared_files():
    """All modules but those in a family's folder, and the one that lists the families."""
    folders = {path.parent for path in SOURCE.glob("models/*/family.py")}
    assert len(folders) == 5
    listing = SOURCE / "models" / "registry.py"
    return [path for path in SOURCE.rglob("*.py") if path != listing and not folders & set(path.parents)], folders


def known_names(source, folders=()):
    """Lines where a text is a family's or an architecture's name or begins a class path of it, or that import from its folder.

    Docstrings and messages, which hold such names beside other words, do not count.
    """
    names = {*FAMILIES, *ARCHITECTURES, "yolo", "yolov"}
    prefixes = (*(f"{name}." for name in names), *(f"yoloquant.models.{folder.name}" for folder in folders))
    found = []
    for node in ast.walk(ast.parse(source)):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else modules
        texts = [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
        if any(text in names or text.startswith(prefixes) for text in [*modules, *texts]):
            found.append(node.lineno)
    return found


def test_no_shared_file_knows_a_family_by_name():
    files, folders = shared_files()
    assert len(files) > 200
    assert {str(path): lines for path in files if (lines := known_names(path.read_text(), folders))} == {}


@pytest.mark.parametrize(
    "line",
    [
        'if detector.family == "yolov6": pass',
        'TABLE = {"yolo26": 1}',
        'name = f"yolov5{size}"',
        'if path.startswith("ultralytics."): pass',
        "from yoloquant.models.yolov7.network import IDetect",
        "import yoloquant.models.ultralytics.blocks",
        'model = "yolov7-tiny"',
    ],
)
def test_a_name_in_a_shared_file_would_be_found(line):
    _, folders = shared_files()
    assert known_names(f'"""About yolov5."""\n{line}\n', folders) == [2]
