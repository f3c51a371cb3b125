"""Whole commands that are killed: nothing of the user's is lost, and a rerun ends as if nothing had been."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kills import COMMANDS, Command, Truth, after_a_kill, different, left, lost, missing, prepare, torn
from mutations import small_detector_file
from yoloquant.checkpoint.safetensors_file import save_detector
from yoloquant.data.synthetic import CLASS_NAMES


def save_small(path: Path) -> None:
    detector = small_detector_file(len(CLASS_NAMES))
    detector.input_size, detector.names = (64, 64), CLASS_NAMES
    save_detector(detector, path)


# Shares of a run's duration; the last changes are those of the exchange and of the report behind it.
MOMENTS = [{"seconds": 0.3}, {"seconds": 0.7}, *({"change": number} for number in (1, -3, -8, -16, -28))]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_moment_loses_nothing_and_a_rerun_ends_as_an_undisturbed_run(name, tmp_path):
    truth = prepare(tmp_path, COMMANDS[name], save_small)
    for moment in MOMENTS:
        if "seconds" in moment:
            chosen = {"seconds": moment["seconds"] * truth.seconds}
        else:
            chosen = {"change": moment["change"] if moment["change"] > 0 else truth.changes + moment["change"]}
        assert after_a_kill(COMMANDS[name], truth, tmp_path / "place", **chosen) == [], (name, chosen)


# What would be found, if a command were careless


def place_with(folder: Path, value: float) -> Path:
    (folder / "out").mkdir(parents=True)
    for name in ("quantized.safetensors", "best.safetensors"):
        save_file({"x": torch.full((3,), value)}, folder / "out" / name)
    for name in ("recipe.yaml", "metrics.json"):
        (folder / "out" / name).write_text(f"[{value}]\n")
    (folder / "out" / "report.html").write_text(f"<html>{value}</html>")
    (folder / "out" / "layers.csv").write_text(f"name,value\na,{value}\n")
    (folder / "notes.txt").write_text("of the user")
    return folder


@pytest.fixture
def truth(tmp_path):
    return Truth(place_with(tmp_path / "template", 1.0), place_with(tmp_path / "after", 2.0), 1.0, 1)


def careless(tmp_path: Path, start: str = "template") -> Path:
    return Path(shutil.copytree(tmp_path / start, tmp_path / "place"))


FILE_BY_FILE = Command((), (), False, ("best.safetensors",))
EXCHANGED = Command((), (), True, ("quantized.safetensors", "recipe.yaml"))


@pytest.mark.parametrize("name", ["best.safetensors", "recipe.yaml", "metrics.json", "report.html", "layers.csv"])
def test_a_file_that_was_cut_off_is_found(name, truth, tmp_path):
    place = careless(tmp_path)
    assert list(torn(FILE_BY_FILE, place, truth)) == []
    data = (tmp_path / "after" / "out" / name).read_bytes()
    (place / "out" / name).write_bytes(data)
    assert list(torn(FILE_BY_FILE, place, truth)) == []
    (place / "out" / name).write_bytes(data[: len(data) - 3])
    (fault,) = torn(FILE_BY_FILE, place, truth)
    assert fault.startswith(f"{name} is not whole")
    (place / "out" / name).unlink()
    assert list(torn(FILE_BY_FILE, place, truth)) == [f"{name} is missing"]


def test_an_output_that_is_neither_the_earlier_nor_the_new_one_is_found(truth, tmp_path):
    place = careless(tmp_path, "after")
    # There is no model.onnx in these.
    assert list(torn(EXCHANGED, place, truth)) == ["model.onnx is missing"]
    shutil.copy(tmp_path / "template" / "out" / "recipe.yaml", place / "out")
    assert "recipe.yaml is the earlier one beside new ones" in list(torn(EXCHANGED, place, truth))
    assert list(different(EXCHANGED, place, truth)) == ["recipe.yaml is not that of an undisturbed run"]


def test_what_is_lost_missing_or_left_is_found(truth, tmp_path):
    place = careless(tmp_path, "after")
    assert not [*lost(place, truth.template), *missing(place, truth), *left(place)]
    (place / "notes.txt").write_text("of another")
    (place / "new.txt").touch()
    (place / ".yoloquant-part-x").touch()
    (place / "out.partial").mkdir()
    assert list(lost(place, truth.template)) == ["new.txt is new", "notes.txt is changed"]
    assert sorted(left(place)) == [".yoloquant-part-x was left", "out.partial was left"]
    (place / "notes.txt").unlink()
    (place / "out" / "report.html").unlink()
    assert "notes.txt is lost" in list(lost(place, truth.template))
    assert list(missing(place, truth)) != []
