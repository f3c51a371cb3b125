"""The command line as a user meets it: what works, and one sentence with exit code 2 for what does not."""

import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

import yoloquant
from yoloquant.cli import COMMANDS, app
from yoloquant.errors import first_line


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "yoloquant", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "missing.pt"], ["there is no file", "missing.pt"]),
        (["eval", "missing.onnx", "--data", "missing.yaml"], ["there is no data set", "missing.yaml"]),
        (["quantize", "missing.pt", "--data", "missing.yaml", "--set", "weights.bitz=4"], ["did you mean", "bits"]),
        (["export", "missing.pt", "--output", "y.engine"], ["y.engine", "export writes ONNX files, whose names end in .onnx"]),
        (["recipes", "int9"], ["there is no recipe", "int8"]),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, words, tmp_path):
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words)


def test_importing_the_package_is_light():
    code = "import sys, yoloquant; print([m for m in ('torch', 'onnxruntime', 'openvino', 'matplotlib') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_recipes_and_targets_are_explained():
    runner = CliRunner()
    recipes = runner.invoke(app, ["recipes"])
    assert recipes.exit_code == 0
    assert "int8-minmax" in recipes.output
    targets = runner.invoke(app, ["targets"])
    assert targets.exit_code == 0
    assert "tensorrt" in targets.output


def test_inspect_shows_an_official_checkpoint(shared):
    result = run("inspect", str(shared / "weights" / "yolov5n.pt"))
    assert result.returncode == 0
    for fact in ("yolov5", "1,872,157", "8, 16, 32", "model.24.m.0", "80: person"):
        assert fact in result.stdout


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError("\n  first\nsecond"), "first"), (RuntimeError(), "RuntimeError"), (OSError("\n"), "OSError")]
)
def test_other_libraries_errors_are_quoted_by_one_line(error, line):
    assert first_line(error) == line


def named(command):
    """A command of the application, as click has it."""
    return typer.main.get_command(app).commands[command]


@pytest.mark.parametrize(
    ("name", "alias"),
    [("--image-size", "--imgsz"), ("--confidence", "--conf"), ("--max-detections", "--max-det"), ("--batch-size", "--batch")],
)
def test_options_have_the_names_that_people_type(name, alias):
    """In every command that has the option by either name."""
    found = 0
    for command in COMMANDS:
        names = {each for option in named(command.replace("_", "-")).params for each in option.opts}
        assert (name in names) == (alias in names), command
        found += name in names
    assert found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_called_as_its_file_and_has_help(command):
    answer = CliRunner().invoke(app, [command.replace("_", "-"), "-h"])
    assert answer.exit_code == 0
    assert "Usage" in answer.output


@pytest.mark.parametrize(("old", "new"), [("eval", "evaluate"), ("bench", "benchmark")])
def test_earlier_names_still_work_and_are_not_shown(old, new):
    assert [option.opts for option in named(old).params] == [option.opts for option in named(new).params]
    assert named(old).hidden
    assert not named(new).hidden


def test_the_version():
    answer = CliRunner().invoke(app, ["--version"])
    assert answer.exit_code == 0
    assert answer.output.split() == ["yoloquant", version("yoloquant")]
    assert yoloquant.__version__ == version("yoloquant")
    assert {"quantize", "__version__"} <= set(dir(yoloquant))
