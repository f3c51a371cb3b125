"""Two processes train a quantized network as one does, and write one folder."""

import json
import subprocess
import sys
from typing import ClassVar
from unittest import mock

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from small_networks import SIZE, RowsHead, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.assets import demo_weights
from yoloquant.data.dataset import load_dataset
from yoloquant.data.images import to_input
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.distributed import (
    extremes_over_processes,
    from_first,
    process_count,
    process_number,
    sum_over_processes,
    take_from_first,
)
from yoloquant.evaluation.evaluator import evaluate
from yoloquant.exporting.folder import load_quantized
from yoloquant.graph.capture import capture
from yoloquant.models.detector import Detector
from yoloquant.models.yolov5.network import AnchorHead
from yoloquant.progress import Silent
from yoloquant.recipe.recipe import load_recipe
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.targets.registry import get_target
from yoloquant.training.distributed import sum_gradients
from yoloquant.training.float.distillation import Teacher
from yoloquant.training.quantized.run import train_quantized
from yoloquant.training.quantized.step import Train
from yoloquant.training.quantized.trainer import QuantizedTraining

SHORT = {"epochs": 2, "batch_size": 4, "val_images": 4, "optimizer": "sgd", "learning_rate": 0.05, "scale_learning_rate": 30.0}
RUNS = {
    "teachers, learned": Train(**SHORT, detection_weight=0.2),
    "teachers, observed": Train(**SHORT, teacher="detections", weights="observed", activations="observed"),
    "labels, learned": Train(**{**SHORT, "learning_rate": 0.01}, teacher="labels", activations="lsq+"),
    "labels, observed": Train(**{**SHORT, "learning_rate": 0.01}, teacher="labels", weights="observed", activations="observed"),
}


def small_yolov5():
    """A small network whose head is YOLOv5's, one anchor a level, calibrated, and its float twin."""

    def choose(_layer, _tensor, spec):
        return spec.with_changes(bits=4)

    network = SmallNetwork()
    detector = quantized_detector(get_target("reference"), network, choose=choose)
    detector.head = AnchorHead(4, [4, 8], [[[12.0, 16.0]], [[40.0, 32.0]]])
    detector.family = "yolov5"
    calibrate(detector, [images(4)])
    return detector, capture(network, SIZE, 8)


class Watched(QuantizedTraining):
    """Keeps the loss of every step, and the parameters as the last one left them; what is judged best may be the start."""

    runs: ClassVar[list["Watched"]] = []

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self.losses, self.start = [], self._state()
        self.runs.append(self)

    def _step(self, *given):
        loss, fault = super()._step(*given)
        self.losses.append(loss)
        self.last = self._state()
        return loss, fault


def trained(name, data, folder):
    """Losses of every step, what was judged, parameters of the last step, and how far they moved."""
    detector, reference = small_yolov5()
    if process_number() == 1:
        # What the second process begins with does not matter.
        for parameter in detector.network.parameters():
            parameter.data.mul_(1.1)
    result = train_quantized(detector, reference, RUNS[name], load_dataset(data, "train").images, folder / name, Silent())
    run = Watched.runs.pop()
    parameters = {key: value.float().flatten()[:6].tolist() for key, value in run.last.items()}
    moved = sum(float((value - run.start[key]).abs().max()) > 1e-3 for key, value in run.last.items())
    judged = [result.before, result.after]
    return {"losses": run.losses, "judged": judged, "faults": result.faults, "parameters": parameters, "moved": moved}


def everything(data, folder):
    """What both runs are compared by."""
    with mock.patch("yoloquant.training.quantized.run.QuantizedTraining", Watched):
        return {"taught": taught(), **{name: trained(name, data, folder) for name in RUNS}}


def taught():
    """What a float student pays for a batch in which it does not answer as its teacher."""
    network = SmallNetwork()
    teacher = Teacher(Detector(network, RowsHead(), ("a", "b", "c", "d"), (4, 8), SIZE, "small"), "cpu", gain=3.0)
    share = to_input(images(4)[process_number() :: process_count()])
    with torch.no_grad():
        return float(sum_over_processes(teacher(share, [1.2 * raw for raw in network(share)])))


def work(number, folder, data):
    """One of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    assert from_first(lambda: f"from {number}") == "from 0"
    low, high = extremes_over_processes(torch.tensor([number, -1.0]), torch.tensor([number, 2.0 - number]))
    assert low.tolist() == [0.0, -1.0]
    assert high.tolist() == [1.0, 2.0]
    taken = torch.full((2, 3), number).t()
    take_from_first([taken])
    assert taken.tolist() == [[0, 0]] * 3
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, number])
    if number == 1:
        parameters[1].grad = torch.ones(2)
    sum_gradients(parameters)
    assert [None if one.grad is None else one.grad.tolist() for one in parameters] == [[2.0, 1.0], [1.0, 1.0], None]
    (folder / f"{number}.json").write_text(json.dumps(everything(data, folder / "shared")))
    dist.destroy_process_group()


def test_two_processes_take_the_steps_of_one(tmp_path):
    torch.set_num_threads(1)
    data = write_generated_dataset(tmp_path / "data", train=12, val=1, size=64)
    multiprocessing.spawn(work, (tmp_path, data), nprocs=2)
    first, second = (json.loads((tmp_path / f"{number}.json").read_text()) for number in (0, 1))
    alone = everything(data, tmp_path / "alone")
    costs = [answers.pop("taught") for answers in (first, second, alone)]
    assert costs[:2] == pytest.approx([costs[2]] * 2, rel=1e-4)
    for name, expected in alone.items():
        assert len(expected["losses"]) == 4, name
        assert expected["moved"] > 5, name
        for found in (first[name], second[name]):
            assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4), name
            assert found["judged"] == pytest.approx(expected["judged"], rel=1e-4), name
            assert len(found["faults"]) == len(expected["faults"]), name
            for key, values in expected["parameters"].items():
                assert found["parameters"][key] == pytest.approx(values, rel=1e-4, abs=1e-4), (name, key)
            assert found["faults"] == first[name]["faults"]
        # Both hold the same, to the last bit, since only so they find the same faults.
        assert first[name]["parameters"] == second[name]["parameters"]
        assert len(list((tmp_path / "shared" / name).iterdir())) == 1
    # Steps this large make the boxes worse, and the guard steps back: in all processes, or they would wait for each other.
    assert any(expected["faults"] for expected in alone.values())


@pytest.mark.slow
def test_the_whole_commands_under_torchrun_write_one_folder_each(tmp_path):
    data = write_generated_dataset(tmp_path / "data", train=12, val=5)
    recipe = tmp_path / "recipe.yaml"
    steps = "[calibrate, keep_float: {layers: 1, images: 2}, train: {epochs: 2, batches: 1, batch_size: 4, val_images: 4}]"
    recipe.write_text(f"algorithms: {steps}\ncalibration: {{images: 12}}\n")
    arguments = ["quantize", demo_weights(), "--data", data, "--recipe", recipe, "--output", tmp_path / "out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "yoloquant"]
    further = [
        "finetune",
        tmp_path / "out",
        "--data",
        data,
        "--output",
        tmp_path / "run",
        "--epochs",
        1,
        "--set",
        "val_images=4",
    ]
    for command in (arguments, further):
        answer = subprocess.run([*torchrun, *map(str, command)], capture_output=True, text=True, timeout=300, check=False)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.count("written to") == answer.stdout.count("training left") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out", "recipe.yaml", "run"]
    assert [step.name for step in load_recipe(tmp_path / "run" / "recipe.yaml").algorithms] == [
        "calibrate",
        "keep_float",
        "train",
        "train",
    ]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(metrics["float_layers"]) == 1
    assert all(row["evaluation"]["image_count"] == 5 for row in metrics["rows"])
    assert {row["runtime"] for row in metrics["rows"] if row["latency_ms"]} == {"onnxruntime"}
    evaluation = evaluate(TorchRunner(load_quantized(tmp_path / "out")), load_dataset(data))
    (row,) = (row for row in metrics["rows"] if (row["model"], row["runtime"]) == ("int8", "torch"))
    assert row["evaluation"]["figures"] == pytest.approx(evaluation.to_dict()["figures"], abs=0.5, nan_ok=True)
