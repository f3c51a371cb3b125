"""Python of the README and of docs/python.md runs as it stands, and no name of the API is hidden by a module of the same name."""

import pkgutil
import re
import shutil
from pathlib import Path

import pytest

import yoloquant
from yoloquant.assets import demo_weights
from yoloquant.data.synthetic import write_generated_dataset

ROOT = Path(__file__).parents[2]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The reader's folder: a checkpoint, a data set, a list of images to calibrate on, and pictures."""
    monkeypatch.chdir(tmp_path)
    data = write_generated_dataset(tmp_path / "set", train=4, val=2)
    Path("data.yaml").write_text(data.read_text().replace("path: .", f"path: {data.parent}"))
    shutil.copy(demo_weights(), "network.safetensors")
    Path("calibration.txt").write_text("".join(f"{path}\n" for path in (data.parent / "images" / "train").iterdir()))
    shutil.copytree(data.parent / "images" / "val", "pictures")
    return tmp_path


def run(block, names):
    # The reader's checkpoint, in the format that the shipped one has.
    exec(block.replace("yolov8n.pt", "network.safetensors"), names)


def test_pages_have_python():
    assert blocks("README.md")
    assert len(blocks("docs/python.md")) > 5


@pytest.mark.parametrize("block", blocks("README.md"))
def test_python_of_readme_runs(block, place, capsys):
    run(block, {})
    assert "'mAP50-95'" in capsys.readouterr().out


def test_python_of_the_page_runs_in_its_order(place, capsys):
    names = {}
    for block in blocks("docs/python.md"):
        run(block, names)
        assert capsys.readouterr().out or "assert" in block
    for verb in ("quantize", "deliver", "evaluate", "predict", "benchmark", "compare", "check", "export", "analyze", "search"):
        assert f"yq.{verb}(" in (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_page_names_every_result_and_option():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    for name in yoloquant.__all__:
        value = getattr(yoloquant, name)
        if value.__module__.startswith(("yoloquant.results", "yoloquant.flows")):
            assert name in page, name


def test_no_module_hides_a_name_of_the_api():
    modules = {module.name for module in pkgutil.iter_modules(yoloquant.__path__)}
    assert not modules & set(yoloquant.__all__)
