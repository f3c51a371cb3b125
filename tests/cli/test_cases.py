"""Small data sets as users report them, through every command that reads data."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from yoloquant.checkpoint.safetensors_file import save_detector
from yoloquant.cli import app
from yoloquant.data.dataset import load_dataset
from yoloquant.models.registry import build_detector


@pytest.fixture(scope="module")
def place(shared, tmp_path_factory):
    """The cases, writable, and a small detector of their classes."""
    place = tmp_path_factory.mktemp("cases")
    shutil.copytree(shared / "cases", place, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for path in place.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    names = load_dataset(shared / "cases" / "relative_yaml" / "data.yaml").names
    detector = build_detector("yolov5n", names, 64, seed=0, width=0.05)
    save_detector(detector, place / "model.safetensors")
    # Calibration lists and folders with an image that cannot be decoded among good ones.
    good = place / "relative_yaml" / "images" / "val"
    mixed = place / "mixed" / "images" / "val"
    shutil.copytree(good, mixed)
    shutil.copytree(place / "relative_yaml" / "labels", place / "mixed" / "labels")
    shutil.copyfile(place / "huge_image" / "huge.png", mixed / "huge.png")
    shutil.copyfile(place / "relative_yaml" / "data.yaml", place / "mixed" / "data.yaml")
    return place


class Reached(Exception):
    """A command has read all its data, and told what is wrong with it."""


# What follows after data sets are read: minutes for all cases together, so that only slow tests go through it.
THEN = {
    "quantize": "yoloquant.flows.quantize.begin",
    "analyze": "yoloquant.flows.analyze.quantized_in_memory",
    "search": "yoloquant.flows.search._Search",
}


@pytest.fixture(autouse=True, params=["read", pytest.param("whole", marks=pytest.mark.slow)])
def whole(request, monkeypatch):
    """Whether commands run to their end."""

    def stop(*_, **__):
        raise Reached

    for name in THEN.values() if request.param == "read" else ():
        monkeypatch.setattr(name, stop)


def run(place, folder, command, monkeypatch):
    """Output of a command in one of the cases' folders, without line breaks."""
    monkeypatch.chdir(place / folder)
    for left in ("out", "found.yaml", "list.txt"):
        shutil.rmtree(left, ignore_errors=True)
    result = CliRunner().invoke(app, command.split(), catch_exceptions=True)
    if isinstance(result.exception, Reached):
        result.exit_code = 0
    return result, " ".join((result.output + str(result.exception or "")).split())


QUICK = "--recipe int8-minmax --set calibration.images=2"
COMMANDS = {
    "eval": "eval ../model.safetensors --data {data}",
    "quantize": f"quantize ../model.safetensors --data {{data}} --output out {QUICK} --no-report --target reference",
    "train": "train ../model.safetensors --data {data} --output out --epochs 1 --batch 2",
    "analyze": f"analyze ../model.safetensors --data {{data}} --output out {QUICK} --measure map --fast 2 --mode block",
    "search": f"search ../model.safetensors --data {{data}} --output found.yaml {QUICK} --max-drop 100",
    "sample-calibration": "sample-calibration --data {data} --output list.txt",
    "predict": "predict ../model.safetensors {images} --output out",
}
WITH_LABELS = ("eval", "quantize", "train", "analyze", "search")
FOLDERS = {"relative_yaml": "images/val", "roboflow_layout": "valid/images"}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_layouts_are_found_by_relative_paths(place, folder, command, monkeypatch):
    result, text = run(place, folder, COMMANDS[command].format(data="data.yaml", images=FOLDERS[folder]), monkeypatch)
    assert result.exit_code == 0, text


def figures(place, folder, monkeypatch, name="data.yaml"):
    result, _ = run(place, folder, f"eval ../model.safetensors --data {name} --predictions list.txt", monkeypatch)
    assert result.exit_code == 0
    return [line for line in result.output.splitlines() if line.startswith("│")]


@pytest.mark.parametrize("folder", ["duplicate_labels", "pose_columns", "roboflow_layout"])
def test_figures_are_those_of_the_plain_set(place, folder, monkeypatch):
    plain = figures(place, "relative_yaml", monkeypatch)
    assert figures(place, folder, monkeypatch) == plain
    assert figures(place, "relative_yaml", monkeypatch, place / "relative_yaml" / "data.yaml") == plain


@pytest.mark.parametrize("command", WITH_LABELS)
def test_duplicate_rows_are_counted(place, command, monkeypatch):
    result, text = run(place, "duplicate_labels", COMMANDS[command].format(data="data.yaml"), monkeypatch)
    assert result.exit_code == 0, text
    assert "duplicate label: 18; the first:" in text
    assert "000000000285.txt, line 2" in text


@pytest.mark.parametrize("command", WITH_LABELS)
def test_a_set_of_malformed_rows_alone_is_refused(place, command, monkeypatch):
    result, text = run(place, "labels_all_malformed", COMMANDS[command].format(data="data.yaml"), monkeypatch)
    assert result.exit_code != 0
    assert "no label row can be used, 18 cannot; the first:" in text
    assert "000000000285.txt, line 1: malformed label" in text
    assert not any((place / "labels_all_malformed" / left).exists() for left in ("out", "found.yaml"))


ANNOTATED = {name: COMMANDS[name] for name in ("eval", "quantize", "analyze", "search")}


@pytest.mark.parametrize("command", ANNOTATED)
def test_wrong_annotations_are_counted(place, command, monkeypatch):
    arguments = ANNOTATED[command].format(data="data.yaml") + " --annotations instances_val.json"
    result, text = run(place, "coco_negative_width", arguments, monkeypatch)
    assert result.exit_code == 0, text
    assert "box without area: 1; the first:" in text
    assert "annotation 2: box without area [10, 10, -5, 20], left out" in text
    assert "unknown category: 1; the first:" in text
    assert "000000000632.jpg is not in instances_val.json" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_images_that_cannot_be_decoded_are_skipped_and_named(place, command, monkeypatch):
    result, text = run(place, "mixed", COMMANDS[command].format(data="data.yaml", images="images/val"), monkeypatch)
    assert result.exit_code == 0, text
    assert "huge.png cannot be decoded: it has more than 128 million pixels" in text


@pytest.mark.parametrize("command", ["quantize", "analyze", "search"])
def test_calibration_skips_and_names_what_cannot_be_decoded(place, command, monkeypatch):
    arguments = COMMANDS[command].format(data="data.yaml") + " --calibration ../mixed/images/val"
    result, text = run(place, "relative_yaml", arguments, monkeypatch)
    assert result.exit_code == 0, text
    assert "skipped: " in text
    assert "huge.png cannot be decoded" in text
    refused, text = run(place, "relative_yaml", arguments.replace("../mixed/images/val", "../huge_image"), monkeypatch)
    assert refused.exit_code != 0
    assert "none of the 1 images can be read; the first: " in text


def test_predictions_keep_apart_images_of_one_name(place, monkeypatch):
    result, text = run(place, "mixed", "predict ../model.safetensors images ../relative_yaml/images --output out", monkeypatch)
    assert result.exit_code == 0, text
    drawn = sorted(path.name for path in (place / "mixed" / "out").rglob("*.jpg"))
    assert drawn == ["000000000285.jpg"] * 2 + ["000000000632.jpg"] * 2


def test_written_boxes_have_the_ids_of_the_annotations(place, monkeypatch):
    command = "eval ../model.safetensors --data data.yaml --annotations instances_val.json --predictions list.txt"
    content = json.loads((place / "coco_negative_width" / "instances_val.json").read_text())
    for number, category in enumerate(content["categories"]):
        category["id"] = 1000 + number
    for annotation in content["annotations"]:
        annotation["category_id"] += 1000
    (place / "coco_negative_width" / "instances_val.json").write_text(json.dumps(content))
    result, text = run(place, "coco_negative_width", command, monkeypatch)
    assert result.exit_code == 0, text
    rows = json.loads((place / "coco_negative_width" / "list.txt").read_text())
    assert {row["image_id"] for row in rows} <= {1}
    assert all(1000 <= row["category_id"] < 1080 for row in rows)
