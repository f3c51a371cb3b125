"""Placements: each rule's promise, on a network that has every kind of layer."""

import pytest
import torch
from torch import nn

from small_networks import SIZE, ConvBlock, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.errors import RecipeError
from yoloquant.graph.capture import capture
from yoloquant.graph.operators import kind, splitter
from yoloquant.recipe.recipe import load_recipe
from yoloquant.targets import rules
from yoloquant.targets.placement import Edge, QuantizationPlacement
from yoloquant.targets.registry import TARGETS, get_target


def edges_by_layers(target, network=None, **place):
    """(producer layer, consumer layer) -> quantizer."""
    captured = capture(network or SmallNetwork(), SIZE, 8)
    layers = {node.name: node.meta["layer"] for node in captured.graph.nodes}
    placement = get_target(target).place(captured, **place)
    return {(layers[edge.producer], layers[edge.consumer]): name for edge, name in placement.edges.items()}, placement


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_concat_pool_and_upsample_share_one_scale(target):
    edges, _ = edges_by_layers(target, float_outputs=False)
    shared = {
        edges[pair] for pair in [("deep.act", "pool"), ("pool", "up"), ("up", "concat"), ("add", "concat"), ("concat", "head.0")]
    }
    assert len(shared) == 1
    assert edges["add", "deep.conv"] in shared


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_nothing_stands_between_convolution_and_activation(target):
    edges, _ = edges_by_layers(target)
    assert not [pair for pair in edges if pair[0].endswith(".conv")]


def test_onnxruntime_quantizes_what_convolutions_answer():
    edges, _ = edges_by_layers("onnxruntime")
    assert ("down.conv", "down.act") in edges
    # ReLU goes into the QuantizeLinear behind it, so there is nothing between.
    edges, _ = edges_by_layers("onnxruntime", SmallNetwork(nn.ReLU))
    assert ("down.conv", "down.act") not in edges
    assert ("stem.act", "down.conv") in edges


def test_tensorrt_has_no_zero_points():
    detector = quantized_detector(get_target("tensorrt"))
    assert all(quantizer.spec.symmetric and quantizer.spec.signed for _, quantizer in detector.quantizers())


def test_zero_points_are_all_that_npu_pow2_zero_point_adds_to_npu_pow2():
    edges, placement = edges_by_layers("npu-pow2-zero-point")
    assert edges == edges_by_layers("npu-pow2")[0]
    assert all(spec.power_of_two for spec in placement.specs.values())
    steps = []
    for target in ("npu-pow2", "npu-pow2-zero-point"):
        detector = quantized_detector(get_target(target))
        calibrate(detector, [images(4)])
        steps.append({name: float(quantizer.scale) for name, quantizer in detector.quantizers() if not quantizer.of_weight})
    # Where hardly anything is negative, all integers serve the positive half.
    ratios = [steps[1][name] / step for name, step in steps[0].items()]
    assert set(ratios) == {0.5, 1.0}
    with pytest.raises(RecipeError, match="zero point 0"):
        get_target("npu-pow2").check(TARGETS["npu-pow2-zero-point"].activations, "activations")


@pytest.mark.parametrize("target", list(TARGETS))
def test_last_convolutions_stay_in_float_where_the_target_says_so(target):
    _, placement = edges_by_layers(target)
    assert ("head.0.weight_quantizer" in placement.specs) != TARGETS[target].float_outputs
    _, placement = edges_by_layers(target, float_outputs=False)
    assert "head.0.weight_quantizer" in placement.specs


def test_ignored_layers_stay_in_float():
    captured = capture(SmallNetwork(), SIZE, 8)
    recipe = load_recipe(overrides=["ignore=['down.*']"])
    ignored = recipe.ignored(node.meta["layer"] for node in captured.graph.nodes)
    assert "down.conv" in ignored
    edges, _ = edges_by_layers("tensorrt", ignored=ignored)
    assert not [pair for pair in edges if pair[1] == "down.conv"]
    with pytest.raises(RecipeError, match="matches no layer"):
        load_recipe(overrides=["ignore=['upp.*']"]).ignored(["up.conv"])


def test_overrides_change_single_layers():
    recipe = load_recipe(
        "8w8f", ["weights.bits=4", "overrides=[{match: 'stem.*', weights: {bits: 8}}, {op: concat, weights: {bits: 32}}]"]
    )
    captured = capture(SmallNetwork(), SIZE, 8)
    kinds = {node.meta["layer"]: kind(node) for node in captured.graph.nodes}
    placement = get_target("reference").place(
        captured, lambda layer, tensor, spec: recipe.choose(layer, kinds[layer], tensor, spec)
    )
    assert placement.specs["stem.conv.weight_quantizer"].bits == 8
    assert placement.specs["down.conv.weight_quantizer"].bits == 4


def test_what_a_target_cannot_run_is_refused():
    with pytest.raises(RecipeError, match="cannot run 4-bit"):
        edges_by_layers("tensorrt", choose=lambda layer, tensor, spec: spec.with_changes(bits=4))
    with pytest.raises(RecipeError, match="zero point 0"):
        edges_by_layers("tensorrt", choose=lambda layer, tensor, spec: spec.with_changes(symmetric=False))
    with pytest.raises(RecipeError, match="granularity is tensor for all activations"):
        edges_by_layers("reference", choose=lambda layer, tensor, spec: spec.with_changes(granularity="channel"))
    with pytest.raises(RecipeError, match="set group_size"):
        edges_by_layers("reference", choose=lambda layer, tensor, spec: spec.with_changes(granularity="group"))
    with pytest.raises(RecipeError, match="no target 'tpu'"):
        get_target("tpu")


def with_weights(**changes):
    return lambda layer, tensor, spec: spec.with_changes(**changes) if tensor == "weights" else spec


@pytest.mark.parametrize("target", sorted(set(TARGETS) - {"reference"}))
def test_scales_for_groups_of_channels_are_refused_where_no_kernel_takes_them(target):
    with pytest.raises(RecipeError, match=f"target {target} takes no weights with a scale for each group"):
        edges_by_layers(target, choose=with_weights(granularity="group", group_size=8))


@pytest.mark.parametrize("target", ["rknn", "tflite", "tensorrt", "ncnn"])
def test_weights_with_a_zero_point_are_refused_where_no_kernel_takes_them(target):
    with pytest.raises(RecipeError, match=r"signed symmetric (weights|integers) with zero point 0"):
        edges_by_layers(target, choose=with_weights(symmetric=False))


def test_outputs_of_sigmoid_and_softmax_have_the_scales_of_the_specification():
    """1/256 and -128 for LOGISTIC and SOFTMAX (LiteRT 8-bit quantization specification)."""
    detector = quantized_detector(get_target("tflite"), SmallNetwork(activation=nn.Sigmoid))
    calibrate(detector, [images(2)])
    found = {
        name: (float(quantizer.scale), int(quantizer.zero_point))
        for name, quantizer in detector.quantizers()
        if not quantizer.of_weight
    }
    for name in ("stem.act", "down.act", "residual.act"):
        assert found[f"{name}.output_quantizer"] == (1 / 256, -128)


@pytest.mark.parametrize("target", list(TARGETS))
def test_placements_survive_json(target):
    _, placement = edges_by_layers(target)
    assert QuantizationPlacement.from_dict(placement.to_dict()) == placement


def test_what_reads_the_image_stays_in_float_for_onnxruntime():
    edges, placement = edges_by_layers("onnxruntime")
    assert "stem.conv.weight_quantizer" not in placement.specs
    assert ("stem.conv", "stem.act") not in edges
    # What it answers is quantized for the layer behind it.
    assert ("stem.act", "down.conv") in edges
    _, placement = edges_by_layers("onnxruntime", float_inputs=False)
    assert "stem.conv.weight_quantizer" in placement.specs


def test_ncnn_shares_nothing_and_tflite_quantizes_every_value():
    edges, placement = edges_by_layers("ncnn", float_outputs=False)
    assert {consumer for _, consumer in edges} == {"stem.conv", "down.conv", "residual.conv", "deep.conv", "head.0", "head.1"}
    assert all(spec.quant_min == -127 for spec in placement.specs.values())
    edges, _ = edges_by_layers("tflite")
    captured = capture(SmallNetwork(), SIZE, 8)
    values = [node for node in captured.graph.nodes if kind(node) not in ("parameter", "output")]
    producers = {producer for producer, _ in edges}
    assert {node.meta["layer"] for node in values if node.users} <= producers
    edges, _ = edges_by_layers("rknn")
    assert not [pair for pair in edges if pair[0].endswith(".conv")]


@pytest.mark.parametrize("target", list(TARGETS))
def test_every_target_explains_its_rules_and_names_its_sources(target):
    found = TARGETS[target]
    assert len(found.explain()) == len(found.rules)
    assert all(sentence.endswith(".") for sentence in found.explain())
    assert found.sources or target == "reference"


class SplitNetwork(nn.Module):
    """As C2f: both halves of a convolution's output go into a concat, one of them through another convolution, too."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.join = ConvBlock(3, 8, stride=8), ConvBlock(4, 4), ConvBlock(12, 8)
        self.eval()

    def forward(self, x):
        first, second = self.stem(x).chunk(2, 1)
        return [self.join(torch.cat([first, second, self.inner(second)], 1))]


@pytest.mark.parametrize("target", [name for name in TARGETS if rules.share_through_same_values in TARGETS[name].rules])
def test_a_split_shares_one_scale_with_what_it_splits(target):
    captured = capture(SplitNetwork(), SIZE, 8)
    placement = get_target(target).place(captured)
    picked = [node for node in captured.graph.nodes if splitter(node) is not None]
    split = splitter(picked[0])
    of_input = placement.edges[Edge(split.args[0].name, split.name, 0)]
    assert len(picked) == 2
    assert {name for edge, name in placement.edges.items() if edge.producer in {node.name for node in picked}} == {of_input}
