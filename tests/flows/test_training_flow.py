"""`yoloquant train` from end to end on a few small images: what it begins with, what it writes, and what it refuses."""

import csv
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from yoloquant.checkpoint.read import read_detector
from yoloquant.checkpoint.safetensors_file import save_detector
from yoloquant.cli import app
from yoloquant.data.synthetic import CLASS_NAMES, write_generated_dataset
from yoloquant.errors import RecipeError, YoloquantError
from yoloquant.files.outputs import reserved
from yoloquant.flows.train import TrainingOptions, train
from yoloquant.models.activations import ACTIVATIONS, swap_activations
from yoloquant.models.change_classes import with_classes
from yoloquant.models.registry import ARCHITECTURES, build_detector
from yoloquant.training.float.distillation import Teacher
from yoloquant.training.float.log import RunLog
from yoloquant.training.hyperparameters import hyperparameters_for

SIZE = 64
FAMILIES = ("yolov5n", "yolov6n", "yolov7-tiny", "yolov8n")
FAST = TrainingOptions(epochs=1, batch_size=4, image_size=SIZE)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_generated_dataset(tmp_path_factory.mktemp("shapes"), train=4, val=2, size=SIZE)


def small(name, names=CLASS_NAMES):
    return build_detector(name, names, SIZE, seed=0, width=0.06)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_is_read_back_everywhere(name, data, tmp_path):
    result = train(small(name), data, tmp_path / "run", FAST)
    found = read_detector(tmp_path / "run" / "best.safetensors")
    assert found.family == result.detector.family == name[:6]
    assert found.names == CLASS_NAMES
    assert found.input_size == (SIZE, SIZE)
    images = torch.rand(1, 3, SIZE, SIZE)
    torch.testing.assert_close(found(images), result.detector(images), rtol=1e-5, atol=1e-4)
    checked = CliRunner().invoke(app, ["eval", str(result.path), "--data", str(data)])
    assert checked.exit_code == 0, checked.output
    options = json.loads((tmp_path / "run" / "options.json").read_text())
    assert options["hyperparameters"]["box"] == hyperparameters_for(found.family).box


@pytest.mark.parametrize("name", FAMILIES)
def test_other_classes_keep_everything_but_class_outputs(name):
    torch.manual_seed(0)
    old = small(name, ("cat", "dog", "bird"))
    for parameter in old.network.parameters():
        nn.init.normal_(parameter, std=0.1)
    images = torch.rand(2, 3, SIZE, SIZE)
    before = old.head.candidates(list(old.network(images)))
    new = with_classes(old, ("dog", "tree", "cat", "house"))
    after = new.head.candidates(list(new.network(images)))
    assert new.names == ("dog", "tree", "cat", "house")
    assert after.scores.shape[2] == new.head.class_count == 4
    torch.testing.assert_close(after.boxes, before.boxes)
    torch.testing.assert_close(after.scores[..., 0], before.scores[..., 1])
    torch.testing.assert_close(after.scores[..., 2], before.scores[..., 0])


def test_the_same_classes_change_nothing():
    detector = small("yolov5n")
    assert with_classes(detector, CLASS_NAMES) is detector


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_swapped(name, tmp_path):
    detector = small("yolov6n")
    count = swap_activations(detector.network, name)
    wanted = type(ACTIVATIONS[name]())
    assert count > 50
    assert sum(type(module) is wanted for module in detector.network.modules()) == count
    save_detector(detector, tmp_path / "swapped.safetensors")
    images = torch.rand(1, 3, SIZE, SIZE)
    torch.testing.assert_close(read_detector(tmp_path / "swapped.safetensors")(images), detector(images))


def test_a_swapped_network_is_taught_by_the_one_it_was(data, tmp_path):
    options = TrainingOptions(epochs=1, batch_size=4, image_size=SIZE, activation="relu", distill=True)
    result = train(small("yolov8n"), data, tmp_path / "run", options)
    assert not any(isinstance(module, nn.SiLU) for module in result.detector.network.modules())
    with (tmp_path / "run" / "results.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["teach"]) > 0


def test_a_teacher_pulls_answers_to_its_own():
    torch.manual_seed(0)
    detector = small("yolov8n")
    for parameter in detector.network.parameters():
        nn.init.normal_(parameter, std=0.1)
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        wanted = list(detector.network(images))
    teacher = Teacher(detector, "cpu", gain=3.0)
    assert teacher(images, wanted).item() == pytest.approx(0.0, abs=1e-4)
    maps = [(raw + torch.randn_like(raw)).requires_grad_() for raw in wanted]
    optimizer = torch.optim.Adam(maps, 0.05)
    costs = []
    for _ in range(40):
        optimizer.zero_grad()
        cost = teacher(images, maps)
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < 0.2 * costs[0]


def test_an_official_checkpoint_goes_on_with_other_classes(data, tmp_path, shared):
    result = train(shared / "checkpoints" / "yolov7_training_w12.pt", data, tmp_path / "run", FAST)
    assert result.detector.names == CLASS_NAMES
    assert read_detector(result.path).family == "yolov7"


def test_a_finished_run_is_not_overwritten_and_a_run_resumes(data, tmp_path):
    arguments = ["train", "yolov8n", "--data", str(data), "--output", str(tmp_path / "run"), "--batch", "4"]
    arguments += ["--image-size", "64", "--amp", "--cosine", "--patience", "5", "--set", "lr0=0.02"]
    first = CliRunner().invoke(app, [*arguments, "--epochs", "1"])
    assert first.exit_code == 0, first.output
    assert "mAP50-95" in first.output
    again = CliRunner().invoke(app, [*arguments, "--epochs", "2"])
    assert isinstance(again.exception, YoloquantError)
    assert "--resume" in str(again.exception)
    on = CliRunner().invoke(app, [*arguments, "--epochs", "2", "--resume"])
    assert on.exit_code == 0, on.output
    with (tmp_path / "run" / "results.csv").open(encoding="utf-8") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]


def test_a_second_run_into_one_folder_changes_nothing_in_it(data, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "options.json").write_text('{"hyperparameters": "of the run that goes on"}')
    with reserved(run), pytest.raises(YoloquantError, match="another run is writing"):
        train(small("yolov5n"), data, run, FAST)
    assert "of the run that goes on" in (run / "options.json").read_text()


@pytest.mark.parametrize(
    ("model", "options", "resume", "words"),
    [
        ("yolov99", FAST, False, "no file yolov99 and no architecture"),
        ("yolov5n", TrainingOptions(overrides=("mosiac=1",)), False, "did you mean 'mosaic'"),
        ("yolov5n", TrainingOptions(overrides=("lr0=-3",)), False, "hyperparameter lr0"),
        ("yolov5n", TrainingOptions(overrides=("lr0",)), False, "key=value"),
        ("yolov5n", TrainingOptions(overrides=("lr0=[1",)), False, "not a YAML value"),
        ("yolov5n", TrainingOptions(image_size=100), False, "choose multiples, as 128"),
        ("yolov5n", TrainingOptions(image_size=SIZE, activation="tanh"), False, "choose from relu"),
        ("yolov5n", FAST, True, "no run to resume"),
        ("yolov5n", TrainingOptions(device="abacus"), False, "'abacus' is no device"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_nothing_is_written(model, options, resume, words, data, tmp_path):
    with pytest.raises(YoloquantError, match=words):
        train(model, data, tmp_path / "run", options, resume=resume)
    assert not (tmp_path / "run").exists()


def test_a_train_split_without_labels_is_refused(tmp_path):
    data = write_generated_dataset(tmp_path / "data", train=2, val=1, size=SIZE)
    for file in (data.parent / "labels" / "train").iterdir():
        file.unlink()
    with pytest.raises(YoloquantError, match="has no labels"):
        train("yolov8n", data, tmp_path / "run", FAST)
    assert not (tmp_path / "run").exists()


def test_a_teacher_must_know_the_classes(data, tmp_path):
    with pytest.raises(YoloquantError, match="the classes it knows"):
        train(small("yolov5n", ("a", "b")), data, tmp_path / "run", TrainingOptions(distill=True, image_size=SIZE))


def test_hyperparameters_are_those_of_the_family():
    assert hyperparameters_for("yolo11").box == 7.5
    assert hyperparameters_for("yolov5").box == 0.05
    assert hyperparameters_for("yolov6", ["box=3"], lr0=0.5).model_dump()["box"] == 3
    with pytest.raises(RecipeError, match="choose from"):
        hyperparameters_for("yolov5", ["qqq=1"])


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("yolov5n", 1.872157),
        ("yolov8n", 3.1572 - 16e-6),
        ("yolov8s", 11.16656 - 16e-6),
        ("yolo11n", 2.62408 - 16e-6),
        ("yolo12n", 2.602288 - 16e-6),
        ("yolo26n", 2.57228),
    ],
)
def test_architectures_have_their_published_parameters(name, millions):
    """Counts of YOLOv8, 11 and 12 include the 16 constants of the integral over distances."""
    detector = build_detector(name, [str(index) for index in range(80)])
    assert sum(parameter.numel() for parameter in detector.network.parameters()) == round(millions * 1e6)


def test_every_architecture_has_a_builder():
    for name in ("yolov6s", "yolov8m"):
        assert name in ARCHITECTURES
    assert build_detector("yolov6s", ["a"], width=0.06).strides == (8, 16, 32)


def test_the_log_replaces_what_an_interruption_left_and_takes_new_columns(tmp_path):
    log = RunLog(tmp_path)
    log.write({"epoch": 0, "box": 1.0})
    log.write({"epoch": 1, "box": 0.9})
    RunLog(tmp_path).write({"epoch": 1, "box": 0.8, "mAP50-95": 12.5})
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["box"] for row in rows] == ["1.0", "0.8"]
    assert rows[1]["mAP50-95"] == "12.5"


def test_tensorboard_that_is_missing_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(YoloquantError, match="pip install tensorboard"):
        RunLog(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
