"""What leaves the machine: files without its folders, and names of classes and files that try to be more than names."""

import csv
import json
import os
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import jinja2
import numpy as np
import onnx
import pytest
from rich.table import Table

from small_sets import coco
from yoloquant.cli.console import OUT
from yoloquant.cli.tables import on_screen
from yoloquant.data.dataset import DetectionDataset, ImageEntry
from yoloquant.data.sources import Source
from yoloquant.evaluation.drawing import draw_detections, side_by_side
from yoloquant.evaluation.evaluator import _below
from yoloquant.evaluation.postprocess import Detections
from yoloquant.evaluation.prediction_files import output_names
from yoloquant.evaluation.prediction_formats import json_line, label_rows
from yoloquant.evaluation.uncertainty import class_losses
from yoloquant.exporting.onnx_export import export_onnx, strip_origins
from yoloquant.files.writing import named_path, write_rows
from yoloquant.report.accuracy_charts import compared_charts, matrix
from yoloquant.report.charts import Bars, Curves, Line, Matrix, Point, Points
from yoloquant.report.class_losses import changed_confusions, class_chart, class_table
from yoloquant.report.headline import headline, set_name
from yoloquant.report.page import Column, PageTable, TableRow, write_page
from yoloquant.report.photographs import differing_photographs
from yoloquant.report.plots import save_charts
from yoloquant.report.svg import draw
from yoloquant.results.quantization import Row, with_drops

NAMES = {
    "script": "<script>alert(1)</script>",
    "quotes": "\"'><img src=x onerror=alert(1)>",
    "right to left": "\u202ecat\u2066",
    "long": "x" * 10_000,
    "markup": "[/red][bold]{{ 7 * 7 }}{% raw %}",
    "formula": "=HYPERLINK(1)",
    "lines": "a\nb\r\tc\0",
    "empty": "",
    "formula of matplotlib": r"$\frac{$",
    "folders": "../../etc/x",
}


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def elements(path):
    found = Elements()
    found.feed(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    from mutations import small_detector_file

    path = tmp_path_factory.mktemp("export") / "x.onnx"
    export_onnx(small_detector_file(), path, input_size=(64, 64))
    return path


def test_exported_files_name_no_place_of_this_machine(exported):
    content = exported.read_bytes()
    for place in (str(Path.home()), str(Path(__file__).parents[2]), "site-packages", ".py", "Traceback", socket.gethostname()):
        assert place.encode() not in content, place
    model = onnx.load(str(exported))
    assert {entry.key for entry in model.metadata_props} == {"names", "stride", "yoloquant"}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_origins_are_taken_out_of_graphs_in_graphs():
    inner = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"], doc_string="/home/me")], "inner", [], [])
    node = onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/me/x.py"')
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "outer", [], [], doc_string="/home/me"))
    strip_origins(model)
    assert b"/home/me" not in model.SerializeToString()


# Every command that leaves files, with inputs and outputs as absolute paths: what is in braces is one of them.
COMMANDS = (
    "quantize {model} --data {data} --recipe int8-minmax --limit 2 --image-size 64 --plots png --output {quantized}",
    "analyze {model} --data {data} --images 1 --plots png --output {analysis}",
    "search {model} --data {data} --max-drop 5 --output {found.yaml}",
    "train {model} --data {data} --epochs 1 --batch 4 --workers 1 --output {trained}",
    "finetune {quantized} --data {data} --teacher {model} --epochs 1 --set val_images=2 --output {finetuned}",
    "export {quantized} --nms --output {exported.onnx}",
    "export {model} --output {float.onnx}",
    "evaluate {quantized} --data {data} --predictions {found.json}",
    "compare {quantized} {finetuned} --output {compared.html}",
)


@pytest.mark.slow
def test_no_file_that_a_command_leaves_names_a_folder_of_the_machine_or_its_user(tmp_path):
    from mutations import small_detector_file
    from yoloquant.checkpoint.safetensors_file import save_detector
    from yoloquant.data.synthetic import CLASS_NAMES, write_generated_dataset

    own = tmp_path / "folder-of-zaphod"
    own.mkdir()
    detector = small_detector_file(len(CLASS_NAMES))
    detector.input_size, detector.names = (64, 64), CLASS_NAMES
    save_detector(detector, own / "model.safetensors")
    given = {"model": own / "model.safetensors", "data": write_generated_dataset(own / "set", train=4, val=2)}
    (tmp_path / "elsewhere").mkdir()
    user = {"HOME": str(own), "USER": "zaphod", "LOGNAME": "zaphod"}
    # The paths of torch's caches say nothing.
    environment = {**os.environ, **user, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    before = set(own.rglob("*"))
    for command in COMMANDS:
        words = [str(given.get(word[1:-1], own / word[1:-1])) if word[0] == "{" else word for word in command.split()]
        program = [sys.executable, "-m", "yoloquant", *words]
        ended = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path / "elsewhere", env=environment)
        assert ended.returncode == 0, ended.stderr
    files = [path for path in set(own.rglob("*")) - before if path.is_file()]
    places = (b"zaphod", bytes(tmp_path), bytes(Path(__file__).parents[2]), b"site-packages")
    found = [(str(path.relative_to(own)), place) for path in files for place in places if place in path.read_bytes()]
    assert len(files) > 30
    assert not found, str(found)


def test_paths_in_figures_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_path("set/data.yaml") == "set/data.yaml"
    assert named_path(tmp_path / "set" / "data.yaml") == "set/data.yaml"
    assert named_path("/home/me/data.yaml") == "data.yaml"
    entries = [ImageEntry(Path("/home/me/set/images/a.jpg"), 0), ImageEntry(Path("/home/me/set/images/b/c.jpg"), 1)]
    assert _below(["/home/me/set/images/b/c.jpg is damaged"], entries) == ("b/c.jpg is damaged",)


def test_cells_are_no_formulas(tmp_path):
    rows = [{"name": name, "value": -1.5} for name in ("=1+1", "+1", "-x", "@a", "\ta", "plain", "")]
    write_rows(tmp_path / "x.csv", rows)
    with (tmp_path / "x.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["name"] for row in read] == ["'=1+1", "'+1", "'-x", "'@a", "'\ta", "plain", ""]
    assert {row["value"] for row in read} == {"-1.5"}


def hostile_charts(name):
    return [
        Points("p", name, name, name, (Point(1.0, 2.0, f"{name}: 1", True),)),
        Bars("b", name, name, {name: 1.0}, errors={name: 0.5}),
        Curves("c", name, name, name, (0.0, 1.0), (Line(name, (0.0, 1.0)), Line("", (0.0, 1.0)), Line(name, (1.0, 0.0), True))),
        Matrix("m", name, name, name, (name, "background"), ((3, 1), (1, 0))),
    ]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_drawn_into_files_of_charts(name, tmp_path):
    files = save_charts(hostile_charts(name), tmp_path / "plots", "png")
    # In the folder, under names of their own, and of a size that a person can look at.
    assert sorted(tmp_path.rglob("*.png")) == sorted(files)
    assert len(files) == 4
    assert max(max(cv2.imread(str(path)).shape) for path in files) < 1500


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_text_in_pages_and_charts(name, tmp_path):
    columns = (Column("name", True), Column("value"))
    table = PageTable("comparison", name, columns, (TableRow((name, "1.0")),), name)
    charts = hostile_charts(name)
    write_page("comparison.html.j2", tmp_path / "x.html", title=name, table=table, charts=charts)
    empty = PageTable("comparison", "t", columns, (), "t")
    write_page("comparison.html.j2", tmp_path / "plain.html", title="t", table=empty, charts=[])
    found, plain = elements(tmp_path / "x.html"), elements(tmp_path / "plain.html")
    # The page's own scripts, and no other; no handlers of events.
    assert found.tags.count("script") == plain.tags.count("script")
    assert "img" not in found.tags
    assert not {attribute for attribute in found.attributes if attribute.startswith("on")} - set(plain.attributes)
    if name and "\0" not in name:
        assert name.split("\n")[0] in found.text


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_drawn_into_pictures(name):
    image = np.zeros((60, 80, 3), np.uint8)
    found = Detections(np.array([[10, 10, 40, 40]], np.float32), np.array([0.5], np.float32), np.array([0]))
    drawn = draw_detections(image, found, [name])
    assert drawn.shape == image.shape
    assert side_by_side([(name, drawn), (name, drawn)]).shape == (88, 160, 3)
    assert cv2.imencode(".jpg", drawn)[0]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_no_markup_on_the_screen(name):
    table = Table("name", title=name)
    table.add_row(name)
    with OUT.capture() as capture:
        OUT.print(table)
        OUT.print(name)
    # Brackets are shown, not followed.
    assert "[/red]" not in name or "[/red][bold]" in capture.get()


def test_names_that_try_more_pass_through_a_file_and_back(tmp_path):
    from mutations import small_detector_file
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.checkpoint.safetensors_file import save_detector

    detector = small_detector_file()
    detector.names = (NAMES["script"], NAMES["lines"])
    save_detector(detector, tmp_path / "x.safetensors")
    assert read_detector(tmp_path / "x.safetensors").names == detector.names


@pytest.fixture
def hostile_pair():
    """Evaluations of two models on one image whose only class has the given name, and rows of them."""
    from test_uncertainty import evaluation_of

    def make(name):
        truth = coco({1: [[10, 10, 20, 20]]})
        truth["categories"][0]["name"] = name
        rows = [{"image_id": 1, "category_id": 0, "bbox": [x, 10, 20, 20], "score": 0.9} for x in (10, 60)]
        return [evaluation_of(truth, [row], [1]) for row in rows]

    return make


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_text_in_the_page_that_is_forwarded(name, hostile_pair, tmp_path):
    """The parts of report.html that name classes and files: table, confusions, photographs, headline."""
    before, after = hostile_pair(name)
    classes = class_losses(before, after)
    file = tmp_path / "<img src=x onerror=alert(1)>.png"
    cv2.imwrite(str(file), np.zeros((80, 100, 3), np.uint8))
    photographs = differing_photographs({1: file}, before, after, [name])
    assert [(found.lost, found.new, found.kept) for found in photographs] == [(1, 1, 0)]
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("yoloquant.report", "templates"), autoescape=True, undefined=jinja2.ChainableUndefined
    )
    page.filters["draw"] = draw
    rows = with_drops([Row(model=model, runtime="onnxruntime", evaluation=found, latency=None, file_size=size)
                       for model, found, size in (("float", before, 200), ("int8", after, 100))])  # fmt: skip
    text = page.get_template("quantization.html.j2").render(
        title=name, sections={"accuracy": name, "photographs": name, "classes": name}, label=name, runtime=name,
        headline=headline(rows, name), facts={name: name}, subject=name, photographs=photographs,
        curves=compared_charts({"float": before, name: after}), matrices=[matrix(before, [name], "m", name)],
        confusions=changed_confusions(before, after, [name], name), classes=class_table(classes, name),
        class_chart=class_chart(classes), versions={}, drawing=Bars("n", name, name, {name: 1.0}), result={"seconds": {}},
        noise={"points": ()}, summary={"rows": ()}, parity=class_table([], name), layers=class_table([], name),
        tensors=class_table([], name), steps=["1"],
    )  # fmt: skip
    found = Elements()
    found.feed(text)
    assert found.tags.count("script") == 1
    assert found.tags.count("img") == 3
    assert not {attribute for attribute in found.attributes if attribute.startswith("on")}
    assert "2.0 times smaller" in text


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_values_in_what_predict_and_evaluate_write(name, hostile_pair, tmp_path):
    found = Detections(np.array([[10, 10, 40, 40]], np.float32), np.array([0.5], np.float32), np.array([0]))
    line = json.dumps(json_line(name, (60, 80), found, [name], 3))
    assert "\n" not in line
    assert json.loads(line)["detections"][0]["category_name"] == json.loads(line)["file_name"] == name
    assert label_rows((60, 80), found).split() == ["0", "0.312500", "0.416667", "0.375000", "0.500000"]
    before, _ = hostile_pair(name)
    with OUT.capture() as capture:
        OUT.print(on_screen(before.table(per_class=True)))
    assert "[/red]" not in name or "[/red][bold]" in capture.get()
    assert json.loads(json.dumps(before.to_dict()))["classes"][0]["name"] == name


def test_addresses_become_names_of_files_below_the_output():
    addresses = ["http://me:secret@host/a/../../etc/x.jpg?key=1", "http://host/", "rtsp://host/%2e%2e/live", "http://host/x.jpg"]
    sources = [Source(address, "picture") for address in addresses]
    names = [name.as_posix() for name in output_names(sources).values()]
    assert names == ["x.jpg", "host.jpg", "live.jpg", "x-1.jpg"]
    assert "secret" not in "".join(source.label for source in sources)


def test_the_headline_names_no_folder(tmp_path):
    dataset = DetectionDataset((), (), files=(Path("/home/me/set/data.yaml"),))
    assert set_name(dataset) == "data.yaml"
    assert set_name(None) == set_name(DetectionDataset((), ())) == ""
