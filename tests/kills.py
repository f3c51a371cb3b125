"""Kill whole commands at many moments, and check that nothing of the user's is lost and that a rerun ends as an undisturbed run.

A place is a folder with everything that a command reads, an earlier output, and files of the user beside them. A command is
killed after some seconds, or just before one of its changes to the file system.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
import yaml
from safetensors.torch import load_file

from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.files.outputs import PREFIX

OUT = "out"
# Runs one of the project's commands, and kills it before its n-th change of a file in the current folder. Without one that many
# it prints how many there were.
AT_A_CHANGE = """
import os, signal, sys
last, count, here = int(sys.argv.pop(1)), 0, os.getcwd() + os.sep
def changes(event, given):
    if event == "open":
        return isinstance(given[0], str) and (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    return event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod")
def watch(event, given):
    global count
    # Removing a folder with all that it holds names files relative to an open folder.
    if changes(event, given) and os.path.abspath(given[0]).startswith(here):
        count += 1
        if count == last:
            os.killpg(0, signal.SIGKILL)
from yoloquant.cli import ending, app
sys.addaudithook(watch)
try:
    ending.run(app)
finally:
    print(f"changes: {count}")
"""


@dataclass(frozen=True)
class Command:
    """A command that writes for long.

    Attributes:
        arguments: Of the command line, which runs in the place.
        earlier: Arguments that make the earlier output.
        is_exchanged: Whether the output is exchanged as one, and not file by file.
        same: Names of files in the output, or beside it, that are the same after every run.
    """

    arguments: tuple[str, ...]
    earlier: tuple[str, ...]
    is_exchanged: bool
    same: tuple[str, ...]


@dataclass(frozen=True)
class Truth:
    """What an undisturbed run does.

    Attributes:
        template: Place before the run.
        after: Place after it.
        seconds: Duration.
        changes: Number of changes to the file system.
    """

    template: Path
    after: Path
    seconds: float
    changes: int


RECIPE = """
algorithms:
  - calibrate: {}
  - reconstruct: {unit: block, iterations: 5}
  - train: {epochs: 2, batches: 1, batch_size: 2, crop_size: 64, val_images: 2}
calibration: {images: 4}
"""
QUICK = "--data set/data.yaml --recipe int8-minmax --no-evaluate"
NETWORK = ("quantized.safetensors", "recipe.yaml", "model.onnx")


def command(arguments: str, earlier: str, is_exchanged: bool, same: tuple[str, ...]) -> Command:
    return Command(tuple(arguments.split()), tuple(earlier.split()), is_exchanged, same)


COMMANDS = {
    "quantize": command(
        "quantize model.safetensors --data set/data.yaml --recipe steps.yaml --image-size 64 --no-evaluate --output out",
        f"quantize model.safetensors --output out {QUICK}",
        True,
        NETWORK,
    ),
    "finetune": command(
        "finetune start --data set/data.yaml --teacher model.safetensors --epochs 2 --image-size 64 --no-evaluate --output out "
        "--set val_images=2 --set batches=2",
        f"quantize model.safetensors --output out {QUICK}",
        True,
        NETWORK,
    ),
    "train": command(
        "train model.safetensors --data set/data.yaml --output out --epochs 5 --batch 4 --workers 1 --resume",
        "train model.safetensors --data set/data.yaml --output out --epochs 5 --batch 4 --workers 1",
        False,
        ("best.safetensors", "last.safetensors", "results.csv"),
    ),
    "analyze": command(
        "analyze model.safetensors --data set/data.yaml --images 1 --output out",
        "analyze model.safetensors --data set/data.yaml --images 1 --mode block --output out",
        False,
        ("analysis.json", "sensitivity.csv", "statistics.csv"),
    ),
    "search": command(
        "search model.safetensors --data set/data.yaml --max-drop 5 --output out.yaml",
        "search model.safetensors --data set/data.yaml --max-drop 5 --recipe int8-minmax --output out.yaml",
        False,
        ("out.yaml", "out.search.json"),
    ),
}


def prepare(folder: Path, chosen: Command, save_model: Callable[[Path], object]) -> Truth:
    """A place with an earlier output, and what becomes of it in an undisturbed run."""
    template, after = folder / "template", folder / "after"
    template.mkdir(parents=True)
    save_model(template / "model.safetensors")
    write_generated_dataset(template / "set", train=4, val=2)
    (template / "steps.yaml").write_text(RECIPE)
    finished(template, chosen.earlier, stop=has_state if chosen.earlier[0] == "train" else None)
    if chosen.arguments[0] == "finetune":
        shutil.copytree(template / OUT, template / "start")
    for name in ("notes.txt", "out.txt", "out.partial.txt", "out.old", "out.new", "model.safetensors.part"):
        (template / name).write_text(f"{name} of the user")
    shutil.copytree(template, after)
    begin = time.monotonic()
    told = finished(after, chosen.arguments, change=1 << 30)
    seconds = time.monotonic() - begin
    return Truth(template, after, seconds, int(told.rpartition("changes: ")[2]))


def has_state(place: Path) -> bool:
    return (place / OUT / "last.safetensors").is_file() and (place / OUT / "best.safetensors").is_file()


def started(place: Path, arguments: tuple[str, ...], change: int | None = None) -> subprocess.Popen:
    program = ["-m", "yoloquant"] if change is None else ["-c", AT_A_CHANGE, str(change)]
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(
    place: Path, arguments: tuple[str, ...], stop: Callable[[Path], bool] | None = None, change: int | None = None
) -> str:
    """What a run prints that ends by itself, or is killed as soon as `stop` holds."""
    process = started(place, arguments, change)
    while stop is not None and process.poll() is None and not stop(place):
        time.sleep(0.005)
    if stop is not None:
        kill(process)
    told, _ = process.communicate()
    assert stop is not None or process.returncode == 0, told
    return told


def kill(process: subprocess.Popen) -> None:
    """Kill a process with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def after_a_kill(
    chosen: Command, truth: Truth, place: Path, *, seconds: float | None = None, change: int | None = None
) -> list[str]:
    """Kill a run, and report everything that is not as it should be then, and after a rerun."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(truth.template, place)
    process = started(place, chosen.arguments, change)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        process.communicate()
    faults = [f"after the kill: {fault}" for fault in (*lost(place, truth.template), *torn(chosen, place, truth))]
    again = started(place, chosen.arguments)
    told, _ = again.communicate()
    if again.returncode != 0:
        return [*faults, f"the rerun ends with {again.returncode}: {told[-300:]}"]
    rerun = (*lost(place, truth.template), *missing(place, truth), *different(chosen, place, truth), *left(place))
    return faults + [f"after the rerun: {fault}" for fault in rerun]


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def is_output(name: str) -> bool:
    """Whether a file of a place is the output, or stands beside it while a run goes on."""
    top = Path(name).parts[0]
    return top in (OUT, f"{OUT}.partial", "out.yaml", "out.html", "out.search.json") or top.startswith(PREFIX)


def lost(place: Path, template: Path) -> Iterator[str]:
    """Files of the user that are not what they were, and new ones beside them."""
    before, now = ({name: data for name, data in contents(root).items() if not is_output(name)} for root in (template, place))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield f"{name} is {'lost' if name not in now else 'changed' if name in before else 'new'}"


def output_of(place: Path) -> dict[str, Path]:
    """The finished files of an output, by name."""
    return {
        path.name: path
        for path in place.rglob("*")
        if path.is_file() and is_output(name := str(path.relative_to(place))) and not is_unfinished(name)
    }


def is_unfinished(name: str) -> bool:
    return any(part.startswith(PREFIX) or part == f"{OUT}.partial" for part in Path(name).parts)


def torn(chosen: Command, place: Path, truth: Truth) -> Iterator[str]:
    """What of an output is neither the earlier one nor the new one."""
    earlier, found = output_of(truth.template), output_of(place)
    old = {name for name in found if name in earlier and found[name].read_bytes() == earlier[name].read_bytes()}
    if old == earlier.keys() == found.keys():
        return
    needed = (*NETWORK, "metrics.json") if chosen.is_exchanged else earlier
    yield from (f"{name} is missing" for name in needed if name not in found)
    if chosen.is_exchanged:
        unchanged = {name for name in old if equal(earlier[name], output_of(truth.after)[name])}
        yield from (f"{name} is the earlier one beside new ones" for name in old - unchanged)
        yield from different(chosen, place, truth)
    for name in found.keys() - old:
        yield from broken(found[name])


def broken(path: Path) -> Iterator[str]:
    """What is wrong with a file that was cut off."""
    try:
        WHOLE[path.suffix](path)
    except Exception as error:
        yield f"{path.name} is not whole: {type(error).__name__}: {error}"


def whole_csv(path: Path) -> None:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert path.read_bytes().endswith(b"\n"), "it ends within a line"
    assert len({len(row) for row in rows}) == 1, "it ends within a row"


def whole_page(path: Path) -> None:
    assert path.read_text().rstrip().endswith("</html>"), "it ends within the page"


def whole_lines(path: Path) -> None:
    # The last line may be cut off: each stands for itself.
    for line in path.read_text().split("\n")[:-1]:
        assert not line or json.loads(line)


WHOLE: dict[str, Callable[[Path], object]] = {
    ".safetensors": load_file,
    ".onnx": onnx.load,
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": whole_lines,
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".csv": whole_csv,
    ".html": whole_page,
}


def different(chosen: Command, place: Path, truth: Truth) -> Iterator[str]:
    """Files of an output that are not those of an undisturbed run."""
    expected, found = output_of(truth.after), output_of(place)
    for name in chosen.same:
        if name in found and not equal(found[name], expected[name]):
            yield f"{name} is not that of an undisturbed run"


def missing(place: Path, truth: Truth) -> Iterator[str]:
    """Files that an undisturbed run has and this one has not, or the other way round."""
    expected, found = output_of(truth.after).keys(), output_of(place).keys()
    if expected != found:
        yield f"the output holds {sorted(found)}, and not {sorted(expected)}"


def equal(one: Path, other: Path) -> bool:
    if one.suffix != ".safetensors":
        return one.read_bytes() == other.read_bytes()
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def left(place: Path) -> Iterator[str]:
    """What a finished run should have removed."""
    for path in place.rglob("*"):
        if path.name.startswith(PREFIX) or path.name == f"{OUT}.partial":
            yield f"{path.relative_to(place)} was left"
