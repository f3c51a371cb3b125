"""The names that users import: these and no others, each there, described, and not hidden by a package of its name."""

import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import yoloquant
from yoloquant.cli import COMMANDS

VERBS = (
    "analyze", "benchmark", "check", "compare", "deliver", "evaluate", "export", "finetune", "predict", "quantize", "search",
    "train",
)  # fmt: skip
OPENERS = ("from_module", "load", "load_dataset", "load_recipe", "open_runner", "save")
NOUNS = (
    "DetectionDataset", "Detector", "Observer", "QuantizationPlacement", "QuantizedDetector", "Recipe", "Reporter", "Step",
    "Target", "TensorSpec",
)  # fmt: skip
# What a command writes, which can be read back; and what it only shows.
WRITTEN = ("Analysis", "CheckReport", "Evaluation", "Quantization", "Search", "Training")
SHOWN = ("Benchmark", "Comparison", "Delivered")
OPTIONS = (
    "AnalysisOptions", "EvaluationFiles", "EvaluationSettings", "Measure", "NmsOptions", "Output", "PredictionFiles",
    "PredictionSettings", "Preprocessing", "Report", "Source", "TrainingOptions",
)  # fmt: skip
ERRORS = ("CheckpointError", "DataError", "ExportError", "RecipeError", "YoloquantError")

# Commands that only explain or draw lots: what they show are values of the API (`Recipe`, `Target`, `Detector`, a list of
# images), and the demo is `quantize` on a set that it draws.
NOT_VERBS = {"demo", "inspect", "recipes", "targets", "sample_calibration"}
SOURCE = Path(yoloquant.__file__).parent


def test_the_names_are_these():
    assert sorted(yoloquant.__all__) == sorted((*VERBS, *OPENERS, *NOUNS, *WRITTEN, *SHOWN, *OPTIONS, *ERRORS))


@pytest.mark.parametrize("name", yoloquant.__all__)
def test_a_name_is_there_and_described(name):
    value = getattr(yoloquant, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__name__ == name
    assert value.__module__.startswith("yoloquant.")
    assert inspect.getdoc(value)


@pytest.mark.parametrize("name", [*VERBS, *OPENERS])
def test_a_function_says_what_each_parameter_is(name):
    function = getattr(yoloquant, name)
    text = inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters:
        assert f"{parameter}:" in text


@pytest.mark.parametrize("name", [*WRITTEN, *SHOWN, "Measure", "Report", "AnalysisOptions", "EvaluationSettings"])
def test_results_and_options_are_frozen_and_take_keywords(name):
    value = getattr(yoloquant, name)
    assert value.__dataclass_params__.frozen
    assert all(field.kw_only for field in value.__dataclass_fields__.values())


def test_no_package_hides_a_name_of_the_api():
    packages = {module.name for module in pkgutil.iter_modules(yoloquant.__path__)}
    assert not packages & set(yoloquant.__all__)


def test_verbs_and_commands_are_the_same():
    assert set(COMMANDS) - set(VERBS) == NOT_VERBS
    assert set(VERBS) <= set(COMMANDS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_in_the_flow_of_its_name_and_its_command_calls_it(verb):
    assert getattr(yoloquant, verb).__module__ == f"yoloquant.flows.{verb}"
    command = (SOURCE / "cli" / f"{verb}.py").read_text(encoding="utf-8")
    assert re.search(rf"from yoloquant\.flows\.{verb} import (\w+, )*{verb}\b", command)


@pytest.mark.parametrize("verb", [*VERBS, "save"])
def test_verbs_have_few_parameters(verb):
    count = len(inspect.signature(getattr(yoloquant, verb)).parameters)
    assert count <= (9 if verb == "quantize" else 11)


@pytest.mark.parametrize("name", [*WRITTEN, *SHOWN])
def test_a_result_is_text_and_values(name):
    result = getattr(yoloquant, name)
    assert inspect.isfunction(result.to_dict)
    assert "__str__" in vars(result)
    assert inspect.ismethod(getattr(result, "load", None)) == (name in WRITTEN)


def test_importing_it_is_light():
    code = "import sys, yoloquant; print(sorted({'torch', 'onnx', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="quantise"):
        yoloquant.quantise  # noqa: B018
