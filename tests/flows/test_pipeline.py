"""The whole flow on the shipped detector and a small generated set, and on official files."""

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from notes import Notes
from yoloquant.assets import demo_weights
from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.checkpoint.read import read_detector
from yoloquant.data.dataset import load_dataset
from yoloquant.data.source import Source
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
from yoloquant.evaluation.uncertainty import map_loss
from yoloquant.exporting.folder import load_quantized
from yoloquant.flows.add_report import add_report
from yoloquant.flows.options import Measure, Report
from yoloquant.flows.quantize import quantize
from yoloquant.progress import Clock
from yoloquant.recipe.recipe import load_recipe
from yoloquant.report.plots import save_charts
from yoloquant.report.quantization_page import report_charts
from yoloquant.results.quantization import Quantization
from yoloquant.runtime.onnxruntime_runner import STAND_IN
from yoloquant.runtime.open import load, open_runner
from yoloquant.runtime.registry import open_onnx
from yoloquant.runtime.torch_runner import TorchRunner

UNMEASURED = Measure(evaluate=False, runtimes=())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_generated_dataset(tmp_path_factory.mktemp("set"), train=16, val=32)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("quantized") / "out"
    return quantize(demo_weights(), data, target="onnxruntime", output=output, measure=Measure(runtimes=("onnxruntime",)))


def with_exact_sums(file, data):
    """mAP of a file in ONNX Runtime where no processor saturates sums of 8-bit products."""
    runner = open_onnx(file, "onnxruntime", metadata=replace(read_metadata(file), target=STAND_IN))
    return evaluate(runner, load_dataset(data)).map50_95


def table_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_begins_with_what_it_is_about(finished):
    page = (finished.output / "report.html").read_text()
    subject = r"<p>\w+, \d+ classes, \d+ x \d+ pixels, evaluated on 32 images; made on 20\d\d-\d\d-\d\d on .+, \d+ cores?\.</p>"
    assert re.search(subject, page)
    size = r"[\d.]+ times smaller"
    speed = r"([\d.]+ times (faster|slower)|as fast as the float model) on ONNX Runtime"
    loss = r"(lost|gained) [\d.]+ ± [\d.]+ mAP on 32 images of .*data\.yaml"
    assert re.search(rf'<p class="headline">{size}, {speed}, {loss}\.</p>', page)
    assert page.index('class="headline"') < page.index(re.search(subject, page).group())
    assert re.search(r"<strong>[\d.]+ → [\d.]+</strong>ms for an image in ONNX Runtime, \d+% of the float model", page)
    assert len(re.findall(r"</strong>[^<]* (in|for) ONNX Runtime", page)) == 4


def test_losses_carry_their_standard_error_wherever_they_are_told(finished, data):
    loss = map_loss(finished.row("float", "onnxruntime").evaluation, finished.row("int8", "onnxruntime").evaluation)
    assert loss.error > 0.0
    drops = [row["drop"] for row in json.loads((finished.output / "metrics.json").read_text())["rows"]]
    assert drops[0] is drops[2] is None
    assert drops[3] == pytest.approx({"value": loss.value, "error": loss.error})
    assert str(loss) in (finished.output / "report.html").read_text(encoding="utf-8")
    assert finished.table().rows[3][3] == str(Quantization.load(finished.output).rows[3].drop) == str(loss)
    rows = table_of(finished.output / "classes.csv")
    certainty = [float(row["drop"]) / max(float(row["standard_error"]), 1e-9) for row in rows]
    assert certainty == sorted(certainty, reverse=True)
    objects = load_dataset(data).ground_truth["annotations"]
    counts = {name: sum(a["category_id"] == index for a in objects) for index, name in enumerate(finished.detector.names)}
    assert {row["class"]: int(row["objects"]) for row in rows} == counts


def test_the_table_compares_float_and_int8_in_each_runtime(finished, data):
    assert [(row.model, row.runtime) for row in finished.rows] == [
        ("float", "torch"), ("int8", "torch"), ("float", "onnxruntime"), ("int8", "onnxruntime"),
    ]  # fmt: skip
    scores = {(row.model, row.runtime): row.evaluation.map50_95 for row in finished.rows}
    assert scores["float", "torch"] == pytest.approx(scores["float", "onnxruntime"], abs=0.05)
    assert scores["int8", "torch"] == pytest.approx(with_exact_sums(finished.output / "model.onnx", data), abs=0.5)
    assert scores["int8", "torch"] == pytest.approx(scores["int8", "onnxruntime"], abs=1.5)
    assert scores["int8", "torch"] > scores["float", "torch"] - 3
    # Timed where the file belongs, and not with fake quantizers.
    assert [row.runtime for row in finished.rows if row.latency] == ["onnxruntime", "onnxruntime"]
    sizes = {row.model: row.file_size for row in finished.rows if row.file_size}
    assert sizes["int8"] < sizes["float"] / 2.5


def test_the_folder_holds_what_is_promised(finished):
    folder = finished.output
    assert sorted(path.name for path in folder.iterdir()) == [
        "classes.csv", "layers.csv", "metrics.json", "model.onnx", "quantized.safetensors", "recipe.yaml", "report.html",
    ]  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["rows"][1]["evaluation"]["figures"]["mAP50-95"] == pytest.approx(finished.rows[1].evaluation.map50_95)
    assert metrics["calibration_images"] == 16
    # Nothing is left beside the folder.
    assert list(folder.parent.iterdir()) == [folder]


class Page(HTMLParser):
    """Ids, links, resources and table rows of a page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.resources, self.rows, self.inside = [], [], [], [], None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.resources += [given[key] for key in ("src", "href") if key in given and tag != "a"]
        if tag == "tr":
            self.rows.append([])
        self.inside = tag

    def handle_data(self, data):
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())


def test_the_report_stands_alone_and_says_what_was_measured(finished):
    folder = finished.output
    page = Page(folder / "report.html")
    assert len(page.ids) == len(set(page.ids))
    assert page.links
    assert all(target.startswith("#") and target[1:] in page.ids for target in page.links)
    assert all(resource.startswith("data:") for resource in page.resources)
    assert "http" not in (folder / "report.html").read_text(encoding="utf-8")
    assert sum(resource.startswith("data:image/jpeg") for resource in page.resources) >= 2
    text = [" ".join(row) for row in page.rows]
    for row in json.loads((folder / "metrics.json").read_text())["rows"]:
        figure = f"{row['evaluation']['figures']['mAP50-95']:.2f}"
        assert any(row["runtime"] in line and figure in line for line in text)
    layers = table_of(folder / "layers.csv")
    assert len(layers) == finished.layer_count
    kept = {layer.name for layer in finished.float_layers}
    assert {row["layer"] for row in layers if row["precision"] == "float"} >= kept
    assert all(any(row["layer"] in line for line in text) for row in layers)
    classes = table_of(folder / "classes.csv")
    assert {row["class"] for row in classes} == set(finished.detector.names)


@pytest.mark.slow
def test_without_a_report_the_folder_holds_the_model_alone(data, tmp_path):
    quantize(demo_weights(), data, output=tmp_path / "out", measure=UNMEASURED, report=None, recipe="int8-minmax")
    assert not {"report.html", "layers.csv"} & {path.name for path in (tmp_path / "out").iterdir()}


def break_down(*_, **__):
    raise ZeroDivisionError("planted")


PARTS = {
    "figures of layers and tensors": (
        "yoloquant.flows.add_report.tensor_statistics",
        {"report.html", "layers.csv", "classes.csv", "plots"},
    ),
    "report": ("yoloquant.report.quantization_page.write_rows", {"plots"}),
    "charts": ("yoloquant.report.plots.plot", {"report.html", "layers.csv", "classes.csv"}),
}


# Without the page all charts are drawn, which takes minutes.
@pytest.mark.parametrize("part", [pytest.param(part, marks=pytest.mark.slow) if part == "report" else part for part in PARTS])
def test_a_part_of_the_report_that_fails_costs_itself_alone(part, data, finished, tmp_path, monkeypatch):
    place, kept = PARTS[part]
    monkeypatch.setattr(place, break_down)
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("model.onnx", "metrics.json"):
        shutil.copy(finished.output / name, folder / name)
    result, notes = replace(finished, output=folder, layers=(), statistics=()), Notes()
    entries = load_dataset(data, "val").images[:4]
    result = add_report(result, None, entries, None, "png", notes, Clock())
    assert [note for note in notes.told if part in note and "ZeroDivisionError: planted" in note] == notes.told
    assert len(notes.told) == 1
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "metrics.json"} | kept
    assert list(tmp_path.iterdir()) == [folder]
    assert bool(json.loads((folder / "metrics.json").read_text())["per_layer"]) == bool(result.layers)


def test_the_network_is_in_place_before_the_report_is_made(data, tmp_path, monkeypatch):
    def look(result, *_):
        assert load_quantized(result.output).network
        raise KeyboardInterrupt

    monkeypatch.setattr("yoloquant.report.quantization_page.write_report", look)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        quantize(demo_weights(), data, output=output, measure=UNMEASURED, recipe="int8-minmax")
    assert {path.name for path in output.iterdir()} == {"metrics.json", "model.onnx", "quantized.safetensors", "recipe.yaml"}


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_plots_are_files_of_their_own(suffix, finished, tmp_path):
    charts = report_charts(finished)
    names = [chart.name for chart in charts]
    assert len(names) == len(set(names))
    kinds = {type(chart): chart for chart in charts}
    files = save_charts(kinds.values(), tmp_path, suffix)
    assert len(files) == len(kinds) >= 4
    magic = {"png": b"\x89PNG", "pdf": b"%PDF"}[suffix]
    assert all(path.read_bytes().startswith(magic) for path in files)


def test_other_formats_of_plots_are_refused(data, tmp_path):
    with pytest.raises(YoloquantError, match="png or pdf"):
        quantize(demo_weights(), data, output=tmp_path / "out", report=Report(plots="gif"))
    assert not (tmp_path / "out").exists()


def test_the_folder_answers_as_before(finished):
    images = np.random.default_rng(0).random((2, 3, 192, 192), dtype=np.float32)
    again = TorchRunner(load_quantized(finished.output))(images)
    np.testing.assert_array_equal(again, TorchRunner(finished.detector)(images))


def test_a_folder_is_evaluated_like_any_model(finished, data):
    dataset = load_dataset(data)
    answer = evaluate(open_runner(finished.output), dataset, EvaluationSettings())
    assert answer.map50_95 == pytest.approx(finished.row("int8", "onnxruntime").evaluation.map50_95)


@pytest.mark.slow
def test_float_layers_and_low_bits_by_recipe(data):
    result = quantize(
        demo_weights(),
        data,
        target="reference",
        recipe=load_recipe("int8", ["weights.bits=4", "ignore=['model.24.*']", "algorithms=[calibrate]"]),
        measure=UNMEASURED,
    )
    specs = {name: quantizer.spec for name, quantizer in result.detector.quantizers()}
    assert specs["model.0.conv.weight_quantizer"].bits == 4
    assert not any(name.startswith("model.24") for name in specs)
    assert result.quantized_layers == result.layer_count - 3


def test_what_cannot_be_done_is_told_before_anything_is_written(data, tmp_path):
    with pytest.raises(DataError, match="calibration needs images"):
        quantize(demo_weights())
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(YoloquantError, match="holds other files"):
        quantize(demo_weights(), data, output=tmp_path)
    with pytest.raises(YoloquantError, match="is a file"):
        quantize(demo_weights(), data, output=tmp_path / "thesis.txt")
    with pytest.raises(YoloquantError, match="not a multiple of the network's stride"):
        quantize(load(demo_weights(), input_size=200), data, output=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_official_yolov5_is_quantized_and_right_in_onnx_runtime(shared, tmp_path):
    result = quantize(
        load(shared / "checkpoints" / "yolov5n_v60_custom2.pt", input_size=320),
        Source(calibration=shared / "coco" / "train2017.txt"),
        recipe=load_recipe("int8", ["calibration.images=8"]),
        output=tmp_path / "out",
        measure=Measure(evaluate=False),
    )
    assert {parity.runtime for parity in result.parity} >= {"onnxruntime"}
    assert all(parity.agrees for parity in result.parity)
    assert open_runner(tmp_path / "out").names == ("helmet", "vest")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "recipe", "drop"), [("onnxruntime", "int8", 0.3), ("openvino", "int8", 0.3), ("tensorrt", "int8", 0.8)]
)
def test_mean_average_precision_on_all_photographs(shared, target, recipe, drop):
    result = quantize(shared / "weights" / "yolov5n.pt", shared / "coco" / "data.yaml", target=target, recipe=recipe)
    in_float = result.row("float", "torch").evaluation.map50_95
    in_torch = result.row("int8", "torch").evaluation.map50_95
    assert in_float - in_torch <= drop
    assert result.row("int8", "onnxruntime").evaluation.map50_95 == pytest.approx(in_torch, abs=0.1)


def test_demo_weights_are_small_and_known():
    assert demo_weights().stat().st_size < 5_000_000
    assert read_detector(demo_weights()).names[0] == "circle"
