"""Steps, targets, observers and runtimes of another package are as good as this one's own.

The package stands in `tests/plugin`, beside the facts that an installer writes, so that a path is all that installs it.
"""

import os
import subprocess
import sys
from pathlib import Path

from yoloquant.data.synthetic import write_generated_dataset

TESTS = Path(__file__).parent.parent

USE = """
import sys
from yoloquant.assets import demo_weights
from yoloquant.flows.quantize import quantize
from yoloquant.progress import Silent
from yoloquant.flows.options import Measure
from yoloquant.recipe.recipe import ALGORITHMS, load_recipe
from yoloquant.runtime.open import open_runner
from yoloquant.runtime.registry import RUNTIMES
from yoloquant.targets.registry import TARGETS

class Notes(Silent):
    def note(self, message):
        print(message)

assert "shrink" in ALGORITHMS and "sample" in TARGETS and "another" in RUNTIMES
recipe = load_recipe("int8", ["algorithms=[calibrate, {shrink: {factor: 0.25}}]", "calibration.images=2"], target="sample")
assert load_recipe(None, ["algorithms=[calibrate, shrink]"]).algorithms[1].factor == 0.5
data, output = sys.argv[1:]
quantize(demo_weights(), data, recipe=recipe, output=output, measure=Measure(evaluate=False), report=None, reporter=Notes())
print(open_runner(output, "another").name)
"""


def test_a_package_adds_a_step_a_target_an_observer_and_a_runtime(tmp_path):
    data = write_generated_dataset(tmp_path / "set", train=2, val=1, size=96)
    paths = [str(TESTS / "plugin"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", USE, str(data), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "activation scales times 0.25" in done.stdout
    assert "target sample:" in done.stdout
    assert done.stdout.splitlines()[-1] == "another"


def test_without_the_package_its_names_are_unknown():
    code = "from yoloquant.recipe.recipe import load_recipe; load_recipe(None, ['algorithms=[calibrate, shrink]'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "algorithms.1 is no known algorithm: choose from equalize, smooth, calibrate, " in done.stderr
