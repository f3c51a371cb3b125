"""What commands write is read back as it was, and what is damaged is one sentence; verbs do in Python what commands do."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import yoloquant
from notes import Notes
from yoloquant.assets import demo_weights
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.table import TextTable

FEW = yoloquant.load_recipe("int8-minmax", ["calibration.images=4"])
ONE = yoloquant.Measure(runtimes=("onnxruntime",))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set, and whatever the commands write of it."""
    place = tmp_path_factory.mktemp("place")
    write_generated_dataset(place / "set", train=4, val=3)
    return place


@pytest.fixture(scope="module")
def data(place):
    return place / "set" / "data.yaml"


@pytest.fixture(scope="module")
def made(place, data):
    """Quantized, and nothing written."""
    return yoloquant.quantize(demo_weights(), data, recipe=FEW, measure=ONE)


@pytest.fixture(scope="module")
def delivered(made, place):
    return yoloquant.save(made, place / "out")


def analysis(place, data):
    options = yoloquant.AnalysisOptions(mode="block", parts=("both", "weights"), images=1)
    return yoloquant.analyze(demo_weights(), data, options, recipe=FEW, output=place / "analysis"), place / "analysis"


def search(place, data):
    found = yoloquant.search(demo_weights(), data, max_drop=100.0, recipe=FEW, output=place / "found.yaml")
    return found, place / "found.yaml"


def training(place, data):
    options = yoloquant.TrainingOptions(epochs=2, batch_size=4, image_size=64, workers=1, overrides=("mosaic=0",))
    return yoloquant.train(demo_weights(), data, place / "run", options), place / "run"


def evaluation(place, data):
    return yoloquant.evaluate(
        demo_weights(), data, files=yoloquant.EvaluationFiles(figures=place / "figures.json")
    ), place / "figures.json"


def check_report(place, _data):
    yoloquant.export(demo_weights(), place / "float.onnx")
    return yoloquant.check(place / "float.onnx", report=place / "findings.json"), place / "findings.json"


MADE = {
    "Analysis": (analysis, "analysis.json"),
    "Search": (search, "found.search.json"),
    "Training": (training, "run/best.safetensors"),
    "Evaluation": (evaluation, "figures.json"),
    "CheckReport": (check_report, "findings.json"),
}


def damaged(file):
    """What a file may become: cut off, of another kind, and other values in its place."""
    whole = file.read_bytes()
    yield from (whole[: len(whole) // 2], b"\0\xff", b"[1, 2]", b'{"rows": 3}', b"")


def assert_damage_is_told(load, path, file):
    whole = file.read_bytes()
    for content in damaged(file):
        file.write_bytes(content)
        with pytest.raises(yoloquant.YoloquantError) as told:
            load(path)
        assert "\n" not in str(told.value)
    file.unlink()
    with pytest.raises(yoloquant.YoloquantError):
        load(path)
    file.write_bytes(whole)


@pytest.mark.parametrize("name", MADE)
def test_what_a_verb_writes_is_read_back(name, place, data):
    make, file = MADE[name]
    result, path = make(place, data)
    kind = getattr(yoloquant, name)
    assert type(result) is kind
    again = kind.load(path)
    assert again.to_dict() == result.to_dict()
    assert str(again) == str(result)
    assert json.loads(json.dumps(again.to_dict()))
    assert_damage_is_told(kind.load, path, path / file if path.is_dir() and name == "Analysis" else place / file)


def test_a_damaged_log_of_a_training_is_told(place, data):
    folder = place / "run"
    if not folder.exists():
        training(place, data)
    log = folder / "results.csv"
    whole = log.read_bytes()
    for content in (b"", b"\0\xff", b"[1, 2]", whole.splitlines()[0]):
        log.write_bytes(content)
        with pytest.raises(yoloquant.YoloquantError, match=r"results\.csv is damaged"):
            yoloquant.Training.load(folder)
    log.write_bytes(whole)


def test_a_quantized_folder_is_read_back(delivered):
    again = yoloquant.Quantization.load(delivered.output)
    assert (
        again.to_dict()
        == delivered.to_dict()
        == json.loads((delivered.output / "metrics.json").read_text(), parse_int=int)
        | {
            "per_layer": delivered.to_dict()["per_layer"],
            "per_tensor": delivered.to_dict()["per_tensor"],
        }
    )
    assert again.layers
    assert str(again) == str(delivered)
    assert "onnxruntime" in str(again)
    assert_damage_is_told(yoloquant.Quantization.load, delivered.output, delivered.output / "metrics.json")


def test_nothing_is_written_until_it_is_delivered(made, delivered):
    assert made.output is None
    # What was measured once is not measured again, and what was made is what is delivered.
    assert delivered.rows == made.rows
    assert delivered.detector is made.detector
    assert delivered.commands[0].startswith("yoloquant quantize ")
    assert demo_weights().name in delivered.commands[0]
    assert "--recipe recipe.yaml --output out-again" in delivered.commands[0]
    assert {"report.html", "model.onnx", "metrics.json"} <= {path.name for path in delivered.output.iterdir()}


def test_a_detector_alone_is_delivered_with_its_recipe(delivered, data, tmp_path):
    loaded, measure = yoloquant.load(delivered.output), yoloquant.Measure(evaluate=False, runtimes=("onnxruntime",))
    assert isinstance(loaded, yoloquant.QuantizedDetector)
    options = {"measure": measure, "report": None}
    with pytest.raises(yoloquant.YoloquantError, match="does not know its recipe"):
        yoloquant.save(loaded, tmp_path / "again", data, **options)
    again = yoloquant.save(loaded, tmp_path / "again", data, recipe=FEW, **options)
    before, after = (onnx.load(str(path / "model.onnx")) for path in (delivered.output, again.output))
    assert {tensor.name: tensor.raw_data for tensor in before.graph.initializer} == {
        tensor.name: tensor.raw_data for tensor in after.graph.initializer
    }
    with pytest.raises(yoloquant.YoloquantError, match="would replace"):
        yoloquant.save(loaded, tmp_path / "again", tmp_path / "again" / "recipe.yaml", recipe=FEW, **options)
    with pytest.raises(yoloquant.YoloquantError, match="leave the recipe out"):
        yoloquant.save(yoloquant.Quantization.load(delivered.output), tmp_path / "new", data, recipe=FEW)


def test_a_search_is_delivered(place, data, tmp_path):
    found, path = search(place, data)
    measure = yoloquant.Measure(evaluate=False, runtimes=("onnxruntime",))
    result = yoloquant.save(found, tmp_path / "out", measure=measure, report=None)
    assert result.recipe == found.recipe == yoloquant.load_recipe(path)
    with pytest.raises(yoloquant.YoloquantError, match="holds no detector"):
        yoloquant.save(yoloquant.Search.load(path), tmp_path / "more", data)


def test_a_detector_remembers_its_file_and_how_it_was_opened(data, tmp_path):
    file = tmp_path / "x.safetensors"
    shutil.copy(demo_weights(), file)
    detector = yoloquant.load(file, input_size=96)
    assert detector.input_size == (96, 96)
    measure = yoloquant.Measure(evaluate=False, runtimes=())
    result = yoloquant.quantize(detector, data, recipe=FEW, output=tmp_path / "out", measure=measure, report=None)
    assert "--image-size 96" in result.commands[0]
    (tmp_path / "out" / "x.safetensors").touch()
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(file, inside / "quantized.safetensors")
    with pytest.raises(yoloquant.YoloquantError, match="would replace"):
        yoloquant.quantize(yoloquant.load(inside / "quantized.safetensors"), data, recipe=FEW, output=inside, report=None)


def test_what_is_loaded_is_what_it_is(delivered, tmp_path):
    assert isinstance(yoloquant.load(demo_weights()), yoloquant.Detector)
    assert isinstance(yoloquant.load(delivered.output), yoloquant.QuantizedDetector)
    detector = yoloquant.load(demo_weights())
    assert yoloquant.load(detector).network is detector.network
    quantized = yoloquant.load(delivered.output)
    assert yoloquant.load(quantized) is quantized
    with pytest.raises(yoloquant.YoloquantError, match="already quantized"):
        yoloquant.quantize(quantized, recipe=FEW)
    with pytest.raises(yoloquant.YoloquantError, match="name the one that it was quantized for"):
        yoloquant.export(quantized, tmp_path / "x.onnx")
    with pytest.raises(yoloquant.YoloquantError, match="leave both out"):
        yoloquant.load(delivered.output, input_size=96)


def test_models_and_data_sets_are_evaluated_however_they_are_given(delivered, data):
    figures = [
        yoloquant.evaluate(model, source, **options).to_dict()["figures"]
        for model, source, options in (
            (delivered.output, data, {"runtime": "torch"}),
            (yoloquant.load(delivered.output), yoloquant.Source(data), {}),
            (yoloquant.open_runner(delivered.output, "torch"), yoloquant.load_dataset(data), {}),
        )
    ]
    assert figures[0] == figures[1] == figures[2]


def test_no_output_of_a_verb_replaces_what_it_reads(delivered, data, place):
    image = next((place / "set" / "images" / "val").iterdir())
    for verb, arguments in (
        (yoloquant.evaluate, {"model": demo_weights(), "source": data, "files": yoloquant.EvaluationFiles(predictions=image)}),
        (
            yoloquant.evaluate,
            {"model": demo_weights(), "source": yoloquant.load_dataset(data), "files": yoloquant.EvaluationFiles(figures=data)},
        ),
        (yoloquant.check, {"file": delivered.output / "model.onnx", "report": delivered.output / "model.onnx"}),
        (yoloquant.export, {"model": delivered.output, "output": delivered.output / "model.onnx"}),
        (yoloquant.compare, {"folders": [delivered.output], "output": delivered.output / "metrics.json"}),
        (yoloquant.search, {"model": demo_weights(), "source": data, "max_drop": 1.0, "output": data}),
    ):
        with pytest.raises(yoloquant.YoloquantError, match="would replace"):
            verb(**arguments)
    with pytest.raises(yoloquant.YoloquantError, match="would stand among the images"):
        yoloquant.predict(demo_weights(), image.parent, image.parent)


def test_pictures_are_drawn_as_the_answer_is_read(place, tmp_path):
    folder, notes = place / "set" / "images" / "val", Notes()
    pictures = yoloquant.predict(demo_weights(), folder, tmp_path / "drawn", compare=demo_weights(), reporter=notes)
    assert not (tmp_path / "drawn").exists()
    paths = [Path(done.name) for done in pictures]
    assert sorted(paths) == sorted((tmp_path / "drawn").iterdir())
    assert len(paths) == len(list(folder.iterdir()))


def test_models_are_timed_and_folders_compared(delivered, tmp_path):
    files = [delivered.output / "model.onnx"]
    timed = yoloquant.benchmark(files, runtimes=["onnxruntime"], runs=2, warmup=0, layers=True)
    assert timed.to_dict()["models"][0]["executed"]["integer_layers"] == delivered.integer_layers
    assert str(files[0]) in str(timed)
    assert timed.layers
    compared = yoloquant.compare([delivered.output], tmp_path / "page.html", plots="png")
    assert {Path(entry["folder"]).name for entry in compared.to_dict()["entries"]} == {"out"}
    assert (tmp_path / "page").is_dir()
    assert "against float" in str(compared)


@given(st.lists(st.tuples(st.text("abc", max_size=5), st.floats(-100, 100).map("{:.2f}".format)), max_size=5))
def test_a_table_keeps_its_cells_in_columns(rows):
    lines = str(TextTable(("name", "value"), tuple(rows), "title")).splitlines()
    assert lines[0] == "title"
    assert len(lines) == len(rows) + 2
    for line, (_, value) in zip(lines[2:], rows, strict=True):
        assert line.endswith(value)
    assert len({len(line) for line in lines[2:]}) <= 1
