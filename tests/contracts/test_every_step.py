"""What every step of a recipe keeps to, whoever wrote it."""

import ast
import inspect
from pathlib import Path

import pytest
import yaml

from test_every_family import STEPS
from yoloquant.algorithms.step import Stage, Step
from yoloquant.errors import RecipeError
from yoloquant.recipe.documents import step_table
from yoloquant.recipe.overrides import complete
from yoloquant.recipe.recipe import ALGORITHMS, load_recipe

ROOT = Path(__file__).parent.parent.parent
# Options without which a step is none.
NEEDED = {"mixed_precision": {"average_bits": 5}}


def step_table_of(name):
    """The step's own section of the page."""
    return step_table().partition(f"## {name}\n")[2].partition("\n## ")[0]


def recipe_with(name):
    """A recipe with a step where its stage may stand."""
    own = {name: NEEDED.get(name, {})}
    order = {Stage.PREPARE: [own, "calibrate"], Stage.CALIBRATE: [own]}
    return {"algorithms": order.get(ALGORITHMS[name].stage, ["calibrate", own])}


def test_the_steps_are_these():
    stages = [step.stage for step in ALGORITHMS.values()]
    assert [stages.count(stage) for stage in Stage] == [2, 1, 2, 7]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_says_what_it_does_and_runs_on_every_family(name):
    step = ALGORITHMS[name]
    assert issubclass(step, Step)
    assert step.__doc__
    assert name in {next(iter(entry)) if isinstance(entry, dict) else entry for entry in yaml.safe_load(STEPS)}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_option_is_described(name):
    step = ALGORITHMS[name]
    rows = [line for line in step_table_of(name).splitlines() if line.startswith("| `")]
    assert len(rows) == len(step.model_fields) - 1
    assert [row for row in rows if not row.split(" | ")[2].strip(" |")] == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_recipes_are_written_and_read_back(name, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_with(name)))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "again.yaml") == recipe
    assert any(type(step) is ALGORITHMS[name] for step in recipe.algorithms)


@pytest.mark.parametrize("name", [name for name, step in ALGORITHMS.items() if step.stage is not Stage.REFINE])
def test_a_step_in_the_wrong_place_is_refused_by_name(name):
    with pytest.raises(RecipeError, match=name):
        load_recipe(None, [f"algorithms=[calibrate, bias_correction, {{{name}: {NEEDED.get(name, {})}}}]"])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_unknown_option_is_refused_with_the_nearest(name):
    with pytest.raises(RecipeError, match=f"unknown key '.*{name}.imagez', did you mean 'images'"):
        load_recipe(None, [f"algorithms={[*recipe_with(name)['algorithms']]}".replace("'", ""), f"algorithms.{name}.imagez=1"])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_options_are_completed_on_the_command_line(name):
    for field in set(ALGORITHMS[name].model_fields) - {"name"}:
        assert f"algorithms.{name}.{field}=" in complete(f"algorithms.{name}.")
    assert complete("weights.b") == ["weights.bits="]


def test_the_documentation_has_the_steps_as_they_are():
    assert (ROOT / "docs" / "steps.md").read_text() == step_table()


def test_nothing_asks_a_step_for_its_class():
    """`isinstance` on steps is how a new algorithm comes to need changes in old files."""
    names = {step.__name__ for step in ALGORITHMS.values()}
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                found += [(path.name, node.lineno)] * bool(asked & names)
    assert found == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_options_and_work_stand_in_one_file(name):
    step = ALGORITHMS[name]
    assert inspect.getsourcefile(step) == inspect.getsourcefile(step.apply)
