"""Reconstruction: regions against the whole network, learned rounding against exhaustive search, resuming, memory and disk."""

import copy
import itertools

import pytest
import torch
from torch import nn

from small_networks import SIZE, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.algorithms.reconstruction.checkpoints import RegionCheckpoints, state_key
from yoloquant.algorithms.reconstruction.fisher import importances
from yoloquant.algorithms.reconstruction.reconstruct import reconstruct
from yoloquant.algorithms.reconstruction.regions import UNITS, computing_nodes, find_regions, region_module
from yoloquant.algorithms.reconstruction.step import Reconstruct
from yoloquant.analysis.detection_error import detection_error
from yoloquant.data.images import to_input
from yoloquant.distributed import checked_device
from yoloquant.errors import RecipeError, YoloquantError
from yoloquant.graph.capture import capture
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.recipe.recipe import load_recipe
from yoloquant.spec import TensorSpec
from yoloquant.targets.registry import get_target

FOUR_BITS = {"weights.bits": 4}


def low_bit_detector():
    """The small network with weights of 3 bits, calibrated, and its float twin."""

    def choose(_layer, tensor, spec):
        return spec.with_changes(bits=3, observer="mse") if tensor == "weights" else spec

    detector = quantized_detector(get_target("reference"), choose=choose)
    calibrate(detector, [images(4)])
    return detector, capture(SmallNetwork().eval(), SIZE)


def output_error(detector, reference, pictures):
    x = to_input(pictures)
    with torch.no_grad():
        pairs = zip(detector.network(x), reference(x), strict=True)
        return sum(float((a - b).square().mean()) for a, b in pairs)


@pytest.mark.parametrize("unit", UNITS)
def test_regions_hold_every_node_once_and_run_as_the_whole_does(unit):
    detector, _ = low_bit_detector()
    network = detector.network
    regions = find_regions(network, unit, 2)
    held = [node for region in regions for node in region.nodes]
    assert held == computing_nodes(network)
    x = to_input(images(2))
    values = {"x": x}
    placeholder = next(node.name for node in network.graph.nodes if node.op == "placeholder")
    values = {placeholder: x}
    with torch.no_grad():
        for region in regions:
            answers = region_module(network, region)(*(values[node.name] for node in region.inputs))
            values.update(zip((node.name for node in region.outputs), answers, strict=True))
        expected = network(x)
    outputs = next(node for node in network.graph.nodes if node.op == "output").all_input_nodes
    for node, whole in zip(outputs, expected, strict=True):
        assert torch.equal(values[node.name], whole)


def test_units_hold_as_many_layers_as_they_promise():
    network = low_bit_detector()[0].network

    def layers(unit, most=5):
        return [sum(kind(node) in WEIGHTED for node in region.nodes) for region in find_regions(network, unit, most)]

    assert layers("layer") == [1] * 6
    assert layers("network") == [6]
    assert max(layers("region", 3)) <= 3
    assert sum(layers("region", 3)) == sum(layers("block")) == 6


@pytest.mark.parametrize("method", ["soft", "sign"])
def test_learned_rounding_starts_from_the_float_weight_and_ends_on_the_grid(method):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 6) * 0.1)
    quantizer = FakeQuantize(TensorSpec(bits=4, granularity="group", group_size=2), "x")
    quantizer.observe(weight)
    quantizer.freeze_observer()
    nearest = quantizer(weight)
    rounding = quantizer.learn_rounding(weight, method)
    with torch.no_grad():
        # Soft choices start between the neighbours, where the float weight is; sign's start rounded to nearest.
        start = weight if method == "soft" else nearest
        torch.testing.assert_close(quantizer(weight), start, rtol=0, atol=float(quantizer.scale.max()) * 0.01 + 1e-6)
        rounding.choice.normal_()
        decided = rounding.decided()
        quantizer.rounding = None
        torch.testing.assert_close(quantizer(decided), decided, rtol=0, atol=1e-7)
        again = quantizer.learn_rounding(weight, method, decided)
        torch.testing.assert_close(again.decided(), decided, rtol=0, atol=1e-7)


class Row(nn.Module):
    """One convolution of nine weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 1, (1, 3), bias=False)

    def forward(self, x):
        return [self.conv(x)]


@pytest.mark.parametrize("method", ["soft", "sign"])
def test_learned_rounding_is_near_the_best_of_all_roundings(method):
    network = Row().eval()
    detector = quantized_detector(
        get_target("reference"),
        network,
        choose=lambda _, tensor, spec: spec.with_changes(bits=3) if tensor == "weights" else None,
    )
    # Smooth pictures: neighbouring values are alike, so that errors of weights can cancel out.
    coarse = images(8).float()[..., ::16, ::16]
    pictures = nn.functional.interpolate(coarse, SIZE, mode="bilinear").round().to(torch.uint8)
    calibrate(detector, [pictures])
    x, weight = to_input(pictures), network.conv.weight.detach()
    ((_, quantizer),) = detector.quantizers()
    scale = quantizer.scale.view(-1, 1, 1, 1)

    def error(candidate):
        return float(nn.functional.conv2d(x, candidate.detach() - weight).square().mean())

    floor = (weight / scale).floor()
    ups = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9))).view(-1, 1, 3, 1, 3)
    best = min(error((floor + up).clamp(-3, 3) * scale) for up in ups)
    nearest = error(quantizer(weight))
    settings = Reconstruct(
        unit="layer", iterations=400, rounding=method, rounding_learning_rate=0.05, rounding_weight=0.1, biases=False
    )
    reconstruct(detector, capture(network, SIZE), pictures, settings)
    learned = error(next(iter(detector.network.parameters())))
    assert best - 1e-9 <= learned < nearest
    assert learned < best + 0.5 * (nearest - best)


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "layer"},
        {"unit": "block"},
        {"unit": "region", "region_layers": 2, "qdrop": 0.5},
        {"unit": "block", "loss": "fisher"},
        {"unit": "network", "loss": "mse"},
        {"unit": "block", "rounding": "soft", "rounding_learning_rate": 0.05, "rounding_weight": 0.1},
    ],
    ids=str,
)
def test_every_unit_and_loss_brings_the_answers_nearer_to_float(changes):
    detector, reference = low_bit_detector()
    before = output_error(detector, reference, images(4, seed=5))
    results = reconstruct(detector, reference, images(8), Reconstruct(iterations=80, batch_size=4, **changes))
    assert output_error(detector, reference, images(4, seed=5)) < 0.95 * before
    assert all(result.after <= result.before for result in results)
    # Everything is a constant again, and no choice is open.
    for _, quantizer in detector.quantizers():
        assert quantizer.rounding is None
        assert quantizer.drop == 0.0
        assert not isinstance(quantizer.scale, nn.Parameter)


def test_the_error_of_boxes_and_scores_is_learned_too():
    detector, reference = low_bit_detector()
    x = to_input(images(4))

    def error():
        with torch.no_grad():
            pair = (detector.head.candidates(list(network(x))) for network in (reference, detector.network))
            return float(sum(detection_error(*pair)))

    before = error()
    reconstruct(detector, reference, images(4), Reconstruct(unit="network", loss="detection", iterations=80, batch_size=4))
    assert error() < 0.9 * before


def test_values_on_disk_give_the_same_answer_as_in_memory():
    answers = []
    for cache in ("memory", "disk"):
        detector, reference = low_bit_detector()
        reconstruct(detector, reference, images(4), Reconstruct(iterations=10, cache=cache))
        answers.append([tensor.clone() for _, tensor in sorted(detector.network.state_dict().items())])
    for first, second in zip(*answers, strict=True):
        torch.testing.assert_close(first, second)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    settings = Reconstruct(unit="layer", iterations=10)
    whole, reference = low_bit_detector()
    key = state_key(whole, settings, ["a"])
    reconstruct(whole, reference, images(4), settings)

    class Killed(Exception):
        pass

    learned = []

    def progress(number, count, name, done, loss):
        learned.append(number)
        if number == 3 and done > 0.5:
            raise Killed

    detector, _ = low_bit_detector()
    with pytest.raises(Killed):
        reconstruct(detector, reference, images(4), settings, RegionCheckpoints(tmp_path, key), progress)
    detector, _ = low_bit_detector()
    learned.clear()
    reconstruct(detector, reference, images(4), settings, RegionCheckpoints(tmp_path, key), lambda n, *_: learned.append(n))
    assert set(learned) == {3, 4, 5}
    expected = whole.network.state_dict()
    for name, tensor in detector.network.state_dict().items():
        assert torch.equal(tensor, expected[name])
    # Another start is another key: nothing of the old run is used.
    assert state_key(low_bit_detector()[0], settings.model_copy(update={"iterations": 11}), ["a"]) != key
    assert RegionCheckpoints(tmp_path, "another").load(0) is None


def test_importance_is_the_squared_gradient_of_the_detection_error():
    detector, reference = low_bit_detector()
    outputs = next(node for node in detector.network.graph.nodes if node.op == "output").all_input_nodes
    pictures = images(2)
    found = importances(detector, reference, pictures, outputs)
    x = to_input(pictures[:1])
    with torch.no_grad():
        expected = detector.head.candidates(list(reference(x)))
        maps = [answer.detach() for answer in detector.network(x)]
    for answer in maps:
        answer.requires_grad_(True)
    sum(detection_error(expected, detector.head.candidates(maps))).backward()
    for node, answer in zip(outputs, maps, strict=True):
        square = answer.grad.square().mean(1, keepdim=True)
        weights = found[node.name].places[:1]
        assert found[node.name].places.mean().item() == pytest.approx(1.0, abs=1e-4)
        torch.testing.assert_close(weights / weights.sum(), square / square.sum(), rtol=1e-3, atol=1e-6)


def test_dropped_quantization_is_for_training_only():
    quantizer = FakeQuantize(TensorSpec(bits=2), "x")
    x = torch.randn(10_000)
    quantizer.observe(x)
    quantizer.freeze_observer()
    quantizer.drop = 0.25
    quantized = copy.deepcopy(quantizer)
    quantized.drop = 0.0
    with torch.no_grad():
        assert torch.equal(quantizer(x), quantized(x))
    torch.manual_seed(0)
    kept = (quantizer(x.requires_grad_(True)) == x).float().mean().item()
    assert kept == pytest.approx(0.25, abs=0.03)


def test_recipes_with_reconstruction():
    recipe = load_recipe("int8-mse", ["algorithms=[calibrate, {reconstruct: {unit: layer, iterations: 5}}]"])
    assert recipe.algorithms[1] == Reconstruct(unit="layer", iterations=5)
    with pytest.raises(RecipeError, match="only unit network"):
        load_recipe("int8-mse", ["algorithms=[calibrate, {reconstruct: {loss: detection}}]"])
    with pytest.raises(RecipeError, match="did you mean 'iterations'"):
        load_recipe("int8-mse", ["algorithms=[calibrate, {reconstruct: {iteration: 5}}]"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", [{}, {"loss": "fisher", "qdrop": 0.5}, {"unit": "network", "loss": "detection"}])
def test_a_gpu_learns_what_the_processor_does(changes):
    settings = Reconstruct.model_validate({"iterations": 40, "images": 8, **changes})
    errors = []
    for device in ("cpu", "cuda"):
        detector, reference = low_bit_detector()
        reconstruct(detector, reference, images(8), settings, device=device)
        assert all(tensor.device.type == "cpu" for tensor in detector.network.state_dict().values())
        errors.append(output_error(detector, reference, images(4, seed=3)))
    assert errors[1] == pytest.approx(errors[0], rel=0.2)


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (2, "cuda")])
def test_the_device_auto_is_a_gpu_where_there_is_one(gpus, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert str(checked_device("auto")) == device


@pytest.mark.parametrize(("name", "match"), [("tpu:0x", "is no device"), ("cuda:99", "is not there"), ("meta", "is not there")])
def test_a_device_that_is_not_there_is_refused(name, match):
    with pytest.raises(YoloquantError, match=match):
        checked_device(name)
