"""The site's written pages are those that the code would write today, complete, and every page is reached."""

import importlib.util
import re
from pathlib import Path

import pytest
import typer
import yaml

import yoloquant
from yoloquant.cli import COMMANDS, app
from yoloquant.targets.registry import TARGETS

ROOT = Path(__file__).parent.parent.parent


def script(name):
    """A script of scripts/, as a module."""
    found = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def section(page, title):
    """What stands below a heading of the second level."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("document_commands", "reference"),
        ("document_targets", "targets_page"),
        ("document_python", "python_reference"),
    ],
)
def test_a_written_page_is_current(name, page):
    module = script(name)
    assert module.PAGE.read_text(encoding="utf-8") == getattr(module, page)(), f"run python scripts/{name}.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_help_is_in_the_reference(command):
    name = command.replace("_", "-")
    text = section("command-reference.md", name)
    for parameter in typer.main.get_command(app).commands[name].params:
        for typed in (*parameter.opts, *parameter.secondary_opts):
            assert f"`{typed}`" in text, typed


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_a_section_with_its_rules_and_a_command(target):
    text = section("targets.md", target)
    assert f"--target {target} " in text
    for sentence in TARGETS[target].explain():
        assert sentence in text


def test_every_name_of_the_api_is_in_the_reference():
    text = (ROOT / "docs" / "python-reference.md").read_text(encoding="utf-8")
    for name in yoloquant.__all__:
        assert re.search(rf"^::: yoloquant\.[\w.]+\.{name}$", text, re.MULTILINE), name


def test_every_page_is_in_the_navigation():
    tabs = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    reached = [page if isinstance(page, str) else next(iter(page.values())) for tab in tabs for page in next(iter(tab.values()))]
    assert len(reached) == len(set(reached))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= set(reached)


def test_links_out_of_a_folder_become_links_between_pages():
    pytest.importorskip("mkdocs")
    links = script("site_pages").with_links_of_site
    assert links("[a](docs/qat.md#settings) [b](examples/README.md)", "") == "[a](qat.md#settings) [b](examples.md)"
    assert links("[a](../CONTRIBUTING.md) [b](qat.md) [c](https://x.org/y.md)", "docs") == (
        "[a](contributing.md) [b](qat.md) [c](https://x.org/y.md)"
    )
