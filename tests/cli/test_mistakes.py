"""Mistakes on the command line: told in one sentence before anything long begins, and nothing is left behind."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from yoloquant.assets import demo_weights
from yoloquant.cli import app
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.errors import YoloquantError
from yoloquant.files.writing import checked_folder, replaced_whole
from yoloquant.flows.options import Measure
from yoloquant.flows.quantize import quantize


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a detector, a data set in several states, a quantized folder, and what is in the way of outputs."""
    place = tmp_path_factory.mktemp("place")
    shutil.copy(demo_weights(), place / "float.safetensors")
    data = write_generated_dataset(place / "set", train=4, val=2)
    (place / "set" / "two.yaml").write_text(data.read_text().replace("names:", "names: [a, b]\nothers:"))
    shutil.copytree(place / "set" / "images", place / "set" / "bare")
    (place / "set" / "bare.yaml").write_text(data.read_text().replace("images/", "bare/"))
    options = {"recipe": "int8-minmax", "measure": Measure(evaluate=False, runtimes=()), "report": None}
    quantize(demo_weights(), data, output=place / "quantized", **options)
    shutil.copytree(place / "quantized", place / "bare")
    (place / "bare" / "recipe.yaml").unlink()
    (place / "wrong.yaml").write_text("overrides: [{match: model.99.conv, weights: {bits: 8}}]")
    (place / "taken").mkdir()
    (place / "file.pt").touch()
    (place / "broken.mp4").write_bytes(b"no video" * 100)
    (place / "loop").symlink_to("loop")
    shutil.copytree(place / "quantized", place / "noted")
    (place / "noted" / "notes.txt").touch()
    (place / "set" / "train.txt").write_text("".join(f"{path}\n" for path in (place / "set" / "images" / "train").iterdir()))
    (place / "set" / "listed.yaml").write_text(data.read_text().replace("train: images/train", "train: train.txt"))
    return place


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


QUANTIZE = "quantize float.safetensors --output new --data set/"
ANALYZE = "analyze float.safetensors --output new --data set/data.yaml"
SEARCH = "search float.safetensors --data set/data.yaml --max-drop 1"
EXPORT = "export float.safetensors --output"
DATA = "--data set/data.yaml"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"{QUANTIZE}two.yaml", "the model has 8 classes but the data set has 2"),
        (f"{QUANTIZE}bare.yaml", "--no-evaluate quantizes without labels"),
        (f"quantize quantized --output new {DATA}", "quantized is already quantized: give the float checkpoint"),
        ("inspect quantized", "quantized is already quantized"),
        (f"analyze quantized --output new {DATA}", "quantized is already quantized"),
        ("inspect taken", "taken is a folder: give the checkpoint file in it"),
        (f"{ANALYZE} --mode foo", "the mode is one, all-but-one or block"),
        (f"{ANALYZE} --measure foo", "the measure is error or map"),
        (f"{ANALYZE} --target foo", "no target 'foo'"),
        (f"{ANALYZE} --recipe foo", "no recipe 'foo'"),
        (f"{ANALYZE} --set ignore=[model.99.conv]", "ignore pattern 'model.99.conv' matches no layer"),
        (f"{QUANTIZE}data.yaml --set weights.granularity=group --set target=reference", "set group_size, too"),
        (f"{QUANTIZE}data.yaml --recipe wrong.yaml", "override pattern 'model.99.conv' matches no layer"),
        (f"analyze none.pt --output new {DATA}", "no file none.pt"),
        ("analyze float.safetensors --output new --data none.yaml", "no data set none.yaml"),
        ("analyze float.safetensors --output new --measure map --data set/two.yaml", "the model has 8 classes"),
        (f"{SEARCH} --target foo", "no target 'foo'"),
        (f"{SEARCH} --model set", "holds other files"),
        (f"{SEARCH} --output none/found.yaml", "no folder none"),
        (f"{SEARCH} --output found.html", "give the recipe's, as found.yaml"),
        (f"{SEARCH} --raise-bits 99", "--raise-bits: target onnxruntime cannot run 99-bit integers"),
        ("demo --output new --target foo", "no target 'foo'"),
        ("demo --output set", "holds other files"),
        (f"{EXPORT} none/x.onnx", "no folder none"),
        (f"{EXPORT} taken", "taken is a folder: name a file"),
        (f"{EXPORT} x.onnx --calibration-cache x.cache", "--target tensorrt"),
        ("export quantized --output x.onnx --calibration-cache x.cache", "--target tensorrt"),
        (f"{EXPORT} x.onnx --image-size 100", "100x100 is not a multiple of the network's stride 32: choose multiples, as 128"),
        ("export bare --output x.onnx", "bare has no recipe.yaml"),
        ("check quantized/model.onnx --fix none/x.onnx", "no folder none"),
        ("check quantized/model.onnx --fix taken", "taken is a folder"),
        ("compare quantized --output none/x.html", "no folder none"),
        (f"sample-calibration {DATA} --output none/x.txt", "no folder none"),
        (f"sample-calibration {DATA} --output taken", "taken is a folder"),
        (f"eval float.safetensors {DATA} --predictions none/x.json", "no folder none"),
        ("predict float.safetensors set/images/val --output file.pt", "file.pt is a file: name a folder"),
        ("predict float.safetensors none.jpg", "there is no picture none.jpg"),
        ("predict float.safetensors nothing/*.jpg", "no image and no video matches nothing/*.jpg: check the pattern"),
        ("predict float.safetensors taken", "taken holds no images and no videos"),
        ("predict float.safetensors broken.mp4 --save-json new.jsonl", "broken.mp4 cannot be opened as a video: it is damaged"),
        ("predict float.safetensors 99", "camera 99 cannot be opened as a video: connect one"),
        ("predict float.safetensors rtsp://127.0.0.1:9/x", "rtsp://127.0.0.1:9/x cannot be opened as a video"),
        ("predict float.safetensors s3://me/x.jpg", "s3://me/x.jpg cannot be read: give an address of http"),
        ("predict float.safetensors set/images/val --classes nothing", "the model has no class 'nothing'"),
        ("predict float.safetensors set/images/val --classes 8", "the model has no class '8'"),
        ("predict float.safetensors set/images/val --save-json none/x.jsonl", "no folder none"),
        ("predict float.safetensors set/images/val --save-json float.safetensors", "which is read"),
        ("predict float.safetensors set/train.txt --no-draw --save-json set/train.txt", "which is read"),
        ("predict float.safetensors broken.mp4 --no-draw --save-json broken.mp4", "which is read"),
        ("predict float.safetensors broken.mp4 --output .", "would stand among the images that are read"),
        (f"eval float.safetensors {DATA} --plots gif", "png or pdf, not 'gif'"),
        (f"eval float.safetensors {DATA} --plots png --output file.pt", "file.pt is a file: name a folder"),
        (f"eval float.safetensors {DATA} --plots png --output loop", "leads to itself"),
        ("bench none.onnx", "there is no file none.onnx"),
        (f"train yolov8n {DATA} --output file.pt", "file.pt is a file: name a folder"),
        (f"train yolov8n {DATA} --output new --image-size 100", "choose multiples, as 128"),
        (f"finetune bare {DATA} --output new", "bare has no recipe.yaml"),
        ("predict float.safetensors set/images/val --output set/images/val", "would stand among the images that are read"),
        ("predict float.safetensors set/images --output set/images", "would stand among the images that are read"),
        (f"sample-calibration {DATA} --output set/data.yaml", "set/data.yaml would replace set/data.yaml, which is read"),
        ("sample-calibration --data set/listed.yaml --output set/train.txt", "which is read"),
        (f"eval float.safetensors {DATA} --predictions set/data.yaml", "which is read"),
        (f"eval float.safetensors {DATA} --predictions float.safetensors", "which is read"),
        ("check quantized/model.onnx --fix quantized/model.onnx", "which is read"),
        ("export float.safetensors --output float.safetensors", "which is read"),
        ("export quantized --output quantized/model.onnx", "would replace quantized, which is read"),
        ("compare quantized --output quantized/metrics.json", "would replace quantized, which is read"),
        (f"quantize quantized/model.onnx --output quantized {DATA}", "would replace quantized/model.onnx, which is read"),
        (f"quantize float.safetensors --recipe quantized/recipe.yaml --output quantized {DATA}", "which is read"),
        (f"quantize float.safetensors --output noted {DATA}", "holds notes.txt, which yoloquant did not write"),
        (f"finetune quantized {DATA} --output quantized", "would replace quantized, which is read"),
        (f"train yolov8n {DATA} --output set", "holds other files"),
        (f"{SEARCH} --output set/data.yaml", "which is read"),
        (f"{SEARCH} --output found.yaml --model quantized --recipe quantized/recipe.yaml", "which is read"),
        ("export float.safetensors --output loop", "leads to itself"),
        ("finetune quantized --data set/bare.yaml --output new", "training on labels needs label files"),
    ],
)
def test_nothing_begins_and_nothing_is_left(command, words, place, monkeypatch):
    monkeypatch.chdir(place)
    before = files(place)
    answer = CliRunner().invoke(app, command.split())
    assert isinstance(answer.exception, YoloquantError), answer.exception
    assert words in str(answer.exception)
    assert not any(step in answer.output for step in ("Calibrate", "Evaluate", "Draw the data set", "Train"))
    assert files(place) == before


@pytest.mark.parametrize(
    "command",
    [
        f"{QUANTIZE}data.yaml --plots png",
        f"{ANALYZE} --plots pdf",
        f"eval float.safetensors {DATA} --plots png --output new",
        "compare quantized quantized --output new.html --plots png",
    ],
)
def test_plots_without_matplotlib_are_refused_before_anything_begins(command, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else find(name))
    before = files(place)
    answer = CliRunner().invoke(app, command.split())
    assert isinstance(answer.exception, YoloquantError), answer.exception
    assert str(answer.exception) == 'plots need matplotlib, which is not installed: run `pip install "yoloquant[plots]"`'
    assert files(place) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"eval float.safetensors {DATA} --image-size 100", "100x100 is not a multiple of the network's stride 32"),
        (f"eval quantized {DATA} --image-size 256", "runs in onnxruntime at 192x192 pixels alone"),
        (f"eval quantized {DATA} --runtime openvino --rectangular", "runs in openvino at 192x192 pixels alone"),
        (f"eval quantized {DATA} --runtime torch --image-size 256", None),
        (f"eval float.safetensors {DATA} --image-size 256 --rectangular", None),
    ],
)
def test_models_are_evaluated_at_sizes_they_run_at(command, words, place, monkeypatch):
    monkeypatch.chdir(place)
    answer = CliRunner().invoke(app, command.split())
    if words is None:
        assert answer.exit_code == 0
    else:
        assert isinstance(answer.exception, YoloquantError), answer.exception
        assert words in str(answer.exception)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("old")

    def interrupted():
        with replaced_whole(file) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    with replaced_whole(file) as partial:
        partial.write_text("new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_folders_that_cannot_be_made_are_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(YoloquantError, match="file is a file; name another"):
        checked_folder(tmp_path / "file" / "new" / "one")
    assert checked_folder(tmp_path / "new" / "one") == tmp_path / "new" / "one"
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is write-protected from root")
def test_write_protected_folders_are_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(YoloquantError, match="write-protected"), replaced_whole(tmp_path / "x.txt"):
        pass
    with pytest.raises(YoloquantError, match="write-protected"):
        checked_folder(tmp_path / "new")
