"""The training loop and its parts: batches, schedule, averages, resuming, and that a small network learns."""

import csv
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from test_train_augment import painted
from yoloquant.data.dataset import load_dataset
from yoloquant.data.synthetic import CLASS_NAMES, generate_image, write_generated_dataset
from yoloquant.errors import CheckpointError, DataError, YoloquantError
from yoloquant.models.yolov5.build import build_yolov5, official_config
from yoloquant.models.yolov5.loss import YOLOv5Loss
from yoloquant.training.float.ema import ExponentialMovingAverage
from yoloquant.training.float.parameter_groups import parameter_groups
from yoloquant.training.float.protocols import Hook
from yoloquant.training.float.trainer import Trainer
from yoloquant.training.hyperparameters import Hyperparameters, hyperparameters_for
from yoloquant.training.loader import SamplesOnDisk, TrainingLoader, load_samples, open_samples
from yoloquant.training.schedule import Schedule, decay

SIZE = 64
ANCHORS = [[8, 8, 12, 12, 16, 16], [20, 20, 24, 24, 30, 30], [36, 36, 44, 44, 54, 54]]


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster on one thread, above all beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def samples(count, size=SIZE):
    answers = []
    for index in range(count):
        item = generate_image(5, index, size)
        centers, sides = item.labels[:, 1:3] * size, item.labels[:, 3:] * size
        answers.append((item.image, np.concatenate([item.labels[:, :1], centers - sides / 2, centers + sides / 2], 1)))
    return answers


def plain(**changes):
    """Hyperparameters without augmentation or warm-up."""
    off = dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "mosaic", "warmup_epochs"), 0.0)
    return Hyperparameters(**{**off, **changes})


def tiny_detector():
    config = official_config("n", len(CLASS_NAMES)) | {"width_multiple": 0.07, "anchors": ANCHORS}
    return build_yolov5(config, CLASS_NAMES, SIZE, seed=3)


def trainer_for(detector, parameters, *, count=8, batch_size=8, epochs=4, **options):
    loss = YOLOv5Loss(detector.head.anchors, detector.strides, len(CLASS_NAMES), cls=0.3, obj=0.5)
    loader = TrainingLoader(samples(count), SIZE, batch_size, parameters, seed=1)
    return Trainer(detector.network, loss, loader, epochs, parameters, **options)


class OneMap(nn.Sequential):
    """A network with one detection level."""

    def forward(self, x):
        return [super().forward(x)]


def halving(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())


def test_a_tiny_network_learns_eight_images():
    """Images of three rectangles each, the class is the colour; classes must be known for certain, boxes much better."""
    torch.manual_seed(0)
    anchors = [[[24.0, 32.0], [32.0, 64.0], [16.0, 24.0]]]
    network = OneMap(halving(3, 16), halving(16, 32), halving(32, 64), nn.Conv2d(64, 3 * (5 + 3), 1))
    loader = TrainingLoader([painted(seed) for seed in range(8)], 128, 8, plain(), seed=1)
    results = []
    parameters = plain(lr0=0.03, warmup_epochs=3.0, warmup_iterations=0)
    loss = YOLOv5Loss(anchors, (8,), 3)
    Trainer(network, loss, loader, 60, parameters, cosine=True, nominal_batch=8).run(on_epoch=results.append)
    first, last = results[0].losses, results[-1].losses
    assert last["cls"] < first["cls"] / 50
    assert last["obj"] < first["obj"] / 5
    assert last["box"] < first["box"] * 0.8
    assert [result.epoch for result in results] == list(range(60))


@pytest.mark.parametrize("batch_size", [4, 3])
def test_a_resumed_run_gives_the_identical_curve(tmp_path, batch_size):
    """Batches of 3 leave gradients over at the end of an epoch, since 64 images make an optimizer step."""
    parameters = Hyperparameters(warmup_epochs=1.0)
    whole, parts = [], []

    def score(network):
        return float(sum(p.abs().sum() for p in network.parameters()))

    unbroken = trainer_for(tiny_detector(), parameters, batch_size=batch_size, evaluate=score)
    unbroken.run(on_epoch=whole.append)

    class StopError(Exception):
        pass

    def stop_after_two(result):
        parts.append(result)
        if result.epoch == 1:
            raise StopError

    with pytest.raises(StopError):
        trainer_for(tiny_detector(), parameters, batch_size=batch_size, evaluate=score, folder=tmp_path).run(
            on_epoch=stop_after_two
        )
    second = trainer_for(tiny_detector(), parameters, batch_size=batch_size, evaluate=score, folder=tmp_path)
    assert second.resume()
    assert second.epoch == 2
    second.run(on_epoch=parts.append)
    assert parts == whole
    assert second.best_score == unbroken.best_score
    for name, value in unbroken.average.network.state_dict().items():
        torch.testing.assert_close(second.average.network.state_dict()[name], value, rtol=0, atol=0)
        torch.testing.assert_close(second.best[name], unbroken.best[name], rtol=0, atol=0)
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [0, 1, 2, 3]


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path):
    assert not trainer_for(tiny_detector(), plain(), folder=tmp_path / "new").resume()


def test_a_state_of_another_network_or_a_damaged_one_is_refused(tmp_path):
    loader = TrainingLoader(samples(2), SIZE, 2, plain())

    def run(channels, folder):
        loss = YOLOv5Loss([[[16.0, 16.0]]], (8,), len(CLASS_NAMES))
        network = OneMap(nn.Conv2d(3, channels, 8, 8), nn.SiLU(), nn.Conv2d(channels, 5 + len(CLASS_NAMES), 1))
        return Trainer(network, loss, loader, 1, plain(), folder=folder)

    run(4, tmp_path).run()
    with pytest.raises(CheckpointError, match="another network"):
        run(6, tmp_path).resume()
    state = tmp_path / "last.safetensors"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged"):
        run(4, tmp_path).resume()


def test_the_best_epoch_is_kept_and_evaluated_as_often_as_asked():
    scores = iter([1.0, 5.0, 2.0])
    seen = []

    def score(network):
        seen.append(next(network.parameters()).clone())
        assert not network.training
        return next(scores)

    results = []
    trainer = trainer_for(tiny_detector(), plain(), epochs=5, evaluate=score, evaluate_every=2)
    trainer.run(on_epoch=results.append)
    assert [math.isnan(result.score) for result in results] == [True, False, True, False, False]
    assert trainer.best_score == 5.0
    torch.testing.assert_close(next(iter(trainer.best.values())), seen[1], rtol=0, atol=0)


def test_a_loss_that_is_not_finite_is_an_error():
    detector = tiny_detector()
    trainer = trainer_for(detector, plain())
    with torch.no_grad():
        next(detector.network.parameters()).fill_(math.inf)
    with pytest.raises(YoloquantError, match="not finite in epoch 0"):
        trainer.run()


def test_small_batches_add_up_to_the_nominal_one():
    """With SGD and no BatchNorm, eight batches of 8 step once, as a batch of 64 does."""
    network = nn.Sequential(nn.Conv2d(3, 2, 4, 4))
    steps = []
    loader = TrainingLoader(samples(64), SIZE, 8, plain())

    def loss(raw_maps, targets):
        return SimpleNamespace(total=raw_maps[0].square().sum(), parts={"loss": raw_maps[0].detach().mean()})

    trainer = Trainer(network, loss, loader, 2, plain())
    original = trainer.optimizer.step
    trainer.optimizer.step = lambda: (steps.append(trainer.epoch), original())
    trainer.run()
    assert steps == [0, 1]


def test_parameters_are_grouped_by_what_decays():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    network.scale = nn.Parameter(torch.ones(1))
    groups = parameter_groups(network, 0.5)
    assert [len(group["params"]) for group in groups] == [3, 2, 2]
    assert [group["weight_decay"] for group in groups] == [0, 0, 0.5]
    assert all(parameter.ndim > 1 for parameter in groups[2]["params"])


def test_schedule_warms_up_and_decays():
    parameters = Hyperparameters(
        lr0=0.02, lrf=0.1, warmup_epochs=2.0, warmup_iterations=0, warmup_bias_lr=0.1, warmup_momentum=0.5, momentum=0.9
    )
    schedule = Schedule(parameters, 10, 5, "linear")
    assert schedule.rates(0).weights == 0
    assert schedule.rates(0).biases == 0.1
    assert schedule.rates(0).momentum == 0.5
    weights = [schedule.rates(step).weights for step in range(50)]
    assert weights[:10] == sorted(weights[:10])
    assert weights[10:] == sorted(weights[10:], reverse=True)
    assert schedule.rates(25).weights == pytest.approx(0.02 * 0.55)
    assert schedule.rates(25).biases == schedule.rates(25).weights
    assert schedule.rates(25).momentum == 0.9


@pytest.mark.parametrize(
    ("epochs", "batches", "changes", "steps"),
    [
        (300, 500, {}, 1500),
        (300, 10, {}, 100),
        (300, 10, {"warmup_iterations": 1000}, 1000),
        (300, 10, {"warmup_epochs": 0.0}, 0),
        (8, 10, {}, 70),
        (1, 10, {}, 0),
    ],
)
def test_warm_up_takes_at_least_a_hundred_batches_and_leaves_an_epoch(epochs, batches, changes, steps):
    schedule = Schedule(Hyperparameters(**changes), epochs, batches)
    assert schedule.warmup_steps == steps
    assert schedule.rates(steps).momentum == 0.937
    assert steps == 0 or schedule.rates(steps - 1).momentum < 0.937


def test_families_warm_up_as_their_trainers_do():
    assert {family: hyperparameters_for(family).warmup_iterations for family in ("yolov5", "yolov6", "yolov7", "yolo11")} == {
        "yolov5": 100,
        "yolov6": 1000,
        "yolov7": 1000,
        "yolo11": 100,
    }


@pytest.mark.parametrize(("shape", "half"), [("linear", 0.55), ("cosine", 0.55)])
def test_decay_goes_from_one_to_its_end(shape, half):
    factor = decay(shape, 8, 0.1)
    assert [factor(0), factor(4), factor(8)] == pytest.approx([1, half, 0.1])
    assert decay("cosine", 8, 0.1)(2) > decay("linear", 8, 0.1)(2)


def test_average_is_the_published_recursion():
    network = nn.BatchNorm1d(2)
    average = ExponentialMovingAverage(network, decay=0.9, tau=5.0)
    expected = network.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            network.weight.add_(torch.tensor([1.0, -2.0]))
        network.num_batches_tracked += 1
        average.update(network)
        kept = 0.9 * (1 - math.exp(-step / 5))
        expected = kept * expected + (1 - kept) * network.weight.detach()
    torch.testing.assert_close(average.network.weight, expected)
    assert average.network.num_batches_tracked == 5
    assert not average.network.weight.requires_grad


def test_batches_depend_on_seed_and_epoch_alone():
    parameters = Hyperparameters()
    loaders = [TrainingLoader(samples(7), SIZE, 3, parameters, seed=4, workers=workers) for workers in (1, 3)]
    one, other = (list(loader.epoch(2)) for loader in loaders)
    assert len(one) == len(loaders[0]) == 2
    for (images, targets), (others, other_targets) in zip(one, other, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, other_targets)
    assert not torch.equal(one[0][0], next(iter(loaders[0].epoch(3)))[0])


def test_an_epoch_shows_each_image_once_with_its_own_boxes():
    drawn = samples(6)
    loader = TrainingLoader(drawn, SIZE, 2, plain(), seed=0)
    seen = []
    for images, targets in loader.epoch(0):
        assert images.dtype == torch.uint8
        assert images.shape == (2, 3, SIZE, SIZE)
        for position in range(2):
            image = images[position].permute(1, 2, 0).numpy()
            index = next(i for i, (own, _) in enumerate(drawn) if np.array_equal(own, image))
            seen.append(index)
            rows = targets[targets[:, 0] == position].numpy()
            labels = generate_image(5, index, SIZE).labels
            np.testing.assert_allclose(rows[:, 1:], labels, atol=1e-6)
    assert sorted(seen) == list(range(6))


def test_the_last_epochs_go_without_mosaic():
    mixed, alone = Hyperparameters(mosaic=1.0, close_mosaic=2), Hyperparameters(mosaic=0.0)
    loaders = [TrainingLoader(samples(4), SIZE, 4, parameters, seed=4, epochs=5) for parameters in (mixed, alone)]
    equal = [torch.equal(*(next(loader.epoch(number))[0] for loader in loaders)) for number in range(5)]
    assert equal == [False, False, False, True, True]


def test_no_images_to_train_on_is_an_error():
    with pytest.raises(DataError, match="no training images"):
        TrainingLoader([], SIZE, 4, plain())


def test_samples_are_read_from_a_data_set(tmp_path):
    data = load_dataset(write_generated_dataset(tmp_path, train=3, val=1, size=SIZE, seed=5), "train")
    (tmp_path / "images" / "train" / "00000001.png").write_bytes(b"no image")
    read = load_samples(data, SIZE)
    assert len(read) == 2
    assert len(data.problems["damaged image"]) == 1
    for (image, labels), (own, own_labels) in zip(read, [samples(3)[0], samples(3)[2]], strict=True):
        np.testing.assert_array_equal(image, own)
        np.testing.assert_allclose(labels, own_labels, atol=1e-3)


def test_samples_that_do_not_fit_into_memory_are_read_again(tmp_path):
    data = load_dataset(write_generated_dataset(tmp_path, train=3, val=1, size=SIZE, seed=5), "train")
    inside, outside = open_samples(data, SIZE), open_samples(data, SIZE, in_memory=1)
    assert isinstance(outside, SamplesOnDisk)
    assert len(outside) == len(inside) == 3
    for (image, labels), (own, own_labels) in zip(outside, inside, strict=True):
        np.testing.assert_array_equal(image, own)
        np.testing.assert_array_equal(labels, own_labels)
    (tmp_path / "images" / "train" / "00000001.png").write_bytes(b"no image")
    image, labels = outside[1]
    assert image.shape == (SIZE, SIZE, 3)
    assert len(labels) == 0
    assert len(data.problems["damaged image"]) == 1


def test_samples_are_scaled_to_the_longer_side(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("2 0.5 0.5 0.5 0.2\n")
    ((image, labels),) = load_samples(load_dataset(tmp_path / "images"), 50)
    assert image.shape == (25, 50, 3)
    assert labels.tolist() == [[2, 12.5, 10, 37.5, 15]]


def test_unknown_hyperparameters_are_refused():
    with pytest.raises(ValueError, match="momentun"):
        Hyperparameters(momentun=0.9)


def test_hooks_act_between_steps():
    seen = []

    class Watch(Hook):
        def epoch_started(self, trainer):
            seen.append(f"epoch {trainer.epoch}")

        def gradients_ready(self, trainer):
            assert next(trainer.network.parameters()).grad is not None
            seen.append("ready")

        def stepped(self, trainer):
            seen.append("stepped")

        def epoch_done(self, trainer, result):
            seen.append(f"done {result.epoch}")

    trainer_for(tiny_detector(), plain(), epochs=2, nominal_batch=8, hooks=[Watch()]).run()
    assert seen == ["epoch 0", "ready", "stepped", "done 0", "epoch 1", "ready", "stepped", "done 1"]


def test_a_run_without_progress_ends_early(tmp_path):
    scores = iter([3.0, 5.0, 4.0, 5.0, 9.0])
    results = []
    trainer = trainer_for(tiny_detector(), plain(), epochs=5, evaluate=lambda _: next(scores), patience=2, folder=tmp_path)
    trainer.run(on_epoch=results.append)
    assert [result.score for result in results] == [3.0, 5.0, 4.0, 5.0]
    assert (trainer.best_epoch, trainer.best_score) == (1, 5.0)
    again = trainer_for(tiny_detector(), plain(), epochs=5, evaluate=lambda _: next(scores), patience=2, folder=tmp_path)
    assert again.resume()
    again.run()
    assert again.epoch == 4


def test_mixed_precision_is_close_to_float32():
    losses = {}
    for amp in (False, True):
        results = []
        trainer_for(tiny_detector(), plain(), epochs=1, amp=amp).run(on_epoch=results.append)
        losses[amp] = results[0].losses
    for name, value in losses[False].items():
        assert losses[True][name] != value
        assert losses[True][name] == pytest.approx(value, rel=0.05), name


def test_a_loss_is_told_the_epoch():
    epochs = []

    class Changing:
        def start_epoch(self, epoch):
            epochs.append(epoch)

        def __call__(self, raw_maps, targets):
            return SimpleNamespace(total=raw_maps[0].square().sum(), parts={})

    Trainer(nn.Sequential(nn.Conv2d(3, 2, 4, 4)), Changing(), TrainingLoader(samples(2), SIZE, 2, plain()), 3, plain()).run()
    assert epochs == [0, 1, 2]
