"""Real networks of several families, quantized by this project and by its peers: drop of mAP, latency, layers in integers.

`YOLOQUANT_SHARED=... python benchmarks/families.py FOLDER [--networks yolov8n ...] [--stages make accuracy agreement latency]
[--tools yoloquant ...]`

Each tool quantizes with the same 128 photographs in a process of its own. Every file is then evaluated on the 634 photographs in
the runtime that it is for, and timed there in turns with the float file. FOLDER keeps the files and the figures: what is there is
not made or evaluated again, so that an interrupted run goes on. Time on a machine where nothing else runs.
`--held-out` evaluates on photographs of the train split that did not calibrate, instead of on the val split.

Agreement is mAP50-95 against the float network's own detections, of a score of at least 0.3, on every second photograph without
labels. It says how far boxes, scores and their order moved. A drop of mAP on 634 labelled photographs says that only within a few
tenths (one standard error by the jackknife stands behind it): a detection that moves is as likely to meet its label better as
worse.

Peers need `pip install "yoloquant[peers]"`; those that are missing, or refuse a network, are left out with their reason.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from peers import PEERS, calibration_photographs, write_linked_data

SHARED = Path(os.environ.get("YOLOQUANT_SHARED", "YOLOQUANT_SHARED-is-not-set"))
DATA = SHARED / "coco" / "data.yaml"
# With trained weights: judged by mAP and by time.
TRAINED = {
    name.split(".")[0]: SHARED / "weights" / name
    for name in ("yolov8n.pt", "yolo11n.pt", "yolov5s.pt", "yolov6lite_s.onnx", "yolov5n.pt")
}
# Of full width with random weights: judged by time alone.
RANDOM = ("yolov7-tiny", "yolov6n", "yolov10n", "yolo26n")
TARGETS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "onnxruntime"}
FLOAT = "float.onnx"
STAGES = ("make", "accuracy", "agreement", "latency")
# What of the float network's detections counts as an object, and how suppression makes them.
CERTAIN, OVERLAP = 0.3, 0.6
RUNS = int(os.environ.get("RUNS", "40"))


@dataclass(frozen=True)
class Candidate:
    """A file of a tool, and the runtime it is for.

    Attributes:
        tool: as the table prints it.
        file: relative to the network's folder.
        runtime: that runs it.
        make: (network's folder, path to write) -> nothing.
    """

    tool: str
    file: str
    runtime: str
    make: Callable[[Path, Path], None] | None = None


def candidates(network: str) -> list[Candidate]:
    """What is compared for a network, float first."""
    float_files = [Candidate("float", FLOAT, runtime) for runtime in ("onnxruntime", "openvino")]
    ours = [
        Candidate(f"yoloquant {target}", f"yoloquant-{target}/model.onnx", runtime, quantizer(network, target))
        for target, runtime in TARGETS.items()
    ]
    peers = [Candidate(*row[:3], make=row[3](source(network))) for row in PEERS] if network in TRAINED else []
    return [*float_files, *ours, *peers]


def source(network: str) -> Path | None:
    """The file of a network with trained weights."""
    return TRAINED.get(network)


def detector_of(network: str) -> Any:
    """A trained detector, or a fresh one whose batch norms have seen photographs."""
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.models.registry import build_detector

    if network in TRAINED:
        return read_detector(TRAINED[network])
    return settled(build_detector(network, [str(number) for number in range(80)], seed=0))


def settled(detector: Any) -> Any:
    """Batch norms of random weights as after an epoch: values keep the size that trained networks give them."""
    import torch

    from yoloquant.data.loader import ImageLoader

    for module in detector.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    detector.network.train()
    with torch.no_grad():
        for batch in ImageLoader(calibration_photographs(8), (320, 320), 4):
            detector.network(batch.images.float() / 255.0)
    detector.network.eval()
    return detector


def quantizer(network: str, target: str) -> Callable[[Path, Path], None]:
    """How this project makes its file: by the default recipe."""

    def make(_: Path, path: Path) -> None:
        from yoloquant.flows.options import Measure
        from yoloquant.flows.quantize import quantize
        from yoloquant.recipe.recipe import load_recipe

        # Random weights are judged by time, which few photographs and 7 bits do not change; at 8 bits their sums saturate.
        few = () if network in TRAINED else ("calibration.images=8", "weights.bits=7")
        options = {"recipe": load_recipe("int8", few), "measure": Measure(evaluate=False), "report": None}
        quantize(detector_of(network), DATA, target=target, output=path.parent, **options)

    return make


def make_all(folder: Path, network: str, tools: list[str]) -> None:
    """Write the files that are not there yet, each in a process of its own, and note how long that took or why it failed."""
    notes = Notes(folder / "made.json")
    for candidate in candidates(network):
        path = folder / candidate.file
        wanted = candidate.tool.startswith(("float", *tools))
        if not wanted or path.exists() or (candidate.file in notes.values and candidate.make):
            continue
        command = [sys.executable, __file__, str(folder.parent), "--child", network, candidate.file]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        seconds = next((float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("SECONDS")), None)
        notes.add(candidate.file, seconds if done.returncode == 0 else _reason(lines))


def _reason(lines: list[str]) -> str:
    """The line in which a traceback names its exception; messages may go on for lines behind it."""
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (named or lines)[-1]


def make_one(folder: Path, network: str, file: str) -> None:
    """In the child process: one file."""
    import time

    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    if file == FLOAT:
        from yoloquant.exporting.onnx_export import export_onnx

        export_onnx(detector_of(network), folder / file)
    else:
        make = next(candidate.make for candidate in candidates(network) if candidate.file == file)
        assert make is not None
        make(folder, folder / file)
    print(f"SECONDS {time.perf_counter() - start:.1f}")


class Notes:
    """Figures that are kept in a file from run to run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, key: str, value: Any) -> None:
        """Keep one."""
        self.values[key] = value
        self.path.write_text(json.dumps(self.values, indent=1))


def opened(folder: Path, candidate: Candidate) -> Any:
    """The file in its runtime; the float file's facts serve where a peer's format holds none."""
    from yoloquant.checkpoint.onnx_metadata import read_metadata
    from yoloquant.runtime.registry import open_onnx

    own = candidate.file.endswith(".onnx") and not candidate.file.startswith("nncf")
    facts = read_metadata(folder / (candidate.file if own else FLOAT))
    return open_onnx(folder / candidate.file, candidate.runtime, metadata=facts)


def present(folder: Path, network: str) -> Iterator[Candidate]:
    """Files that were made."""
    return (candidate for candidate in candidates(network) if (folder / candidate.file).is_file())


def evaluate_all(folder: Path, network: str, notes: Notes, dataset: Any) -> None:
    """mAP on a data set of every file that has none yet, and that without each group of images, for standard errors."""
    from yoloquant.evaluation.evaluator import evaluate
    from yoloquant.evaluation.uncertainty import class_means

    for candidate in present(folder, network):
        key = f"{candidate.file} in {candidate.runtime}"
        if key not in notes.values:
            runner = opened(folder, candidate)
            found = evaluate(runner, dataset)
            runner.close()
            notes.add(key, [found.map50_95, found.map50, *class_means(found.left_out).tolist()])


def detections(folder: Path, network: str) -> Any:
    """Photographs without labels, with the float network's own detections as objects."""
    from yoloquant.data.dataset import load_dataset

    data = folder / "detections" / "data.yaml"
    if not data.is_file():
        runner = opened(folder, candidates(network)[1])
        write_linked_data(data.parent, detected(runner))
        runner.close()
    return load_dataset(data)


def detected(runner: Any) -> Iterator[tuple[Path, str]]:
    """Every second photograph without labels, and what a network detects there, as labels."""
    from yoloquant.data.images import read_image
    from yoloquant.evaluation.predict import PredictionSettings, predict
    from yoloquant.evaluation.prediction_files import label_rows

    paths = sorted((SHARED / "coco" / "images" / "unlabeled2017").iterdir())[::2]
    settings = PredictionSettings(confidence=CERTAIN, iou=OVERLAP)
    for path, (image, found) in zip(paths, predict(runner, map(read_image, paths), settings), strict=True):
        yield path, label_rows(image.shape[:2], found)


def photographs(*, held_out: bool) -> Any:
    """The val split, or what of the train split does not calibrate."""
    from dataclasses import replace

    from yoloquant.data.dataset import load_dataset

    if not held_out:
        return load_dataset(DATA)
    used = {entry.path for entry in calibration_photographs()}
    everything = load_dataset(DATA, "train", annotations=SHARED / "coco" / "annotations" / "instances_train2017.json")
    return replace(everything, images=tuple(entry for entry in everything.images if entry.path not in used))


def time_all(folder: Path, network: str) -> None:
    """Medians of one image at a time, all files of a runtime in turns; and the layers in integers, by the runtime's own graph."""
    from yoloquant.evaluation.latency import measure_latency
    from yoloquant.runtime.executed_layers import executed_layers

    notes = Notes(folder / "latency.json")
    for runtime in ("onnxruntime", "openvino"):
        files = [candidate for candidate in present(folder, network) if candidate.runtime == runtime]
        runners = {candidate.file: opened(folder, candidate) for candidate in files}
        for file, latency in measure_latency(runners, runs=RUNS, warmup=5).items():
            # Layers are counted by the names that ONNX files give them.
            executed = executed_layers(folder / file, runtime) if file.endswith(".onnx") else None
            layers = [len(executed.integer), len(executed.integer) + len(executed.floating)] if executed else []
            notes.add(f"{file} in {runtime}", [latency.median, latency.minimum, *layers])
        for runner in runners.values():
            runner.close()


COLUMNS = ("file", "runtime", "mAP50-95", "drop", "drop, held out", "agreement", "ms", "ratio", "integer layers", "s to make")


def rows_of(folder: Path, network: str) -> list[list[str]]:
    """All figures of a network; drops and ratios are against the float file in the same runtime."""
    made, accuracy, held, agreement, latency = (
        Notes(folder / f"{name}.json").values for name in ("made", "accuracy", "held_out", "agreement", "latency")
    )
    rows = []
    for candidate in candidates(network):
        key, plain = f"{candidate.file} in {candidate.runtime}", f"{FLOAT} in {candidate.runtime}"
        if isinstance(made.get(candidate.file), str):
            rows.append([candidate.tool, candidate.runtime, made[candidate.file][:60], *[""] * (len(COLUMNS) - 3)])
            continue
        cells = [_number(accuracy.get(key), 0)]
        cells += [_difference(notes.get(plain), notes.get(key)) for notes in (accuracy, held)]
        cells.append(_number(agreement.get(key), 0, 1))
        cells += [_number(latency.get(key), 0, 1)]
        cells += (
            [f"{latency[key][0] / latency[plain][0]:.2f}", " of ".join(str(count) for count in latency[key][2:])]
            if key in latency
            else ["", ""]
        )
        cells.append(f"{made[candidate.file]:.0f}" if candidate.file in made else "")
        rows.append([candidate.tool, candidate.runtime, *cells])
    return rows


def table_of(rows: list[list[str]], title: str) -> Table:
    """Rows for a terminal."""
    table = Table(*COLUMNS, title=title)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_of(rows: list[list[str]], title: str) -> str:
    """Rows for the documentation, without columns that are empty."""
    filled = [number for number, name in enumerate(COLUMNS) if any(row[number] for row in rows)]
    lines = [[COLUMNS[number] for number in filled], ["---"] * len(filled), *([row[number] for number in filled] for row in rows)]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def _number(values: list[float] | None, index: int, digits: int = 2) -> str:
    return "" if values is None else f"{values[index]:.{digits}f}"


def _difference(first: list[float] | None, second: list[float] | None) -> str:
    """A drop of mAP and its standard error, which is not there where it was measured without groups."""
    if first is None or second is None:
        return ""
    from yoloquant.evaluation.uncertainty import Loss, standard_error

    known = first is not second and len(first) == len(second) > 2
    error = standard_error(np.subtract(first[2:], second[2:])) if known else float("nan")
    return str(Loss(first[0] - second[0], error))


def main() -> None:
    """Do the stages and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", default=[*TRAINED, *RANDOM], choices=[*TRAINED, *RANDOM])
    parser.add_argument("--stages", nargs="*", default=STAGES, choices=STAGES)
    parser.add_argument("--tools", nargs="+", default=[""], help="whose files are made, by how their names begin; all by default")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print tables as the documentation has them")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        make_one(given.folder / given.child[0], *given.child)
        return
    for network in given.networks:
        folder = given.folder.resolve() / network
        folder.mkdir(parents=True, exist_ok=True)
        if "make" in given.stages:
            make_all(folder, network, given.tools)
        if "accuracy" in given.stages and network in TRAINED:
            notes = Notes(folder / ("held_out.json" if given.held_out else "accuracy.json"))
            evaluate_all(folder, network, notes, photographs(held_out=given.held_out))
        if "agreement" in given.stages and network in TRAINED:
            evaluate_all(folder, network, Notes(folder / "agreement.json"), detections(folder, network))
        if "latency" in given.stages:
            time_all(folder, network)
        rows = rows_of(folder, network)
        if given.markdown:
            print(markdown_of(rows, network))
        else:
            Console(width=150).print(table_of(rows, network))


if __name__ == "__main__":
    main()
