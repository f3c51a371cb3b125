"""The names that users import: these and no others, each there, described, and not hidden by a package of its name."""

import inspect
import pkgutil
import subprocess
import sys

import pytest

import yoloquant
from yoloquant.cli import COMMANDS

NOUNS = ("DetectionDataset", "Detector", "QuantizedDetector", "Recipe", "Step", "Target", "TensorSpec")
OPTIONS = ("EvaluationSettings", "TrainingOptions", "YoloquantError")
VERBS = ("analyze", "check", "evaluate", "finetune", "quantize", "search", "train")
OTHERS = (
    "detector_from_live",
    "from_module",
    "export_onnx",
    "load_dataset",
    "load_quantized",
    "load_recipe",
    "open_runner",
    "read_detector",
)


def test_the_names_are_these():
    assert sorted(yoloquant.__all__) == sorted((*NOUNS, *OPTIONS, *VERBS, *OTHERS))


@pytest.mark.parametrize("name", yoloquant.__all__)
def test_a_name_is_there_and_described(name):
    value = getattr(yoloquant, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__module__.startswith("yoloquant.")
    assert inspect.getdoc(value)


@pytest.mark.parametrize("name", [*VERBS, *OTHERS])
def test_a_function_says_what_each_parameter_is(name):
    function = getattr(yoloquant, name)
    text = inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters:
        assert f"{parameter}:" in text or len(inspect.signature(function).parameters) == 1


def test_no_package_hides_a_name_of_the_api():
    packages = {module.name for module in pkgutil.iter_modules(yoloquant.__path__)}
    assert not packages & set(yoloquant.__all__)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_a_command_of_its_name(verb):
    assert verb in COMMANDS


def test_importing_it_is_light():
    code = "import sys, yoloquant; print(sorted({'torch', 'onnx', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="quantise"):
        yoloquant.quantise  # noqa: B018
