"""Recipes: every preset is valid, every mistake is named."""

import pytest
import yaml

from yoloquant.errors import RecipeError
from yoloquant.recipe.recipe import Recipe, load_recipe, presets, resolve_recipe
from yoloquant.spec import TensorSpec
from yoloquant.targets.registry import get_target


@pytest.mark.parametrize("name", list(presets()))
def test_presets_are_valid_and_survive_yaml(name):
    recipe = load_recipe(name)
    get_target(recipe.target)
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe
    assert presets()[name].endswith(".")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("weights.bitz=4", "unknown key 'weights.bitz', did you mean 'bits'"),
        ("weights.bits=9", "weights.bits"),
        ("calibration.images=0", "calibration.images"),
        ("algorithms=[{calibrat: {}}]", "no known algorithm: choose from equalize"),
        ("algorithms=[{bias_correction: {}}]", "first algorithm must be calibrate"),
        ("weights", "--set takes key=value"),
        ("target.name=x", None),
        ("weights=[1", "not a YAML value"),
        (
            "algorithms.train.epochs=4",
            "name one of the recipe's steps, as in algorithms.train.epochs=4; it has smooth, calibrate, keep_float",
        ),
        ("algorithms.1.layers=4", "name one of the recipe's steps"),
        ("algorithms.keep_float.layer=4", "unknown key"),
        ("algorithms=[{calibrate: 5}]", "calibrate takes its options by name"),
        ("algorithms=[{calibrate: [1]}]", "calibrate takes its options by name"),
        ("algorithms=[keep_float]", "recipe int8: the first algorithm must be calibrate"),
        ("algorithms=5", r"algorithms: this is a list, as \[5\]"),
        ("ignore=model.0.conv", r"ignore: this is a list, as \[model.0.conv\]"),
        ("overrides=[{match: '@frist'}]", "no place '@frist': choose @first or @last"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("int8", [override])


def test_settings_of_a_step_are_changed_by_its_name():
    recipe = load_recipe("qat-aligned", ["algorithms.train.epochs=3", "algorithms.train.learning_rate=0.5"])
    before, after = (load_recipe("qat-aligned").algorithms, recipe.algorithms)
    assert after[:-1] == before[:-1]
    assert after[-1] == before[-1].model_copy(update={"epochs": 3, "learning_rate": 0.5})


def test_settings_of_a_broken_step_are_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("algorithms: [{calibrate: 5}]")
    with pytest.raises(RecipeError, match="takes its options by name"):
        load_recipe(path, ["algorithms.calibrate.images=4"])


def test_of_two_steps_of_a_name_none_is_guessed(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("algorithms: [calibrate, {reconstruct: {unit: block}}, {reconstruct: {unit: network}}]")
    with pytest.raises(RecipeError, match="2 steps reconstruct"):
        load_recipe(path, ["algorithms.reconstruct.images=4"])


@pytest.mark.parametrize("name", sorted(name for name in presets() if "power-of-two" in name or "aligned" in name))
def test_powers_of_two_stay_whatever_the_target(name):
    recipe = load_recipe(name, target="tensorrt")
    for tensor in ("weights", "activations"):
        spec = recipe.choose("a", "conv", tensor, TensorSpec(signed=False, symmetric=False))
        assert spec.power_of_two, tensor
    assert recipe.written_for == resolve_recipe(load_recipe(name), "tensorrt").written_for == load_recipe(name).target
    assert load_recipe(name).written_for is load_recipe(None, target="tensorrt").written_for is None


@pytest.mark.parametrize("name", list(presets()))
def test_presets_for_openvino_have_no_signed_activations(name):
    recipe = load_recipe(name)
    target = get_target(recipe.target)
    if "openvino" in target.runtimes:
        assert not recipe.choose("a", "conv", "activations", target.activations).signed


def test_unknown_recipes_list_the_known():
    with pytest.raises(RecipeError, match="int8-minmax"):
        load_recipe("int9")


def test_a_recipe_that_is_nearly_named_is_suggested():
    with pytest.raises(RecipeError, match="did you mean 'int8-mse'"):
        load_recipe("int8-msee")


def test_a_recipe_that_is_not_text_is_told(tmp_path):
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="not a text file in UTF-8"):
        load_recipe(tmp_path / "bin.yaml")


def test_overrides_must_match_a_layer_unless_they_are_optional():
    layers = ["model.0.conv", "model.1.conv"]
    recipe = load_recipe(overrides=["overrides=[{match: model.99.conv, weights: {bits: 4}}]"])
    with pytest.raises(RecipeError, match=r"override pattern 'model.99.conv' matches no layer: .* 'model\.\d\.conv'"):
        recipe.check_overrides(layers)
    fitting = ("match: 'model.[01].*'", "match: '@last'", "op: linear", "match: 'backbone.*', optional: true")
    for override in fitting:
        load_recipe(overrides=[f"overrides=[{{{override}}}]"]).check_overrides(layers)


@pytest.mark.parametrize("name", list(presets()))
def test_presets_name_no_layers_that_a_network_must_have(name):
    load_recipe(name).check_overrides(["backbone.stem"])


def test_settings_change_only_what_they_name():
    spec = TensorSpec(bits=8, observer="lp", options={"power": 3.0})
    recipe = load_recipe(overrides=["weights.bits=4", "activations.observer=minmax"])
    assert recipe.choose("a", "conv", "weights", spec) == spec.with_changes(bits=4)
    # Another observer does not inherit the options of the first.
    assert recipe.choose("a", "conv", "activations", spec) == spec.with_changes(observer="minmax", options={})
    assert load_recipe(overrides=["weights.bits=32"]).choose("a", "conv", "weights", spec) is None
