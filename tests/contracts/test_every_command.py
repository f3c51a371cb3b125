"""What all commands have in common: groups and an example in the help, figures as JSON, a next command, options from a file."""

import json
import re
import shlex
import shutil

import pytest
import typer
from typer.testing import CliRunner

from yoloquant.assets import demo_weights
from yoloquant.cli import COMMANDS, app
from yoloquant.cli.config import take_options
from yoloquant.cli.groups import GROUP_OF
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.errors import RecipeError

SMALL = "--set calibration.images=4"
# A line for each command, in an order in which each finds what it reads.
LINES = {
    "inspect": "net.safetensors",
    "recipes": "int8",
    "targets": "openvino",
    "sample_calibration": "--data data.yaml --count 2",
    "export": "net.safetensors --output float.onnx",
    "quantize": f"net.safetensors --data data.yaml --target openvino --output out --limit 1 --no-report {SMALL}",
    "evaluate": "out --data data.yaml --limit 1",
    "predict": "net.safetensors set/images/val --image-size 64 --no-draw",
    "benchmark": "float.onnx out --runs 1 --warmup 0 --threads 1",
    "compare": "out",
    "analyze": f"net.safetensors --data data.yaml --image-size 64 --images 1 --mode block {SMALL}",
    "search": f"net.safetensors --data data.yaml --image-size 64 --max-drop 90 {SMALL}",
    "check": "out/model.onnx --target openvino",
    "deliver": "out --format openvino --output delivered",
    "train": "net.safetensors --data data.yaml --epochs 1 --batch 2 --imgsz 64 --device auto",
    "finetune": "out --data data.yaml --output trained --epochs 1 --batch 2 --no-evaluate --set val_images=1",
    "demo": "",
}
# Those that print no figures, or write a line of JSON for each picture as they go.
WITHOUT_FIGURES = {"export", "recipes", "targets", "sample_calibration", "predict"}


def parsed(command):
    """A command of the application with its parameters."""
    return typer.main.get_command(app).commands[command.replace("_", "-")]


def names_of(command):
    return {name for each in parsed(command).params for name in (*each.opts, *each.secondary_opts)}


def check_line(line):
    """The line calls a command that there is, with options that it has."""
    program, command, *words = shlex.split(line)
    assert program == "yoloquant"
    assert command.replace("-", "_") in COMMANDS
    assert {word for word in words if word.startswith("--")} <= names_of(command)
    return command


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint and a data set in a folder."""
    folder = tmp_path_factory.mktemp("place")
    write_generated_dataset(folder / "set", train=4, val=2)
    (folder / "data.yaml").write_text((folder / "set" / "data.yaml").read_text().replace("path: .", "path: set"))
    shutil.copy(demo_weights(), folder / "net.safetensors")
    return folder


def test_every_command_is_tried():
    assert set(LINES) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_in_an_example_that_the_command_takes(command):
    (line,) = re.findall("`(.*)`", parsed(command).epilog)
    assert check_line(line) == command.replace("_", "-")


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_long_commands_stand_in_groups(command):
    options = [each for each in parsed(command).params if each.param_type_name == "option" and each.name != "help"]
    grouped = [each for each in options if each.rich_help_panel]
    assert len(options) - len(grouped) <= 6
    assert len(options) < 8 or len({each.rich_help_panel for each in grouped}) > 1


def test_groups_name_parameters_that_there_are():
    assert set(GROUP_OF) <= {each.name for command in COMMANDS for each in parsed(command).params}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_print_figures_print_them_as_json(command):
    assert ("--json" in names_of(command)) == (command not in WITHOUT_FIGURES)


@pytest.mark.parametrize("command", [pytest.param(name, marks=pytest.mark.slow) if name == "demo" else name for name in LINES])
def test_a_command_names_the_next_and_only_figures_are_on_standard_output(command, place, monkeypatch):
    monkeypatch.chdir(place)
    as_json = [] if command in WITHOUT_FIGURES else ["--json"]
    done = CliRunner().invoke(app, [command.replace("_", "-"), *shlex.split(LINES[command]), *as_json], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (line,) = re.findall("^next: (.*)$", done.stderr, re.MULTILINE)
    check_line(line)
    if as_json:
        assert isinstance(json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name)), dict)
    else:
        assert "next: " not in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_may_stand_in_the_file_by_any_name_it_is_typed_by(command, tmp_path):
    name = command.replace("_", "-")
    for option in parsed(command).params:
        for typed in (each for each in option.opts if each.startswith("--") and option.name != "help"):
            file = tmp_path / "options.yaml"
            file.write_text(f"{name}: {{{typed.lstrip('-')}: x}}")
            context = typer.main.get_command(app).make_context("yoloquant", [name])
            take_options(context, file)
            assert context.default_map == {name: {option.name: "x"}}


def test_the_file_gives_options_even_required_ones_and_what_is_typed_wins(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "options.yaml").write_text("sample-calibration: {data: data.yaml, count: 1, output: from-file.txt}")
    line = ["--config", "options.yaml", "sample-calibration"]
    for typed, count in (([], 1), (["--count", "3"], 3)):
        assert CliRunner().invoke(app, [*line, *typed]).exit_code == 0
        assert len((place / "from-file.txt").read_text().splitlines()) == count


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quantise: {}", "did you mean 'quantize'"),
        ("quantize: {tarjet: openvino}", "did you mean 'target'"),
        ("quantize: 3", "write options as"),
        ("[", "is not valid YAML"),
    ],
)
def test_mistakes_in_the_file_of_options_are_told(text, words, tmp_path):
    (tmp_path / "options.yaml").write_text(text)
    done = CliRunner().invoke(app, ["--config", str(tmp_path / "options.yaml"), "targets"])
    assert isinstance(done.exception, RecipeError)
    assert words in str(done.exception)
