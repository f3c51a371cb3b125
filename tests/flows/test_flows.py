"""Presets, analysis and search on the shipped detector and a small generated set."""

import json

import pytest

from yoloquant.algorithms.detection_ranges import DetectionRanges
from yoloquant.algorithms.mixed_precision import MixedPrecision
from yoloquant.algorithms.reconstruction.step import Reconstruct
from yoloquant.assets import demo_weights
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.errors import YoloquantError
from yoloquant.flows.analyze import AnalysisOptions, analyze
from yoloquant.flows.options import Measure
from yoloquant.flows.quantize import quantize
from yoloquant.flows.search import search
from yoloquant.recipe.recipe import load_recipe, presets
from yoloquant.runtime.executed_layers import executed_layers

UNMEASURED = Measure(evaluate=False, runtimes=())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_generated_dataset(tmp_path_factory.mktemp("set"), train=12, val=12)


def short(name):
    """A preset whose learning takes two steps, and that measures on two images."""
    recipe = load_recipe(name)
    changes = {Reconstruct: {"iterations": 2, "images": 4}, DetectionRanges: {"images": 2}, MixedPrecision: {"images": 2}}
    steps = tuple(step.model_copy(update=changes.get(type(step), {})) for step in recipe.algorithms)
    return recipe.model_copy(update={"algorithms": steps})


# 4w4f has what is special in files of all few bits; the others are the slow half of this.
@pytest.mark.parametrize(
    "name",
    [
        "4w4f",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("4w8f", "4w8f-channel", "mixed-4-8", "int8-power-of-two")),
    ],
)
def test_low_bit_presets_make_files_that_onnxruntime_runs(name, data, tmp_path):
    # Groups that do not divide the channels, and 8-bit layers beside them, are what OpenVINO has to read, too.
    runtimes = ("onnxruntime", "openvino") if name in ("4w8f", "mixed-4-8") else ("onnxruntime",)
    measure = Measure(evaluate=False, runtimes=runtimes)
    result = quantize(demo_weights(), data, recipe=short(name), output=tmp_path / "out", measure=measure)
    assert all(parity.agrees for parity in result.parity)
    assert not (tmp_path / "out.partial").exists()
    bits = json.loads((tmp_path / "out" / "metrics.json").read_text())["weight_bits"]
    assert set(bits.values()) == ({8} if "int8" in name else {4, 8})
    if name == "4w8f":
        # The demo's file holds half precision.
        assert (tmp_path / "out" / "model.onnx").stat().st_size < demo_weights().stat().st_size
    if name == "int8-power-of-two":
        scales = [quantizer.scale.log2() for _, quantizer in result.detector.quantizers()]
        assert all(bool((scale == scale.round()).all()) for scale in scales)


def test_every_preset_is_a_valid_recipe_with_a_sentence():
    assert all(load_recipe(name) and len(sentence) > 20 for name, sentence in presets().items())


@pytest.mark.slow
def test_mixed_precision_keeps_its_budget_through_the_whole_flow(data):
    overrides = ("algorithms=[calibrate, {mixed_precision: {average_bits: 5, images: 2}}]",)
    result = quantize(demo_weights(), data, recipe=load_recipe("8w8f", overrides), measure=UNMEASURED)
    weights = {name: quantizer.spec.bits for name, quantizer in result.detector.quantizers() if name.endswith("weight_quantizer")}
    sizes = {
        f"{name}_quantizer": parameter.numel()
        for name, parameter in result.detector.network.named_parameters()
        if name.endswith("weight")
    }
    average = sum(weights[name] * sizes[name] for name in weights) / sum(sizes[name] for name in weights)
    assert 4.0 < average <= 5.0
    assert set(weights.values()) == {4, 8}


def test_what_is_placed_runs_in_integers(data, tmp_path):
    result = quantize(
        demo_weights(),
        data,
        recipe="int8-mse",
        output=tmp_path / "out",
        measure=Measure(evaluate=False, runtimes=("onnxruntime",)),
    )
    executed = executed_layers(tmp_path / "out" / "model.onnx", "onnxruntime")
    assert len(executed.integer) == result.quantized_layers


def test_analysis_from_a_file_to_a_page_and_on_again(data, tmp_path):
    options, output = AnalysisOptions(parts=("both",), images=2, mode="block"), tmp_path / "analysis"
    found = analyze(demo_weights(), data, options, output=output)
    assert {result.mode for result in found.sensitivities} == {"block"}
    lines = (tmp_path / "analysis" / "measurements.jsonl").read_text().splitlines()
    assert len(lines) == len(found.sensitivities)
    again = analyze(demo_weights(), data, options, output=output)
    assert again.sensitivities == found.sensitivities
    assert len((tmp_path / "analysis" / "measurements.jsonl").read_text().splitlines()) == len(lines)
    by_map = analyze(demo_weights(), data, AnalysisOptions(parts=("both",), measure="map", mode="block", fast=6, images=1))
    assert len(by_map.sensitivities) == len(found.sensitivities)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(YoloquantError, match="holds other files"):
        analyze(demo_weights(), data, output=other)


@pytest.mark.slow
def test_search_reaches_its_goal_with_few_evaluations(data, tmp_path):
    options = {"recipe": load_recipe("8w8f", ["weights.bits=2"]), "output": tmp_path / "found.yaml"}
    found = search(demo_weights(), data, max_drop=20.0, **options)
    assert found.found_map >= found.float_map - 20.0
    assert 0 < len(found.layers) < 60
    assert found.evaluations <= 12
    # One layer fewer was measured, and missed the goal.
    assert found.curve[len(found.layers) - 1] < found.float_map - 20.0
    assert set(found.recipe.ignore) == set(found.layers)
    again = search(demo_weights(), data, max_drop=20.0, **options)
    assert again.curve == found.curve
    with pytest.raises(YoloquantError, match="above the float model's own"):
        search(demo_weights(), data, target_map=100.0, **options)
    with pytest.raises(YoloquantError, match="one goal"):
        search(demo_weights(), data, **options)


@pytest.mark.slow
def test_search_for_latency_may_take_all_layers_and_times_whole_files(data):
    found = search(demo_weights(), data, max_drop=15.0, recipe="8w8f", target="onnxruntime", optimize_latency=True)
    assert found.found_map >= found.float_map - 15.0
    assert found.runtime == "onnxruntime"
    # The file with nothing changed is timed in any case.
    assert set(found.latency) == {0, *found.curve}
    assert found.ratio(len(found.layers)) == pytest.approx(found.latency[len(found.layers)].median / found.float_latency.median)
    assert found.recipe.output_layers == "quantized"
    with pytest.raises(YoloquantError, match="another machine"):
        search(demo_weights(), data, max_drop=1.0, target="tensorrt", optimize_latency=True)


@pytest.mark.slow
def test_a_budget_of_time_is_measured_in_the_targets_runtime(data):
    overrides = ("algorithms=[calibrate, {mixed_precision: {latency: 10.0, images: 2}}]",)
    result = quantize(demo_weights(), data, target="onnxruntime", recipe=load_recipe("int8-mse", overrides), measure=UNMEASURED)
    # With time to spare every layer stays in float, and nothing errs.
    assert result.quantized_layers == 0
    with pytest.raises(YoloquantError, match="for another machine"):
        quantize(demo_weights(), data, target="tensorrt", recipe=load_recipe("int8-mse", overrides), measure=UNMEASURED)
