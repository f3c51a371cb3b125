"""Parity finds wrong files: every family's right file passes, and each planted fault is found where it was planted."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from small_families import SMALL_FAMILIES, small_detector, small_images
from small_networks import images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.data.images import to_input
from yoloquant.errors import ExportError
from yoloquant.evaluation.file_contents import activation_places, file_faults
from yoloquant.evaluation.layer_comparison import compare_layers
from yoloquant.evaluation.parity import Parity, binding, check_parity, require_parity
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.graph.capture import captured
from yoloquant.quant.quantized_detector import quantized_from
from yoloquant.recipe.recipe import load_recipe
from yoloquant.targets.registry import TARGETS, get_target
from yoloquant.targets.rules import network_outputs


def exported(name, target, folder):
    """A family's quantized detector, its file, and one image."""
    detector = small_detector(name)
    network = captured(detector)
    quantized = quantized_from(detector, get_target(target).place(network), network)
    calibrate(quantized, small_images().split(2))
    path = folder / f"{name}.onnx"
    export_onnx(quantized, path, target=target)
    return quantized, path, to_input(small_images(1, first=9)).contiguous().numpy()


def assert_right(quantized, path, image):
    assert not file_faults(quantized, path)
    differences = compare_layers(quantized, path, image)
    assert not [difference for difference in differences if not difference.agrees]
    # All quantized values that the file has are compared, and last layers in float, too.
    names = {difference.name for difference in differences}
    known = {name for node in onnx.load(str(path)).graph.node for name in node.output}
    places = {place.name for place in activation_places(quantized) if place.name in known}
    assert places <= names
    has_float_outputs = network_outputs not in get_target(read_metadata(path).target).rules
    assert bool(names - places) == has_float_outputs


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SMALL_FAMILIES)
def test_the_right_file_of_every_family_and_target_has_no_fault(name, target, tmp_path):
    assert_right(*exported(name, target, tmp_path))


@pytest.mark.parametrize("preset", ["4w8f", "4w4f"])
def test_right_files_of_low_widths_and_groups_have_no_fault(preset, tmp_path):
    recipe = load_recipe(preset)
    quantized = quantized_detector(
        get_target("reference"), choose=lambda layer, tensor, spec: recipe.choose(layer, "conv", tensor, spec)
    )
    calibrate(quantized, images(8).split(4))
    export_onnx(quantized, tmp_path / "model.onnx", target="reference")
    assert_right(quantized, tmp_path / "model.onnx", to_input(images(1, seed=5)).contiguous().numpy())


def changed(model, suffix, change, first=0):
    """Change the constants whose names end so, from number `first` on; answers with their names."""
    found = [entry for entry in model.graph.initializer if entry.name.endswith(suffix)][first:]
    for entry in found:
        entry.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(entry).copy()), entry.name))
    return [entry.name for entry in found]


def without_activation_pairs(model):
    """All QuantizeLinear nodes and their DequantizeLinear nodes taken out."""
    graph = model.graph
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    source |= {
        node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in source
    }

    def origin(name):
        while name in source:
            name = source[name]
        return name

    kept = [node for node in graph.node if node.output[0] not in source]
    for node in kept:
        node.input[:] = [origin(name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    return "stem.act"


def all_scales_a_tenth_larger(model):
    changed(model, "output_quantizer.scale", lambda scale: (scale * 1.1).astype(np.float32))


def a_bias_of_zero(model):
    changed(model, "down.conv.bias", np.zeros_like)
    return "down.conv"


def a_wrong_integer(model):
    def change(integers):
        integers[3, 2, 1, 1] += 1 if integers[3, 2, 1, 1] < 100 else -1
        return integers

    changed(model, "residual.conv.weight_quantized", change)
    return "residual.conv"


def a_wrong_scale_of_one_channel(model):
    def change(scales):
        scales[5] *= np.float32(1.0001)
        return scales

    changed(model, "deep.conv.weight_scale", change)
    return "deep.conv"


def swapped_zero_points(model):
    entries = {entry.name: entry for entry in model.graph.initializer}
    names = ("stem.act.output_quantizer.zero_point", "down.act.output_quantizer.zero_point")
    if not all(name in entries for name in names):
        names = ("x.output_quantizer.zero_point", "stem.act.output_quantizer.zero_point")
    values = [numpy_helper.to_array(entries[name]) for name in names]
    values[0] = values[1] if not np.array_equal(*values) else values[1] + np.ones_like(values[1])
    entries[names[0]].CopyFrom(numpy_helper.from_array(values[0], names[0]))
    return names[0].removesuffix(".zero_point")


def one_pair_left_out(model):
    """A convolution reads the float value beside the pair."""
    producers = {node.output[0]: node for node in model.graph.node}
    (layer,) = [node for node in model.graph.node if node.name == "deep.conv"]
    layer.input[0] = producers[producers[layer.input[0]].input[0]].input[0]
    return "deep.conv"


FAULTS = [
    without_activation_pairs,
    all_scales_a_tenth_larger,
    a_bias_of_zero,
    a_wrong_integer,
    a_wrong_scale_of_one_channel,
    swapped_zero_points,
    one_pair_left_out,
]


@pytest.fixture(scope="module", params=["onnxruntime", "openvino", "tensorrt"])
def right(request, tmp_path_factory):
    quantized = quantized_detector(get_target(request.param))
    calibrate(quantized, images(8).split(4))
    path = tmp_path_factory.mktemp("right") / "model.onnx"
    export_onnx(quantized, path, target=request.param)
    return quantized, path


@pytest.mark.parametrize("plant", FAULTS)
def test_a_planted_fault_is_found_and_its_layer_named(right, plant, tmp_path):
    quantized, path = right
    x = to_input(images(2, seed=5)).contiguous().numpy()
    (before,) = check_parity(quantized, path, x, ["onnxruntime"])
    assert before.agrees
    assert before.compared_integers > 10_000
    assert before.wrong_integers == 0
    model = onnx.load(str(path))
    layer = plant(model)
    wrong = tmp_path / "wrong.onnx"
    onnx.save(model, str(wrong))
    (found,) = check_parity(quantized, wrong, x, ["onnxruntime"])
    assert not found.agrees
    assert found.first_layer is not None
    if layer is not None:
        faults = {fault.layer for fault in file_faults(quantized, wrong)}
        assert any(name.startswith(layer) or layer.startswith(name) for name in faults)
    with pytest.raises(ExportError, match="is not what was quantized"):
        require_parity([found])


def test_what_only_running_a_layer_shows_is_found(right, tmp_path):
    """Strides and paddings are no part of the placement."""
    quantized, path = right
    model = onnx.load(str(path))
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    for attribute in pool.attribute:
        if attribute.name in ("kernel_shape", "pads"):
            attribute.ints[:] = [3, 3] if attribute.name == "kernel_shape" else [1, 1, 1, 1]
    onnx.save(model, str(tmp_path / "wrong.onnx"))
    assert not file_faults(quantized, tmp_path / "wrong.onnx")
    differences = compare_layers(quantized, tmp_path / "wrong.onnx", to_input(images(1, seed=5)).contiguous().numpy())
    wrong = [difference for difference in differences if not difference.agrees]
    assert wrong
    assert all(difference.wrong > 1 for difference in wrong)


@pytest.mark.parametrize(
    ("own", "deciding"), [("onnxruntime", ["onnxruntime"]), ("tensorrt", ["onnxruntime", "openvino"]), ("tflite", ["openvino"])]
)
def test_a_file_is_judged_where_it_belongs(own, deciding):
    """A file for ONNX Runtime is no worse for what OpenVINO makes of it."""
    results = [Parity(runtime, 30.0) for runtime in ("onnxruntime", "openvino")]
    others = ("openvino",) if own == "tflite" else ("onnxruntime", "openvino")
    assert [result.runtime for result in binding(results, own, others)] == deciding


@pytest.mark.parametrize(("runtime", "hinted"), [("onnxruntime", False), ("openvino", True)])
def test_saturation_is_named_only_where_it_was_not_ruled_out(runtime, hinted):
    with pytest.raises(ExportError, match=f"does not compute in {runtime}") as caught:
        require_parity([Parity(runtime, -1.0, "model.3")])
    assert ("weights.bits=7" in str(caught.value)) == hinted
