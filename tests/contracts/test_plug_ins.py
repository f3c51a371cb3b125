"""Steps, targets, observers, runtimes and families of another package are as good as this one's own.

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


FAMILY = """
import sys
from pathlib import Path
import torch
from yoloquant.checkpoint.inspect import inspect_file
from yoloquant.checkpoint.read import read_detector
from yoloquant.flows.options import Measure
from yoloquant.flows.quantize import quantize
from yoloquant.flows.train import TrainingOptions, train
from yoloquant.models.registry import build_detector
from yoloquant.recipe.recipe import load_recipe
from yoloquant.training.hyperparameters import hyperparameters_for

data, folder = sys.argv[1], Path(sys.argv[2])
assert hyperparameters_for("pebble").box == 5.0 and hyperparameters_for("pebble").close_mosaic == 0
# By the name of its architecture, on the classes of the data.
result = train("pebble-s", data, folder / "run", TrainingOptions(epochs=1, batch_size=2, image_size=96, workers=1))
trained = read_detector(result.path)
assert (trained.family, len(trained.names), trained.strides) == ("pebble", 8, (8, 16))

# A checkpoint as its own training code writes it.
fresh = build_detector("pebble-s", ["cat", "dog"], 96, seed=0)
fresh.network.names = ["cat", "dog"]
torch.save({"model": fresh.network, "train_args": {"imgsz": 96}}, folder / "pebble.pt")
again = read_detector(folder / "pebble.pt")
assert (again.family, again.names, again.strides, again.input_size) == ("pebble", ("cat", "dog"), (8, 16), (96, 96))
images = torch.rand(2, 3, 96, 96)
torch.testing.assert_close(again(images), fresh(images), rtol=0, atol=0)
assert inspect_file(folder / "pebble.pt").family == "pebble"

recipe = load_recipe("int8", ["algorithms=[calibrate]", "calibration.images=2"], target="onnxruntime")
made = quantize(result.path, data, recipe=recipe, output=folder / "out", measure=Measure(evaluate=False), report=None)
assert made.parity and all(parity.agrees for parity in made.parity), made.parity
print(sum(path.name == "model.onnx" for path in (folder / "out").iterdir()), "file")
"""


def run(code, *arguments, plug_in=True):
    """Run code in a new process, with the package installed or without it."""
    paths = [*([str(TESTS / "plugin")] if plug_in else []), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_package_adds_a_step_a_target_an_observer_and_a_runtime(tmp_path):
    data = write_generated_dataset(tmp_path / "set", train=2, val=1, size=96)
    done = run(USE, data, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "activation scales times 0.25" in done.stdout
    assert "target sample:" in done.stdout
    assert done.stdout.splitlines()[-1] == "another"


def test_a_package_adds_a_family_that_is_built_trained_read_quantized_and_exported(tmp_path):
    data = write_generated_dataset(tmp_path / "set", train=4, val=2, size=96)
    done = run(FAMILY, data, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 file"
    # Without the package its file is refused by the name of what the pickle holds, and its architecture is unknown.
    refused = "from yoloquant.checkpoint.read import read_detector; import sys; read_detector(sys.argv[1])"
    assert "names yoloquant_plugin.family." in run(refused, tmp_path / "pebble.pt", plug_in=False).stderr
    unknown = "from yoloquant.models.registry import build_detector; build_detector('pebble-s', ['a'])"
    assert "there is no architecture 'pebble-s'" in run(unknown, plug_in=False).stderr


def test_without_the_package_its_names_are_unknown():
    code = "from yoloquant.recipe.recipe import load_recipe; load_recipe(None, ['algorithms=[calibrate, shrink]'])"
    assert "algorithms.1 is no known algorithm: choose from equalize, smooth, calibrate, " in run(code, plug_in=False).stderr
