"""Recipes: every preset is valid, every mistake is named."""

import pytest
import yaml

from yoloquant.errors import RecipeError
from yoloquant.recipe import Recipe, load_recipe, presets
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
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("int8", [override])


def test_unknown_recipes_list_the_known():
    with pytest.raises(RecipeError, match="int8-minmax"):
        load_recipe("int9")


def test_settings_change_only_what_they_name():
    spec = TensorSpec(bits=8, observer="lp", options={"power": 3.0})
    recipe = load_recipe(overrides=["weights.bits=4", "activations.observer=minmax"])
    assert recipe.choose("a", "conv", "weights", spec) == spec.with_changes(bits=4)
    # Another observer does not inherit the options of the first.
    assert recipe.choose("a", "conv", "activations", spec) == spec.with_changes(observer="minmax", options={})
    assert load_recipe(overrides=["weights.bits=32"]).choose("a", "conv", "weights", spec) is None
