"""From a recipe's step `train` to a trained detector: images, objective, validation, and the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from yoloquant.algorithms.reconstruction.checkpoints import state_key
from yoloquant.analysis.detection_error import detection_sums
from yoloquant.data.contents import contents_of
from yoloquant.data.dataset import DetectionDataset, ImageEntry
from yoloquant.data.ground_truth import has_label_files
from yoloquant.data.images import to_input
from yoloquant.distributed import device_of, on_device, process_count, sum_over_processes, take_from_first
from yoloquant.errors import DataError
from yoloquant.models.hyperparameters import Hyperparameters
from yoloquant.progress import Reporter
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.training.augment import Sample
from yoloquant.training.hyperparameters import hyperparameters_for
from yoloquant.training.loader import TrainingLoader, open_samples
from yoloquant.training.losses import loss_for
from yoloquant.training.quantized.objectives import BothTeachers, DetectionTeacher, FeatureTeacher, LabelObjective, Objective

if TYPE_CHECKING:
    from yoloquant.training.quantized.step import Train
from yoloquant.training.quantized.trainable import remember_float
from yoloquant.training.quantized.trainer import QuantizedTraining, TrainResult

# Images that judge are compared in batches, since an image without objects alone has no error worth the name.
_JUDGE_BATCH = 8

# Augmentation changes nothing.
_AS_THEY_ARE = dict.fromkeys(
    ("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "flipud", "fliplr", "mosaic", "mixup"), 0.0
)


def train_quantized(
    quantized: QuantizedDetector,
    reference: GraphModule,
    settings: Train,
    entries: Sequence[ImageEntry],
    partial: Path | None,
    tell: Reporter,
    device: str = "cpu",
    *,
    remember: bool = True,
) -> TrainResult:
    """Train a calibrated detector on images, in place; several processes share each batch, and begin with what the first holds.

    Args:
        quantized: Calibrated detector.
        reference: The float network, captured.
        settings: Settings of the recipe.
        entries: Images; a few of them validate and do not train.
        partial: Folder for the state of an interrupted run, which goes on there.
        tell: Reporter of progress and of what the guard finds.
        device: Device that trains.
        remember: Whether weights that were rounded begin at their float values, see `remember_float`; not where channels are
            scaled otherwise in the reference.

    Raises:
        DataError: Too few images can be read, or the recipe trains on labels and there are none.
        RecipeError: The augmentation names no hyperparameter, or its value is not allowed.
        YoloquantError: The recipe trains on labels, and the family has no loss here.
    """
    if settings.teacher == "labels" and not has_label_files(entries, len(quantized.names)):
        raise DataError("training on labels needs label files beside the training images: add them, or train with a teacher")
    judging, learning = split(entries, settings.val_images)
    side = max(quantized.input_size)
    with tell.step(f"Read {len(learning)} images to train on") as update:
        samples = _samples(quantized, settings, learning, side, tell)
        update(1, 2)
        judges = _samples(quantized, settings, judging, side, tell)
        update(2, 2)
    parameters = hyperparameters_for(quantized.family, (), **{**_AS_THEY_ARE, **settings.augmentation})
    loader = TrainingLoader(samples, settings.crop_size or side, settings.batch_size, parameters, settings.seed)
    with (
        on_device(device, quantized.network, quantized.head, reference),
        tell.step(f"Train {settings.epochs} epochs") as update,
    ):
        # Each process has done the steps before for itself; the last bits may differ between GPUs.
        take_from_first(quantized.network.state_dict().values())
        checkpoint = None
        if partial is not None:
            key = state_key(quantized, settings, contents_of(entries))
            checkpoint = partial / f"train-{key[:16]}.safetensors"
        objective = _objective(quantized, reference, settings, parameters)
        judge = _judge(quantized, reference, objective, judges, side)
        if remember:
            remember_float(quantized, reference)
        training = QuantizedTraining(quantized, objective, judge, loader, settings, checkpoint=checkpoint, note=tell.note)
        result = training.run(update)
    if result.after < result.before:
        tell.note(f"training left {result.after / result.before:.0%} of the error of {len(judges)} images it did not see")
    else:
        gain = f"{settings.min_gain:.0%} less error of {len(judges)} images it did not see"
        tell.note(f"training did not reach {gain}: the network stays as it was before")
    return result


def split(entries: Sequence[ImageEntry], judging: int) -> tuple[list[ImageEntry], list[ImageEntry]]:
    """Validation images, spread over all of them, and the others, for training.

    Raises:
        DataError: Fewer than two images are left to train on.
    """
    if len(entries) - judging < 2:
        raise DataError(
            f"{len(entries)} calibration images are too few to train on while {judging} of them validate: give more of them"
        )
    chosen = {round((index + 0.5) * len(entries) / judging - 0.5) for index in range(judging)}
    return [entries[index] for index in sorted(chosen)], [entry for index, entry in enumerate(entries) if index not in chosen]


def _samples(
    quantized: QuantizedDetector, settings: Train, entries: Sequence[ImageEntry], side: int, tell: Reporter
) -> Sequence[Sample]:
    dataset = DetectionDataset(quantized.names, tuple(entries))
    samples = open_samples(dataset, side)
    if settings.teacher != "labels":
        dataset.problems.pop("image without labels", None)
    for sentence in dataset.problem_sentences():
        tell.note(sentence)
    return samples


def _objective(quantized: QuantizedDetector, reference: GraphModule, settings: Train, parameters: Hyperparameters) -> Objective:
    if settings.teacher == "features":
        return FeatureTeacher(quantized, reference, settings.block_stride)
    if settings.teacher == "both":
        return BothTeachers(quantized, reference, settings.block_stride, settings.detection_weight)
    if settings.teacher == "detections":
        return DetectionTeacher(quantized, reference)
    side = settings.crop_size or max(quantized.input_size)
    loss = loss_for(quantized, parameters, side)
    if isinstance(loss, nn.Module):
        loss.to(device_of(quantized.network))
    return LabelObjective(quantized, loss)


def _judge(
    quantized: QuantizedDetector, reference: GraphModule, objective: Objective, samples: Sequence[Sample], side: int
) -> Callable[[], float]:
    """Error of boxes and scores; the objective's own loss where it needs labels, or where a head's boxes cannot be compared."""
    by_objective = quantized.head.suppresses or isinstance(objective, LabelObjective)
    batch = min(max(_JUDGE_BATCH, process_count()), len(samples))
    loader = TrainingLoader(samples, side, batch, Hyperparameters.model_validate(_AS_THEY_ARE))
    device, head = device_of(quantized.network), quantized.head

    def sums(images: Tensor, targets: Tensor) -> Tensor:
        """Of this process's share of a batch: errors, and what the sum of all is to be divided by."""
        if by_objective:
            return torch.stack([objective(images, targets), torch.full((), 1.0 / process_count(), device=device)])
        found = head.candidates(list(quantized.network(images)))
        boxes, scores, weight = detection_sums(head.candidates(list(reference(images))), found)
        return torch.stack([boxes + scores, weight])

    def judge() -> float:
        with torch.no_grad():
            found = [sums(to_input(images, device), targets.to(device)) for images, targets in loader.epoch(0)]
        error, weight = sum_over_processes(torch.stack(found).sum(0)).tolist()
        mean: float = error / weight
        return mean

    return judge
