"""What leaves the machine: files without its folders, and names of classes and files that try to be more than names."""

import csv
import socket
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from rich.table import Table

from yoloquant.cli.console import OUT
from yoloquant.data.dataset import ImageEntry
from yoloquant.evaluation.drawing import draw_detections, side_by_side
from yoloquant.evaluation.evaluator import _below
from yoloquant.evaluation.postprocess import Detections
from yoloquant.exporting.onnx_export import export_onnx, strip_origins
from yoloquant.files.writing import named_path, write_rows
from yoloquant.report.charts import Bars, Point, Points
from yoloquant.report.page import Column, PageTable, TableRow, write_page

NAMES = {
    "script": "<script>alert(1)</script>",
    "quotes": "\"'><img src=x onerror=alert(1)>",
    "right to left": "\u202ecat\u2066",
    "long": "x" * 10_000,
    "markup": "[/red][bold]{{ 7 * 7 }}{% raw %}",
    "formula": "=HYPERLINK(1)",
    "lines": "a\nb\r\tc\0",
    "empty": "",
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
    for place in (str(Path.home()), str(Path(__file__).parent.parent), "site-packages", ".py", "Traceback", socket.gethostname()):
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


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_are_text_in_pages_and_charts(name, tmp_path):
    columns = (Column("name", True), Column("value"))
    table = PageTable("comparison", name, columns, (TableRow((name, "1.0")),), name)
    charts = [Points("p", name, name, name, (Point(1.0, 2.0, f"{name}: 1", True),)), Bars("b", name, name, {name: 1.0})]
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
