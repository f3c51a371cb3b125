"""The solver against trying everything, the measurement against what widths must do."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_networks import images, quantized_detector
from yoloquant.algorithms.bit_choice import IN_FLOAT, LayerChoices, choose_bits, float_choices, layer_choices, total_weights
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.algorithms.mixed_precision import MixedPrecision
from yoloquant.errors import RecipeError
from yoloquant.recipe.recipe import load_recipe
from yoloquant.targets.registry import get_target

BITS = (2, 4, 8)
one_layer = st.tuples(st.tuples(*[st.floats(0, 10)] * 3), st.integers(1, 20))


@settings(max_examples=200, deadline=None)
@given(table=st.lists(one_layer, min_size=1, max_size=6), share=st.floats(0.0, 1.0))
def test_the_choice_is_the_best_of_all(table, share):
    layers = [LayerChoices(str(i), BITS, errors, tuple(size * b for b in BITS)) for i, (errors, size) in enumerate(table)]
    least, most = (sum(layer.costs[end] for layer in layers) for end in (0, -1))
    budget = least + share * (most - least)

    def worth(choice, values):
        return sum(getattr(layer, values)[index] for layer, index in zip(layers, choice, strict=True))

    possible = [c for c in itertools.product(range(3), repeat=len(layers)) if worth(c, "costs") <= budget]
    best = min(worth(choice, "errors") for choice in possible)
    chosen = choose_bits(layers, budget)
    indices = [BITS.index(chosen[layer.name]) for layer in layers]
    assert worth(indices, "costs") <= budget
    assert worth(indices, "errors") == pytest.approx(best, abs=1e-9)
    with pytest.raises(RecipeError, match="cannot be met"):
        choose_bits(layers, least - 1)


def low_bit_detector():
    def choose(_layer, tensor, spec):
        return spec.with_changes(observer="mse") if tensor == "weights" else spec

    detector = quantized_detector(get_target("reference"), choose=choose)
    calibrate(detector, [images(4)])
    return detector


def test_layers_are_measured_alone_and_put_back():
    detector = low_bit_detector()
    before = dict(detector.quantizers())
    layers = layer_choices(detector, images(2), (2, 8))
    assert dict(detector.quantizers()) == before
    assert [layer.name for layer in layers] == ["stem.conv", "down.conv", "residual.conv", "deep.conv", "head.0", "head.1"]
    assert all(low > high for low, high in (layer.errors for layer in layers))
    sizes = [parameter.numel() for name, parameter in detector.network.named_parameters() if name.endswith("weight")]
    assert [layer.costs[1] for layer in layers] == sizes
    assert total_weights(detector) == sum(sizes)


def test_bit_operations_count_multiplications():
    layers = layer_choices(low_bit_detector(), images(1), (8,), "bit_operations")
    # 64 x 96 pixels, stem of stride 2, 3 -> 8 channels, kernel 3.
    assert layers[0].costs[0] == 32 * 48 * 8 * 3 * 9 * 8 * 8


def test_recipes_name_exactly_one_budget():
    step = load_recipe("int8-mse", ["algorithms=[calibrate, {mixed_precision: {average_bits: 5}}]"]).algorithms[1]
    assert step == MixedPrecision(average_bits=5)
    for options in ("{}", "{average_bits: 5, weight_bytes: 100}"):
        with pytest.raises(RecipeError, match="exactly one budget"):
            load_recipe("int8-mse", [f"algorithms=[calibrate, {{mixed_precision: {options}}}]"])
    with pytest.raises(RecipeError, match="right after calibrate"):
        load_recipe("int8-mse", ["algorithms=[calibrate, bias_correction, {mixed_precision: {average_bits: 5}}]"])


def test_a_budget_of_time_leaves_in_float_what_errs_most_for_its_milliseconds():
    detector = low_bit_detector()
    names = ["stem.conv", "down.conv", "residual.conv", "deep.conv", "head.0", "head.1"]
    # Integers save a millisecond of three in each layer but the last, where they lose one.
    times = dict.fromkeys(names, (2.0, 3.0)) | {"head.1": (4.0, 3.0)}
    layers = float_choices(detector, images(2), times)
    assert [layer.name for layer in layers] == names
    assert [layer.costs for layer in layers] == [(200, 300)] * 5 + [(400, 300)]
    assert all(layer.errors[1] == 0.0 < layer.errors[0] for layer in layers)
    chosen = choose_bits(layers, 100 * (4 * 2 + 2 * 3))
    costliest = max(layers[:-1], key=lambda layer: layer.errors[0]).name
    assert {name for name, bits in chosen.items() if bits == IN_FLOAT} == {costliest, "head.1"}
