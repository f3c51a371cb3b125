"""Two gloo processes train and evaluate as one does."""

import json

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from test_train import SIZE, samples
from yoloquant.data.dataset import load_dataset
from yoloquant.data.synthetic import CLASS_NAMES, write_generated_dataset
from yoloquant.distributed import gathered, process_count, process_number, sum_over_processes
from yoloquant.evaluation.evaluator import evaluate
from yoloquant.models.registry import build_detector
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.training.distributed import SynchronizedBatchNorm
from yoloquant.training.float.trainer import Trainer
from yoloquant.training.hyperparameters import hyperparameters_for
from yoloquant.training.loader import TrainingLoader
from yoloquant.training.losses import loss_for

ARCHITECTURES = ("yolov5n", "yolov6n", "yolov7-tiny", "yolov8n")


def trained(name, folder=None):
    """Losses of each epoch, the average's first weights, and mAP50 of a fixed network."""
    detector = build_detector(name, CLASS_NAMES, SIZE, seed=3, width=0.06)
    # Small steps: with large ones the rounding of another order of images alone moves losses by more than the tolerance.
    parameters = hyperparameters_for(detector.family, warmup_epochs=0.0, lr0=5e-4)
    loader = TrainingLoader(samples(10), SIZE, 4, parameters, seed=1)
    results = []
    trainer = Trainer(
        detector.network, loss_for(detector, parameters, SIZE), loader, 2, parameters, nominal_batch=4, folder=folder
    )
    trainer.run(on_epoch=results.append)
    weights = next(p for p in trainer.average.network.parameters() if p.dim() == 4)
    statistics = next(m for m in trainer.average.network.modules() if isinstance(m, nn.BatchNorm2d)).running_var
    return [result.losses for result in results], [weights.flatten()[:8].tolist(), statistics.tolist()]


def everything(folder, data):
    """What both runs are compared by."""
    answers = {name: trained(name, None if folder is None else folder / name) for name in ARCHITECTURES}
    detector = build_detector("yolov8n", CLASS_NAMES, SIZE, seed=0, width=0.06)
    evaluation = evaluate(TorchRunner(detector), load_dataset(data))
    return {**answers, "rows": sorted(row["score"] for row in evaluation.rows), "images": evaluation.image_count}


def work(number, folder, data):
    """One of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    assert (process_number(), process_count()) == (number, 2)
    assert gathered([number]) == [0, 1]
    assert float(sum_over_processes(torch.tensor(float(number + 1)))) == 3.0
    (folder / f"{number}.json").write_text(json.dumps(everything(folder, data)))
    dist.destroy_process_group()


def test_two_processes_give_the_losses_of_one(tmp_path):
    torch.set_num_threads(1)
    data = write_generated_dataset(tmp_path / "data", train=1, val=5, size=SIZE)
    multiprocessing.spawn(work, (tmp_path, data), nprocs=2)
    first, second = (json.loads((tmp_path / f"{number}.json").read_text()) for number in (0, 1))
    alone = json.loads(json.dumps(everything(None, data)))
    for found in (first, second):
        for name in ARCHITECTURES:
            # Rounding makes YOLOv7 choose other cells now and then, sooner or later.
            epochs = alone[name][0][:1] if name == "yolov7-tiny" else alone[name][0]
            for epoch, losses in enumerate(epochs):
                assert found[name][0][epoch] == pytest.approx(losses, rel=1e-4, abs=1e-5), (name, epoch)
            for mine, theirs in zip(found[name][1], alone[name][1], strict=True):
                assert mine == pytest.approx(theirs, rel=2e-3, abs=1e-4), name
        assert found["images"] == alone["images"] == 5
        assert found["rows"] == pytest.approx(alone["rows"], abs=1e-5)
    # Only the first process writes, once.
    rows = (tmp_path / "yolov5n" / "results.csv").read_text().splitlines()
    assert len(rows) == 3


def test_without_other_processes_the_norm_is_the_plain_one():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5)
    plain, synchronized = nn.BatchNorm2d(3), SynchronizedBatchNorm(3)
    torch.testing.assert_close(synchronized(x), plain(x))
    torch.testing.assert_close(synchronized.running_var, plain.running_var)
