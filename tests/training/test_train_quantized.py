"""Quantization-aware training: it gains, never loses, resumes, and survives everything that makes runs collapse."""

import math

import cv2
import pytest
import torch
from torch import nn

from notes import Notes
from small_networks import SIZE, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.analysis.detection_error import detection_error
from yoloquant.data.dataset import ImageEntry
from yoloquant.data.images import to_input
from yoloquant.errors import DataError, RecipeError
from yoloquant.graph.capture import capture
from yoloquant.progress import Silent
from yoloquant.quant.arithmetic import expand_parameter
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.quant.learned import LearnedScale, ObservedScale
from yoloquant.recipe.recipe import load_recipe
from yoloquant.targets.registry import get_target
from yoloquant.training.hyperparameters import Hyperparameters
from yoloquant.training.loader import TrainingLoader
from yoloquant.training.memory_format import memory_format
from yoloquant.training.quantized.guard import Guard
from yoloquant.training.quantized.objectives import DetectionTeacher, FeatureTeacher, block_outputs
from yoloquant.training.quantized.oscillation import Oscillations, damp
from yoloquant.training.quantized.relative_rates import RelativeSteps
from yoloquant.training.quantized.run import split, train_quantized
from yoloquant.training.quantized.step import Train
from yoloquant.training.quantized.trainable import begin_training, finish_training, remember_float, weight_quantizers
from yoloquant.training.quantized.trainer import QuantizedTraining

AS_THEY_ARE = Hyperparameters(
    hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0, mosaic=0, mixup=0, degrees=0, shear=0, flipud=0
)  # fmt: skip
FAST = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "val_images": 4}


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def few_bits(target="reference", bits=3, activation=nn.SiLU):
    """A small network with weights of few bits, calibrated, and its float twin."""

    def choose(_layer, tensor, spec):
        return spec.with_changes(bits=bits, observer="mse") if tensor == "weights" else spec

    network = SmallNetwork(activation)
    detector = quantized_detector(get_target(target), network, choose=choose if target == "reference" else None)
    calibrate(detector, [images(4)])
    return detector, capture(network, SIZE, 8)


def batches(count=16, seed=3):
    """A loader of noise; training images are square."""
    pixels = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return TrainingLoader([(image.numpy(), torch.zeros(0, 5).numpy()) for image in pixels], 64, 4, AS_THEY_ARE)


def judge_of(detector, reference):
    teacher, x = DetectionTeacher(detector, reference), to_input(images(4, seed=9))

    def judge():
        with torch.no_grad():
            return float(teacher(x, x))

    return judge


def training(detector, reference, loader=None, objective=None, **options):
    keep = {key: options.pop(key) for key in ("checkpoint", "note") if key in options}
    settings = Train(**{**FAST, **options})
    objective = objective or DetectionTeacher(detector, reference)
    return QuantizedTraining(detector, objective, judge_of(detector, reference), loader or batches(), settings, **keep)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": "dorefa", "activations": "pact"},
        {"weights": "observed", "activations": "observed", "scale_epochs": 1},
        {"activations": "lsq+", "train_weights": False, "scale_learning_rate": 0.02},
        {"optimizer": "sgd", "learning_rate": 0.001, "ema": 0.5, "damping": 0.01},
        {"relative": True, "learning_rate": 5e-3},
        {"amp": True},
        {"val_every": 2},
    ],
    ids=str,
)
def test_training_brings_the_network_nearer_to_float_and_leaves_constants(options):
    detector, reference = few_bits()
    result = training(detector, reference, **options).run()
    assert result.after < result.before
    assert result.faults == ()
    assert judge_of(detector, reference)() == pytest.approx(result.after, rel=1e-3)
    assert not any(parameter.requires_grad for parameter in detector.network.parameters())
    names = set(detector.network.state_dict())
    assert names == set(few_bits()[0].network.state_dict())


def test_power_of_two_scales_stay_powers_of_two_and_shared_ones_shared():
    detector, reference = few_bits("npu-pow2")
    result = training(detector, reference, scale_learning_rate=0.1, scale_epochs=2).run()
    assert result.after <= result.before
    for name, quantizer in detector.quantizers():
        exponent = quantizer.scale.log2()
        assert torch.equal(exponent, exponent.round()), name
    assert len({id(quantizer) for _, quantizer in detector.quantizers()}) == len(detector.placement.specs)


@pytest.mark.parametrize("harmful", [True, False])
def test_what_it_started_from_is_kept_where_training_harms_or_gains_too_little(harmful):
    detector, reference = few_bits()
    before = {name: value.clone() for name, value in detector.network.state_dict().items()}
    teacher = DetectionTeacher(detector, reference)

    def objective(x, targets):
        return -teacher(x, targets) if harmful else teacher(x, targets)

    settings = {"learning_rate": 1e-2} if harmful else {"min_gain": 0.99}
    result = training(detector, reference, objective=objective, **settings).run()
    assert result.after == result.before
    for name, value in detector.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_is_not_judged_is_neither_kept_nor_saved(tmp_path):
    detector, reference = few_bits()
    run = training(detector, reference, epochs=5, val_every=2, checkpoint=tmp_path / "state.safetensors")
    judged, saved = [], []
    judge, save = run.judge, run._save

    def counted():
        judged.append(run.epoch)
        return judge()

    def counted_save():
        saved.append(run.epoch)
        save()

    run.judge, run._save = counted, counted_save
    run.run()
    # Before the run, after the second and the fourth epoch, and after the last.
    assert judged == [0, 1, 3, 4]
    assert saved == [2, 4, 5]


def test_mixed_precision_gives_nearly_the_same_loss_in_float32():
    detector, reference = few_bits()
    x, nothing = to_input(images(4, seed=9)), torch.zeros(0, 6)
    for objective in (DetectionTeacher(detector, reference), FeatureTeacher(detector, reference)):
        exact = objective(x, nothing).detach()
        with torch.autocast("cpu", torch.bfloat16):
            mixed = objective(x, nothing).detach()
        assert mixed.dtype == torch.float32
        assert float(mixed) == pytest.approx(float(exact), rel=0.05)
        assert float(mixed) != float(exact)


def test_relative_steps_are_shares_of_each_channel():
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator) * torch.tensor([0.01, 1.0, 30.0, 0.0]).view(4, 1, 1, 1))
    bias = nn.Parameter(torch.tensor([2.0, -2.0, 2.0, 2.0]))
    before, sizes = weight.detach().clone(), RelativeSteps([weight, bias])
    optimizer = torch.optim.Adam([weight, bias], lr=0.01)
    (weight.sum() + bias.sum()).backward()
    with sizes.scaled():
        optimizer.step()
    # Adam's first step is as large as its rate, whatever the gradient.
    rms = before.square().mean((1, 2, 3)).sqrt()
    moved = (before - weight.detach()).mean((1, 2, 3))
    torch.testing.assert_close(moved[1:3], 0.01 * rms[1:3], rtol=1e-3, atol=0.0)
    torch.testing.assert_close(moved[[0, 3]], (0.01 * 0.05 * rms.mean()).expand(2), rtol=1e-3, atol=0.0)
    torch.testing.assert_close(bias.detach(), torch.tensor([1.998, -2.002, 1.998, 1.998]))


@pytest.mark.parametrize(
    "options",
    [{}, {"ema": 0.9, "weights": "observed", "activations": "observed"}, {"relative": True}, {"val_every": 2}],
    ids=str,
)
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, options):
    class Killed(Exception):
        pass

    def kill(done, total, detail):
        if done == 9:
            raise Killed

    answers = []
    for interrupted in (False, True):
        detector, reference = few_bits()
        file = tmp_path / f"{interrupted}.safetensors"
        if interrupted:
            with pytest.raises(Killed):
                training(detector, reference, checkpoint=file, **options).run(kill)
            detector, reference = few_bits()
        run = training(detector, reference, checkpoint=file, **options)
        seen = []
        run.run(lambda done, total, detail, seen=seen: seen.append(done))
        answers.append((detector.network.state_dict(), seen))
    assert answers[1][1] == [9, 10, 11, 12]
    for name, value in answers[0][0].items():
        assert torch.equal(value, answers[1][0][name]), name


def collapsing(kind, detector, reference, run):
    """An objective that goes wrong once, in the middle of the run, in one way."""
    teacher, calls = DetectionTeacher(detector, reference), []

    def objective(x, targets):
        calls.append(None)
        if len(calls) == 18 and kind != "nan":
            with torch.no_grad():
                if kind == "scale":
                    next(q.trained for n, q in detector.quantizers() if "output" in n).exponent.add_(5.0)
                else:
                    for parameter in run[0].parts.weights.values():
                        parameter.mul_(1.0 + 3.0 * torch.rand_like(parameter))
        return teacher(x, targets) * (math.nan if len(calls) == 18 and kind == "nan" else 1.0)

    return objective


@pytest.mark.parametrize(("kind", "told"), [("nan", "not finite"), ("scale", "ran away"), ("weights", "rose")])
def test_a_run_that_collapses_steps_back_and_ends_near_its_best(kind, told):
    detector, reference = few_bits()
    notes, runs = [], []
    objective = collapsing(kind, detector, reference, runs)
    runs.append(training(detector, reference, objective=objective, epochs=8, learning_rate=5e-4, note=notes.append))
    result = runs[0].run()
    assert any(told in note and "stepped back" in note for note in notes)
    clean, reference = few_bits()
    untouched = training(clean, reference, epochs=8, learning_rate=5e-4).run()
    assert result.after < 0.4 * result.before + 0.6 * untouched.after, (result, untouched)
    if kind == "scale":
        assert any("output_quantizer" in fault for fault in result.faults)


def test_power_of_two_observers_that_keep_moving_are_stopped():
    """One bright batch doubles scales under a ReLU network, epoch after epoch: the collapse that S3's users met."""

    class Brighter(TrainingLoader):
        def epoch(self, number):
            for index, (x, targets) in enumerate(super().epoch(number)):
                yield (x.float() * 400 if number >= 2 and index % 2 else x), targets

    def run(recoveries):
        torch.manual_seed(0)
        detector, reference = few_bits("npu-pow2", activation=nn.ReLU)
        loader = Brighter(batches().samples, 64, 4, AS_THEY_ARE)
        notes = []
        options = {"activations": "observed", "weights": "fixed", "epochs": 8, "learning_rate": 1e-4, "max_rollbacks": recoveries}
        one = training(detector, reference, loader, note=notes.append, **options)
        if not recoveries:
            one.guard.after_step = one.guard.after_judging = lambda *_: None
        errors = []
        judge = one.judge
        one.judge = lambda: errors.append(judge()) or errors[-1]
        result = one.run()
        return result, errors, notes

    unguarded, errors, _ = run(0)
    assert errors[-1] > 2 * unguarded.before
    guarded, errors, notes = run(6)
    assert errors[-1] < 1.3 * guarded.after
    assert any("scales that stay" in note for note in notes)


def test_the_guard_tells_spikes_from_noise():
    generator = torch.Generator().manual_seed(0)
    noise = (1.0 + 0.4 * torch.randn(300, generator=generator)).clamp(min=0.1).tolist()
    guard = Guard({})
    assert all(guard.after_step(loss) is None for loss in noise)
    faults = [guard.after_step(loss) for loss in [3.0] * 10]
    assert any(fault and "rose to" in fault.reason for fault in faults)
    assert guard.after_step(math.inf).reason == "the loss is not finite"
    assert guard.after_step(1.0, math.nan).reason == "the gradient is not finite"
    assert guard.after_judging(1.2, 1.0) is None
    assert "rose to 2.0 times" in guard.after_judging(2.0, 1.0).reason


def four_bit_weight(value):
    quantizer = FakeQuantize(get_target("reference").weights.with_changes(bits=4, granularity="tensor"), "w")
    quantizer.set_parameters(torch.tensor(1.0), torch.tensor(0))
    return quantizer, nn.Parameter(torch.tensor([[value]]))


def test_damping_pulls_weights_to_the_middle_of_their_step():
    quantizer, weight = four_bit_weight(2.4)
    damp({quantizer: weight}, 0.25)
    assert weight.item() == pytest.approx(2.3)
    quantizer, weight = four_bit_weight(12.3)  # Saturates at 7.
    damp({quantizer: weight}, 0.25)
    assert weight.item() == pytest.approx(12.3)


def test_a_weight_that_turns_back_every_step_is_fixed_where_it_mostly_was():
    quantizer, weight = four_bit_weight(1.0)
    watched = Oscillations({quantizer: weight})
    for step in range(40):
        with torch.no_grad():
            weight.fill_(2.6 if step % 4 == 1 else 2.4)
        watched.update()
    assert watched.fixed == 1
    with torch.no_grad():
        weight.fill_(2.6)
    watched.update()
    assert weight.item() == 2.0
    # A weight that moves one way is none.
    quantizer, weight = four_bit_weight(-7.0)
    watched = Oscillations({quantizer: weight})
    for _ in range(40):
        with torch.no_grad():
            weight += 0.3
        watched.update()
    assert watched.fixed == 0


def test_features_are_the_outputs_of_every_few_blocks_and_the_last_before_the_head():
    _, reference = few_bits()
    everything = block_outputs(reference, 1)
    assert block_outputs(reference, 2) == [*everything[::2], *([everything[-1]] if len(everything) % 2 == 0 else [])]


def test_features_of_the_float_network_are_learned_through_any_transform_of_weights():
    detector, reference = few_bits()
    teacher, x = FeatureTeacher(detector, reference), to_input(images(4))
    with torch.no_grad():
        before = float(teacher(x, x))
    run = training(detector, reference, objective=teacher, weights="dorefa")
    run.judge = lambda: float(teacher(x, x).detach())
    run.run()
    with torch.no_grad():
        assert float(teacher(x, x)) < 0.9 * before


def test_strided_convolutions_of_one_pixel_are_found_in_captured_networks():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 1))
    strided = nn.Sequential(nn.Conv2d(3, 4, 1, 2), nn.SiLU())
    for module, expected in ((network, torch.channels_last), (strided, torch.contiguous_format)):
        assert memory_format(module, torch.device("cpu")) is expected
        assert memory_format(capture(OneMap(module), SIZE, 8), torch.device("cpu")) is expected


class OneMap(nn.Module):
    """A network with one detection level."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return [self.layers(x)]


def photographs(folder, count, labels=False):
    folder.mkdir(parents=True)
    entries = []
    for index, image in enumerate(images(count)):
        path = folder / f"{index:02}.png"
        cv2.imwrite(str(path), image.permute(1, 2, 0).numpy())
        entries.append(ImageEntry(path, index))
    return entries


def test_images_of_any_folder_train_and_a_few_of_them_judge(tmp_path):
    entries = photographs(tmp_path / "images", 12)
    judging, rest = split(entries, 4)
    assert len(judging) == 4
    assert sorted([*judging, *rest], key=lambda entry: entry.image_id) == entries
    detector, reference = few_bits()
    tell = Notes()
    settings = Train(**{**FAST, "crop_size": 64, "augmentation": {"fliplr": 0.5}})
    result = train_quantized(detector, reference, settings, entries, tmp_path / "partial", tell)
    assert result.after < result.before
    assert any("images it did not see" in note for note in tell.told)
    assert list((tmp_path / "partial").glob("train-*.safetensors"))


def test_what_cannot_be_trained_is_told_first(tmp_path):
    entries = photographs(tmp_path / "images", 6)
    detector, reference = few_bits()
    with pytest.raises(DataError, match="needs label files"):
        train_quantized(detector, reference, Train(**FAST, teacher="labels"), entries, None, Silent())
    with pytest.raises(DataError, match="too few to train"):
        train_quantized(detector, reference, Train(), entries, None, Silent())
    with pytest.raises(RecipeError, match="flip"):
        train_quantized(detector, reference, Train(**FAST, augmentation={"flip": 0.5}), entries, None, Silent())
    with pytest.raises(RecipeError, match="nothing is trained"):
        load_recipe(
            "int8-mse", ["algorithms=[calibrate, {train: {train_weights: false, weights: fixed, activations: observed}}]"]
        )
    with pytest.raises(RecipeError, match="did you mean 'epochs'"):
        load_recipe("int8-mse", ["algorithms=[calibrate, {train: {epoch: 3}}]"])


def test_rates_may_change_with_the_epoch():
    settings = Train(learning_rate={0: 1e-6, 3: 1e-5, 8: 1e-6})
    assert [settings.rate_at(epoch) for epoch in (0, 2, 3, 7, 8, 20)] == [1e-6, 1e-6, 1e-5, 1e-5, 1e-6, 1e-6]
    with pytest.raises(ValueError, match="not epoch 0"):
        Train(learning_rate={1: 1e-5})


def test_rates_rise_to_what_was_asked_and_not_beyond():
    detector, reference = few_bits()
    for warm_up, first in ((0.0, 1.0), (0.01, 1.0), (0.5, 1 / 6)):
        run, seen = training(detector, reference, warm_up=warm_up, schedule="linear", lrf=1.0), []
        run.run(lambda done, total, detail, run=run, seen=seen: seen.append(run.optimizer.param_groups[0]["lr"] / 1e-3))
        assert seen[0] == pytest.approx(first)
        assert max(seen) == pytest.approx(1.0)


def test_begin_and_finish_change_nothing_that_is_answered():
    detector, reference = few_bits()
    x = to_input(images(2))
    with torch.no_grad():
        before = detector.network(x)
        for settings in (Train(), Train(weights="dorefa", activations="pact"), Train(weights="observed", activations="lsq+")):
            parts = begin_training(detector, settings)
            assert all(isinstance(one, (LearnedScale, ObservedScale)) for one in parts.trained.values())
            finish_training(detector, parts)
            for one, other in zip(detector.network(x), before, strict=True):
                # A value at a threshold may round the other way.
                assert float((one - other).abs().mean()) < 0.02 * float(other.abs().mean())
    teacher = DetectionTeacher(detector, reference)
    expected = [detector.head.candidates(list(network(x))) for network in (reference, detector.network)]
    torch.testing.assert_close(teacher(x, x), sum(detection_error(*expected)))


def test_rounded_weights_remember_where_they_came_from_and_round_to_the_same_integers():
    detector, reference = few_bits()
    with torch.no_grad():
        for quantizer, owner, name in weight_quantizers(detector):
            weight = getattr(owner, name)
            # As learned rounding leaves it: a quarter of the weights are not rounded to the nearest integer.
            steps = quantizer(weight) / expand_parameter(quantizer.scale, weight, quantizer.axis, quantizer.group_size)
            moved = (steps.round() + (torch.rand_like(steps) < 0.25)).clamp(-4, 3)
            weight.copy_(moved * expand_parameter(quantizer.scale, weight, quantizer.axis, quantizer.group_size))
        x = to_input(images(2))
        before = detector.network(x)
        rounded = {name: value.clone() for name, value in detector.network.named_parameters()}
        remember_float(detector, reference)
        for one, other in zip(detector.network(x), before, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        distances = [
            [float((values[name] - plain).abs().mean()) for values in (dict(detector.network.named_parameters()), rounded)]
            for name, plain in reference.named_parameters()
            if name.endswith("weight")
        ]
    assert all(near < far for near, far in distances)
