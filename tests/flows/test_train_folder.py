"""`yoloquant finetune`: on labels or taught by the float checkpoint, and what it refuses."""

import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from small_networks import SmallNetwork
from yoloquant.checkpoint.safetensors_file import CUSTOM, save_detector
from yoloquant.cli import app
from yoloquant.data.images import to_input
from yoloquant.data.synthetic import CLASS_NAMES, write_generated_dataset
from yoloquant.errors import RecipeError, YoloquantError
from yoloquant.exporting.folder import load_quantized, save_quantized
from yoloquant.flows.finetune import _reference as reference_for
from yoloquant.flows.finetune import finetune, training_step
from yoloquant.flows.job import quantized_in_memory
from yoloquant.flows.options import Measure
from yoloquant.flows.train import train
from yoloquant.graph.capture import captured
from yoloquant.models.activations import swap_activations
from yoloquant.models.detector import Detector
from yoloquant.models.registry import build_detector
from yoloquant.models.yolov5.network import AnchorHead
from yoloquant.progress import Silent
from yoloquant.quant.images import images_to_calibrate
from yoloquant.recipe.recipe import load_recipe
from yoloquant.training.quantized.objectives import FeatureTeacher

SIZE = 64
SHORT = {"epochs": 4, "batch_size": 4, "val_images": 4, "learning_rate": 0.0003}
PLAIN = {"measure": Measure(evaluate=False, runtimes=("onnxruntime",)), "report": None}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_generated_dataset(tmp_path_factory.mktemp("shapes"), train=12, val=2, size=SIZE)


def own_detector():
    """A network of the user's own, whose ReLU lets channels be equalised."""
    anchors = [[[12.0, 16.0]], [[40.0, 32.0]]]
    return Detector(SmallNetwork(nn.ReLU), AnchorHead(4, [4, 8], anchors), CLASS_NAMES[:4], (4, 8), (SIZE, SIZE), CUSTOM)


def small(names=CLASS_NAMES):
    return build_detector("yolov5n", names, SIZE, seed=0, width=0.06)


def write_folder(folder, detector, data, algorithms="[calibrate]"):
    """What `quantize` leaves, but for the file and the report; 3-bit weights leave something to gain."""
    recipe = load_recipe("int8-mse", [f"algorithms={algorithms}", "calibration.images=4", "target=reference", "weights.bits=3"])
    images = images_to_calibrate(recipe.calibration, data, None)
    folder.mkdir()
    save_quantized(quantized_in_memory(detector, recipe, images, Silent()), detector, folder / "quantized.safetensors")
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A quantized YOLOv5 beside the float checkpoint it was made from."""
    place = tmp_path_factory.mktemp("made")
    save_detector(small(), place / "float.safetensors")
    return write_folder(place / "out", small(), data)


def run(*words):
    return CliRunner().invoke(app, ["finetune", *map(str, words)])


@pytest.mark.parametrize("teacher", [None, pytest.param("float.safetensors", marks=pytest.mark.slow)])
def test_a_folder_trains_on_and_becomes_a_folder_like_it(teacher, folder, data, tmp_path):
    options = ["--epochs", 2, "--batch", 4, "--set", "val_images=4", "--set", "fliplr=0.5", "--set", "activations=fixed"]
    taught = [] if teacher is None else ["--teacher", folder.parent / teacher]
    answer = run(folder, "--data", data, "--output", tmp_path / "run", *options, *taught)
    assert answer.exit_code == 0, answer.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"model.onnx", "quantized.safetensors", "recipe.yaml", "metrics.json", "report.html"}
    recipe, before = load_recipe(tmp_path / "run" / "recipe.yaml"), load_recipe(folder / "recipe.yaml")
    assert recipe.algorithms[:-1] == before.algorithms
    step = recipe.algorithms[-1]
    assert (step.epochs, step.batch_size, step.activations, step.augmentation) == (2, 4, "fixed", {"fliplr": 0.5})
    assert step.teacher == ("labels" if teacher is None else "both")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["calibration_images"] == 12
    assert all(row["evaluation"]["image_count"] == 2 for row in metrics["rows"])
    assert ("float" in {row["model"] for row in metrics["rows"]}) == (teacher is not None)


def test_what_is_not_evaluated_and_trains_in_mixed_precision_says_so(folder, data, tmp_path):
    options = ["--epochs", 1, "--batch", 4, "--amp", "--no-evaluate", "--set", "val_images=4", "--set", "activations=fixed"]
    answer = run(folder, "--data", data, "--output", tmp_path / "run", *options)
    assert answer.exit_code == 0, answer.output
    assert load_recipe(tmp_path / "run" / "recipe.yaml").algorithms[-1].amp
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"] == []


def test_any_images_do_where_the_float_network_teaches(data, tmp_path):
    folder, pictures = write_folder(tmp_path / "out", own_detector(), data), tmp_path / "pictures"
    shutil.copytree(data.parent / "images" / "train", pictures)
    options = {"settings": {**SHORT, "teacher": "features"}, "measure": Measure(runtimes=("onnxruntime",)), "report": None}
    result = finetune(folder, pictures, tmp_path / "run", teacher=own_detector(), **options)
    assert result.recipe.algorithms[-1].teacher == "features"
    assert all(row.evaluation is None and row.latency is None for row in result.rows), "no runtime is the target reference's own"
    assert all(parity.agrees for parity in result.parity)
    # Nearer to float than what it began with, and it can go on again.
    x, reference = to_input(torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)), captured(own_detector())
    with torch.no_grad():
        before, after = (
            float(FeatureTeacher(load_quantized(place, own_detector()), reference)(x, x)) for place in (folder, tmp_path / "run")
        )
    assert after < before
    again = finetune(tmp_path / "run", data, tmp_path / "again", teacher=own_detector(), settings=SHORT, **PLAIN)
    assert [step.name for step in again.recipe.algorithms] == ["calibrate", "train", "train"]


class Interrupting(Silent):
    """Ends the run in the middle of its second epoch, or says how many steps it took."""

    def __init__(self, at):
        self.at, self.steps = at, []

    @contextmanager
    def step(self, title):
        def update(done, total, detail=""):
            if title.startswith("Train"):
                self.steps.append(done)
                if done == self.at:
                    raise KeyboardInterrupt

        yield update


def test_an_interrupted_run_goes_on(data, tmp_path):
    folder = write_folder(tmp_path / "out", own_detector(), data)
    options = {"teacher": own_detector(), "settings": SHORT, **PLAIN}
    with pytest.raises(KeyboardInterrupt):
        finetune(folder, data, tmp_path / "run", reporter=Interrupting(4), **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run.partial"]
    rest = Interrupting(None)
    finetune(folder, data, tmp_path / "run", reporter=rest, **options)
    assert rest.steps == [3, 4, 5, 6, 7, 8]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_an_equalised_folder_is_taught_by_an_equalised_network(data, tmp_path):
    folder = write_folder(tmp_path / "out", own_detector(), data, "[equalize, calibrate]")
    student, recipe = load_quantized(folder, own_detector()), load_recipe(folder / "recipe.yaml")
    references = reference_for(own_detector(), student, recipe), captured(own_detector())
    x = to_input(torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8))
    with torch.no_grad():
        alike, plain = (float(FeatureTeacher(student, reference)(x, x)) for reference in references)
    assert plain > 5 * alike


def test_a_folder_with_nothing_to_smooth_is_taught_by_features_too(data, tmp_path):
    folder = write_folder(
        tmp_path / "out", own_detector(), data, "[smooth: {images: 2, min_gain: 1e9, min_free_gain: 1e9}, calibrate]"
    )
    result = finetune(folder, data, tmp_path / "run", teacher=own_detector(), settings=SHORT, **PLAIN)
    assert result.recipe.algorithms[-1].teacher == "both"


def test_a_smoothed_folder_is_taught_by_boxes_and_scores_alone(data, tmp_path):
    folder = write_folder(tmp_path / "out", own_detector(), data, "[smooth: {images: 2, min_gain: 1}, calibrate]")
    result = finetune(folder, data, tmp_path / "run", teacher=own_detector(), settings=SHORT, **PLAIN)
    assert result.recipe.algorithms[-1].teacher == "detections"
    with pytest.raises(YoloquantError, match="set teacher=detections"):
        finetune(folder, data, tmp_path / "no", teacher=own_detector(), settings={"teacher": "both"}, **PLAIN)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("takes key=value", ["--set", "learning_rate"]),
        ("other classes", ["--teacher", "classes.safetensors"]),
        ("another architecture", ["--teacher", "relu.safetensors"]),
        ("another architecture", ["--teacher", "anchors.safetensors"]),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(words, options, folder, data, tmp_path):
    teachers = {"classes": lambda: small(("a", "b")), "relu": with_relu, "anchors": other_anchors}
    name = options[-1].removesuffix(".safetensors")
    if name in teachers:
        save_detector(teachers[name](), tmp_path / options[-1])
        options = [options[0], tmp_path / options[-1]]
    answer = run(folder, "--data", data, "--output", tmp_path / "run", *options)
    assert isinstance(answer.exception, YoloquantError)
    assert words in str(answer.exception)
    assert not (tmp_path / "run").exists()


def with_relu():
    detector = small()
    swap_activations(detector.network, "relu")
    return detector


def other_anchors():
    detector = small()
    detector.head.anchors = [[[2.0 * side for side in anchor] for anchor in level] for level in detector.head.anchors]
    return detector


def test_folders_and_float_detectors_are_told_apart(folder, data, tmp_path):
    with pytest.raises(YoloquantError, match="finetune"):
        train(folder, data, tmp_path / "run")
    for command, option in (
        ("train", "--teacher=x.pt"),
        ("train", "--no-evaluate"),
        ("finetune", "--cosine"),
        ("finetune", "--resume"),
    ):
        answer = CliRunner().invoke(app, [command, "x", "--data", str(data), option, "--output", str(tmp_path / "run")])
        assert answer.exit_code == 2
        assert "No such option" in answer.output
    with pytest.raises(YoloquantError, match="is no quantized folder"):
        finetune(tmp_path, data, tmp_path / "run")
    other = write_generated_dataset(tmp_path / "other", train=3, val=1, size=SIZE)
    other.write_text(other.read_text().replace("names:", "names: [a]\nold:"))
    with pytest.raises(YoloquantError, match="classes but the data set has 1"):
        finetune(folder, other, tmp_path / "run")


@pytest.fixture(scope="module")
def student(folder):
    return load_quantized(folder)


def test_settings_of_every_kind_reach_the_step(student):
    given = {"learning_rate": {0: 1e-3, 2: 1e-4}, "mosaic": 0.3, "box": 0.1, "augmentation": {"degrees": 5}}
    step = training_step(given, student, has_teacher=True)
    assert step.rate_at(3) == pytest.approx(1e-4)
    assert step.augmentation == {"mosaic": 0.3, "box": 0.1, "degrees": 5.0}
    assert step.teacher == "both"


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("no setting 'learning_rat': did you mean 'learning_rate'", {"learning_rat": 0.1}),
        ("no setting 'lr0': its learning rate is learning_rate", {"lr0": 0.1}),
        ("learning_rate: Input should be greater than 0", {"learning_rate": -1}),
        ("hyperparameter fliplr", {"fliplr": 7}),
        ("augmentation", {"augmentation": 7}),
        ("features needs the float network", {"teacher": "features"}),
        ("nothing is trained", {"train_weights": False, "weights": "fixed", "activations": "fixed"}),
    ],
)
def test_settings_that_cannot_be_used_are_named(words, settings, student):
    with pytest.raises(RecipeError, match=words):
        training_step(settings, student, has_teacher=False)
