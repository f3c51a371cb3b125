"""Sensitivity, statistics and search: against planted layers, brute force, and a record that survives a kill."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from small_networks import SIZE, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.analysis.costs import error_cost, noise_along
from yoloquant.analysis.sensitivity import Record, block_quantizers, ranked_layers, select, sensitivities
from yoloquant.analysis.tensor_statistics import tensor_statistics
from yoloquant.data.images import to_input
from yoloquant.flows.analyze import AnalysisOptions, analyze, write_analysis
from yoloquant.flows.search import _least, with_layers
from yoloquant.graph.capture import block_name, capture
from yoloquant.quant.fake_quantize import State
from yoloquant.recipe.recipe import Recipe, load_recipe
from yoloquant.report import charts
from yoloquant.results.analysis import Analysis
from yoloquant.targets.layer_rules import Override
from yoloquant.targets.registry import get_target


def detector_with_coarse(layer="deep.conv"):
    """All 8 bit, but one layer's weights of 3."""

    def choose(name, tensor, spec):
        return spec.with_changes(bits=3 if name == layer and tensor == "weights" else 8)

    detector = quantized_detector(get_target("reference"), choose=choose)
    calibrate(detector, [images(4)])
    return detector


@pytest.mark.parametrize("mode", ["one", "all-but-one", "block"])
def test_the_coarse_layer_comes_first_and_all_is_put_back(mode):
    detector = detector_with_coarse()
    results = sensitivities(detector, error_cost(detector, images(3)), mode, ("both", "weights", "activations"))
    first = next(ranked_layers(results))
    assert first == ("deep" if mode == "block" else "deep.conv")
    assert all(quantizer.state is State.QUANTIZE for _, quantizer in detector.quantizers())
    costs = {(result.name, result.part): result.cost for result in results}
    if mode == "one":
        # One part alone costs something, and the layer's own error is that of a detector with nothing else quantized.
        assert costs["deep.conv", "weights"] > 0
        others = [quantizer for name, quantizer in detector.quantizers() if not name.startswith("deep.conv.weight")]
        for quantizer in others:
            quantizer.state = State.PASS
        reference = capture(SmallNetwork().eval(), SIZE)
        x = to_input(images(3))
        with torch.no_grad():
            changed = [not torch.equal(a, b) for a, b in zip(detector.network(x), reference(x), strict=True)]
        assert all(changed)


def test_parts_and_blocks_divide_the_quantizers():
    detector = detector_with_coarse()
    everything = {id(quantizer) for _, quantizer in detector.quantizers()}
    blocks = block_quantizers(detector)
    assert {id(quantizer) for group in blocks.values() for quantizer in group} == everything
    for group in blocks.values():
        assert len(select(group, "weights")) + len(select(group, "activations")) == len(select(group, "both"))
    assert block_name("model.4.cv1.conv.weight_quantizer") == "model.4"
    assert block_name("/model.4/cv1/conv/Conv") == "model.4"
    assert block_name("stem.conv") == "stem"


def test_a_killed_run_repeats_no_layer(tmp_path):
    detector = detector_with_coarse()
    cost = error_cost(detector, images(2))
    path = tmp_path / "measurements.jsonl"
    calls = []

    def counted(d):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return cost(d)

    with pytest.raises(KeyboardInterrupt):
        sensitivities(detector, counted, "one", record=Record(path, "k"))
    assert all(quantizer.state is State.QUANTIZE for _, quantizer in detector.quantizers())
    # The kill came while a line was written.
    path.write_text(path.read_text() + '{"key": "k", "na')
    path.write_text(path.read_text() + "\n")
    again = sensitivities(detector, counted, "one", record=Record(path, "k"))
    assert len(calls) == 4 + 3
    whole = sensitivities(detector, cost, "one")
    assert [(a.name, pytest.approx(a.cost)) for a in whole] == [(b.name, b.cost) for b in again]
    # Another key is another detector: nothing is taken from it.
    assert Record(path, "other").get("deep.conv", "one", "both") is None


def test_statistics_are_those_of_all_values():
    network = SmallNetwork()
    detector = quantized_detector(get_target("reference"), network)
    calibrate(detector, [images(2)])
    entries = {entry.name: entry for entry in tensor_statistics(detector, [images(2), images(2, seed=4)])}
    x = to_input(torch.cat([images(2), images(2, seed=4)]))
    with torch.no_grad():
        shallow = network.stem(x)
    entry = entries["stem.act.output"]
    quantizer = dict(detector.quantizers())["stem.act.output_quantizer"]
    with torch.no_grad():
        quantized = quantizer(shallow)
    noise = (quantized - shallow).double().square().sum()
    assert entry.signal_to_noise == pytest.approx(float(10 * torch.log10(shallow.double().square().sum() / noise)), abs=0.05)
    assert (entry.low, entry.high) == (pytest.approx(float(shallow.min())), pytest.approx(float(shallow.max())))
    assert entry.zeros == pytest.approx(float(((quantized == 0) & (shallow != 0)).float().mean()), abs=1e-3)
    assert sum(entry.counts) == shallow.numel()
    inside = (shallow >= entry.range_low - 1e-2) & (shallow <= entry.range_high + 1e-2)
    assert entry.clipped <= 1 - float(inside.float().mean()) + 0.01
    weight = entries["stem.conv.weight"]
    assert weight.is_weight
    assert sum(weight.counts) == 8 * 3 * 9


def test_planted_outliers_are_named_with_their_channels():
    network = SmallNetwork()
    with torch.no_grad():
        # Channels 3 and 5 of one layer answer a thousand times as much as the others.
        network.down.bn.weight[[3, 5]] *= 300
        network.down.bn.bias[[3, 5]] *= 300
    detector = quantized_detector(
        get_target("tensorrt"), network, choose=lambda _, __, spec: spec.with_changes(observer="minmax")
    )
    calibrate(detector, [images(4)])
    entries = tensor_statistics(detector, [images(4)])
    advised = {entry.name: entry.advice() for entry in entries if entry.advice()}
    assert set(advised) == {"down.act.output", "add.output"}
    assert advised["down.act.output"].startswith("down.act.output: channels 3, 5 reach so far that the median channel has")


def test_a_range_that_few_values_need_is_named():
    network = SmallNetwork()
    detector = quantized_detector(get_target("reference"), network)
    pictures = images(2).clone()
    calibrate(detector, [pictures])
    quantizer = dict(detector.quantizers())["stem.act.output_quantizer"]
    quantizer.set_parameters(quantizer.scale * 30, quantizer.zero_point)
    (advice,) = (entry.advice() for entry in tensor_statistics(detector, [pictures]) if entry.name == "stem.act.output")
    span = r"the range -8.3 to 55.8 is used by 0.1% of the values"
    assert re.fullmatch(rf"stem.act.output: 9\d% of {span}; the observer mse chose it: try percentile .*", advice)


def test_logits_that_no_box_needs_are_named():
    class Logits(nn.Module):
        """Answers between -18 and 6, as a detector that sees mostly background."""

        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, 9, 1)
            with torch.no_grad():
                self.head.weight.fill_(8.0)
                self.head.bias.fill_(-18.0)

        def forward(self, x):
            return [self.head(x)]

    detector = quantized_detector(get_target("npu-pow2"), Logits().eval())
    calibrate(detector, [images(2)])
    (advice,) = (entry.advice() for entry in tensor_statistics(detector, [images(2)]) if entry.name == "head.output")
    # Of -16 to 15.9, which are powers of two, -4.6 to about 5 matters.
    assert re.fullmatch(r"head.output: 69% of the range -16 to 15.9 is for logits below -4.6.*fix the scale", advice)


def test_noise_piles_up_along_the_network():
    detector = detector_with_coarse("stem.conv")
    noise = noise_along(detector, images(2))
    assert list(noise) == ["stem.conv", "down.conv", "residual.conv", "deep.conv", "head.0", "head.1"]
    assert min(noise, key=noise.get) == "stem.conv"
    assert max(noise.values()) < 60


def test_files_of_an_analysis_stand_alone(tmp_path):
    detector = detector_with_coarse()
    results = sensitivities(detector, error_cost(detector, images(2)), "one", ("both", "weights"))
    statistics = tensor_statistics(detector, [images(2)])
    found = Analysis(
        measure="error",
        mode="one",
        sensitivities=tuple(results),
        statistics=tuple(statistics),
        noise=noise_along(detector, images(1)),
        advice=("<mind this>",),
        recipe=Recipe(),
    )
    write_analysis(found, tmp_path)
    page = (tmp_path / "analysis.html").read_text()
    assert "&lt;mind this&gt;" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "http" not in page
    # The ranking, the noise along the network, and for each tensor its histogram and its channels.
    assert page.count("<svg") == 2 + 2 * len(statistics)
    content = json.loads((tmp_path / "analysis.json").read_text())
    assert len(content["sensitivities"]) == len(results)
    lines = (tmp_path / "sensitivity.csv").read_text().splitlines()
    assert lines[0] == "name,mode,part,cost"
    assert len(lines) == len(results) + 1


@given(most=st.integers(0, 200), threshold=st.integers(0, 220))
def test_bisection_finds_the_least_number_with_few_questions(most, threshold):
    asked = []

    def holds(number):
        asked.append(number)
        return number >= threshold

    found = _least(most, holds)
    assert found == (threshold if threshold <= most else None)
    assert len(set(asked)) <= np.ceil(np.log2(max(most, 2))) + 2


def test_layers_are_added_to_the_recipe():
    recipe = Recipe(ignore=("a",))
    assert with_layers(recipe, ["model.0.conv"], None).ignore == ("a", "model.0.conv")
    raised = with_layers(recipe, ["odd[1]"], 8).overrides
    assert isinstance(raised[0], Override)
    assert (raised[0].match, raised[0].weights.bits) == ("odd[[]1]", 8)


class Chain(nn.Module):
    """Six layers with SiLU between them; the planted ones hold weights as re-parameterised RepVGG blocks do: nearly all near
    zero, and a few that are hundreds of times as large."""

    def __init__(self, planted):
        super().__init__()
        torch.manual_seed(4)
        self.layers = nn.ModuleList(nn.Conv2d(3 if index == 0 else 16, 16, 3, padding=1) for index in range(6))
        self.head = nn.Conv2d(16, 9, 1)
        with torch.no_grad():
            for index in planted:
                weight = self.layers[index].weight
                # On inputs that hardly vary, so that what the layer answers stays ordinary.
                weight[:2, :2, 1, 1] = 300 * weight.abs().max()
                previous = self.layers[index - 1]
                previous.weight[:2] *= 1e-3
                previous.bias[:2] *= 1e-3

    def forward(self, x):
        for layer in self.layers:
            x = nn.functional.silu(layer(x))
        return [self.head(x)]


@pytest.mark.parametrize("planted", [(2,), (1, 4), (3, 5)])
def test_exactly_the_planted_outliers_are_named_and_ranked_first(planted):
    def choose(_layer, tensor, spec):
        changes = {"granularity": "tensor", "observer": "absmax"} if tensor == "weights" else {"bits": 16}
        return spec.with_changes(**changes)

    detector = quantized_detector(get_target("reference"), Chain(planted).eval(), choose=choose)
    calibrate(detector, [images(4)])
    names = {f"layers.{index}" for index in planted}
    statistics = tensor_statistics(detector, [images(2)])
    assert {entry.name.removesuffix(".weight") for entry in statistics if entry.advice()} == names
    assert set(list(ranked_layers(sensitivities(detector, error_cost(detector, images(2)))))[: len(planted)]) == names


SHARED_MEASUREMENT = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
from analysis.test_analysis import detector_with_coarse
from small_networks import images
from yoloquant.analysis.sensitivity import Record, sensitivities
from yoloquant.analysis.costs import error_cost
from yoloquant.distributed import process_group, process_number
torch.set_num_threads(1)
detector = detector_with_coarse()
with process_group("cpu"):
    record = Record(Path({record!r}), "key")
    results = sensitivities(detector, error_cost(detector, images(2)), "one", ("both", "weights"), record)
    answer = Path(sys.argv[1]) / f"answer{{process_number()}}.json"
    answer.write_text(json.dumps([[result.name, result.part, result.cost] for result in results]))
"""


@pytest.mark.parametrize("count", [2])
def test_processes_share_the_layers_and_all_know_every_cost(tmp_path, count):
    record = tmp_path / "measurements.jsonl"
    script = tmp_path / "measure.py"
    content = SHARED_MEASUREMENT.format(tests=str(Path(__file__).parents[1]), record=str(record))
    script.write_text("from pathlib import Path\n" + content, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
        str(script),
        str(tmp_path),
    ]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    # Files, since lines that two processes print may mix.
    found = {number: json.loads((tmp_path / f"answer{number}.json").read_text()) for number in range(count)}
    detector = detector_with_coarse()
    alone = sensitivities(detector, error_cost(detector, images(2)), "one", ("both", "weights"))
    for results in found.values():
        costs = {(name, part): cost for name, part, cost in results}
        assert costs == pytest.approx({(result.name, result.part): result.cost for result in alone}, rel=1e-4, abs=1e-7)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(lines) == len({(line["name"], line["part"]) for line in lines}) == len(alone)


def test_output_convolutions_come_first_under_powers_of_two_and_the_sentence_says_why(shared):
    # What eight experiments with YOLOv5 and power-of-two ranges by extremes found: the last convolutions cost most, since
    # their scale must reach large negative logits.
    found = analyze(
        shared / "weights" / "yolov5n.pt",
        shared / "coco" / "data.yaml",
        AnalysisOptions(mode="block", parts=("both", "weights", "activations"), images=4),
        target="npu-pow2",
        recipe=load_recipe("int8-minmax", ["calibration.images=24"]),
    )
    whole = [result for result in found.sensitivities if result.part == "both"]
    assert whole[0].name == "model.24"
    assert whole[0].cost > 1.5 * whole[1].cost
    costs = {result.part: result.cost for result in found.sensitivities if result.name == "model.24"}
    assert costs["activations"] > 2.0 * costs["weights"]
    first = [sentence for sentence in found.advice[:3] if "logits below -4.6" in sentence]
    assert {sentence.split(":")[0] for sentence in first} == {f"model.24.m.{level}.output" for level in range(3)}


def test_layers_before_any_quantizer_are_no_part_of_the_noise():
    """A layer in float at the start has no noise at all, and a point at its 366 dB makes all others one flat line."""
    chart = charts.noise({"first": 366.0, "second": 31.0, "third": float("inf"), "last": 24.0})
    assert [(point.x, point.y) for point in chart.points] == [(1.0, 31.0), (3.0, 24.0)]
