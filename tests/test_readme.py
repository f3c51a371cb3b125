"""README's Python runs as it stands, and no name of the API is hidden by a module of the same name."""

import pkgutil
import re
import shutil
from pathlib import Path

import pytest

import yoloquant
from yoloquant.assets import demo_weights
from yoloquant.data.synthetic import write_generated_dataset

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_readme_has_python():
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_python_of_readme_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_generated_dataset(tmp_path / "set", train=4, val=2)
    Path("data.yaml").write_text(data.read_text().replace("path: .", f"path: {data.parent}"))
    # The reader's checkpoint, in the format that the shipped one has.
    shutil.copy(demo_weights(), "network.safetensors")
    exec(block.replace("yolov8n.pt", "network.safetensors"), {})
    assert "'mAP50-95'" in capsys.readouterr().out


def test_no_module_hides_a_name_of_the_api():
    modules = {module.name for module in pkgutil.iter_modules(yoloquant.__path__)}
    assert not modules & set(yoloquant.__all__)
