"""Folders side by side."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from yoloquant.cli import app
from yoloquant.errors import YoloquantError
from yoloquant.report.comparison import comparison_charts, pareto_front
from yoloquant.results.comparison import cells, read_entries

number = st.integers(0, 6).map(float)


@given(points=st.lists(st.tuples(number, number), min_size=1, max_size=12))
def test_the_front_holds_what_nothing_beats(points):
    front = [point for point, best in zip(points, pareto_front(points), strict=True) if best]
    assert front
    # Walking along the front, more cost always buys more worth.
    distinct = sorted(set(front))
    assert [worth for _, worth in distinct] == sorted({worth for _, worth in distinct})
    for point in points:
        assert any(cost <= point[0] and worth >= point[1] for cost, worth in front)


def folder(tmp_path, name, drop, latency, rows=True, images=634, error=None):
    path = tmp_path / name
    path.mkdir()

    def row(model, accuracy, milliseconds, size):
        figures = {"figures": {"mAP50-95": accuracy}, "image_count": images}
        return {
            "model": model,
            "runtime": "onnxruntime",
            "evaluation": figures,
            "latency_ms": {"median": milliseconds},
            "file_size": size,
        }

    content = {
        "recipe": {"target": "onnxruntime"},
        "rows": [row("float", 27.0, 20.0, 8_000_000), row("int8", 27.0 - drop, latency, 3_000_000)],
    }
    if error is not None:
        content["rows"][1]["drop"] = {"value": drop, "error": error}
    (path / "metrics.json").write_text(json.dumps(content if rows else {**content, "rows": []}))
    return path


def test_table_and_page(tmp_path):
    paths = [folder(tmp_path, "a<b>", 0.3, 12.0), folder(tmp_path, "b", 1.0, 16.0)]
    entries = read_entries(paths)
    # Float, the same in both folders, stands first and once.
    assert [(round(entry.drop, 2), round(entry.ratio, 2), entry.megabytes) for entry in entries] == [
        (0.0, 1.0, 8.0),
        (0.3, 0.6, 3.0),
        (1.0, 0.8, 3.0),
    ]
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["compare", *map(str, paths), "--output", str(page)])
    assert result.exit_code == 0, result.output
    assert "0.60" in result.output
    text = page.read_text()
    assert "a&lt;b&gt;" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert text.count("<circle") == 6
    # Of both pictures float, which is the most accurate, and the folder that nothing beats.
    assert text.count('class="a best"') == 4


def test_fake_quantizers_are_not_what_one_can_choose(tmp_path):
    path = folder(tmp_path, "a", 0.3, 12.0)
    content = json.loads((path / "metrics.json").read_text())
    content["rows"] += [{**row, "runtime": "torch"} for row in content["rows"]]
    (path / "metrics.json").write_text(json.dumps(content))
    entries = read_entries([path])
    assert [(entry.model, entry.runtime) for entry in entries if entry.runtime == "torch"] == [
        ("float", "torch"),
        ("int8", "torch"),
    ]
    assert [len(chart.points) for chart in comparison_charts(entries)] == [2, 2]


def test_figures_of_different_images_are_not_compared(tmp_path):
    paths = [folder(tmp_path, name, 0.3, 12.0, images=images) for name, images in (("a", 634), ("b", 100))]
    answer = CliRunner().invoke(app, ["compare", *map(str, paths)])
    assert isinstance(answer.exception, YoloquantError)
    assert "b on 100 and a on 634: evaluate all of them on the same ones" in str(answer.exception)


def test_folders_without_figures_are_refused(tmp_path):
    with pytest.raises(YoloquantError, match="without measuring"):
        read_entries([folder(tmp_path, "empty", 0.0, 1.0, rows=False)])
    with pytest.raises(YoloquantError, match=r"no readable metrics\.json"):
        read_entries([tmp_path])


def test_drops_carry_their_standard_error_where_it_was_written(tmp_path):
    paths = [folder(tmp_path, "new", 0.3, 12.0, error=0.1834), folder(tmp_path, "old", 0.4, 12.0)]
    found = {entry.folder: cells(entry) for entry in read_entries(paths) if entry.model == "int8"}
    assert found["new"][5] == "0.30 ± 0.18"
    assert found["old"][5] == "0.40"
    answer = CliRunner().invoke(app, ["compare", *map(str, paths), "--output", str(tmp_path / "page.html")])
    assert "0.30 ± 0.18" in answer.output
    assert "0.30 ± 0.18" in (tmp_path / "page.html").read_text(encoding="utf-8")
