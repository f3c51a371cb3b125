"""The whole flow behind `yoloquant train`: read or build a detector, fit it to the data set's classes, train, keep the best."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from yoloquant.checkpoint.open import file_of_model
from yoloquant.checkpoint.read import DEFAULT_INPUT_SIZE, read_detector
from yoloquant.checkpoint.safetensors_file import save_detector
from yoloquant.data.dataset import DetectionDataset, load_dataset
from yoloquant.data.ground_truth import has_label_files
from yoloquant.distributed import process_group, process_number
from yoloquant.errors import CheckpointError, DataError, YoloquantError
from yoloquant.evaluation.evaluator import evaluate
from yoloquant.files.outputs import refuse_inputs, reserved
from yoloquant.files.reading import parse_json, read_text
from yoloquant.files.writing import checked_own_folder, named_path, replaced_whole, write_text
from yoloquant.models.activations import swap_activations
from yoloquant.models.change_classes import with_classes
from yoloquant.models.detector import Detector, at_size
from yoloquant.models.hyperparameters import Hyperparameters
from yoloquant.models.registry import ARCHITECTURES, build_detector
from yoloquant.progress import Reporter, Silent
from yoloquant.results.training import BEST, Training
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.training.augment import Sample
from yoloquant.training.float.distillation import Teacher
from yoloquant.training.float.log import LOG_NAME, EpochTable
from yoloquant.training.float.protocols import EpochResult, Score
from yoloquant.training.float.trainer import NOMINAL_BATCH, STATE_NAME, Trainer
from yoloquant.training.hyperparameters import hyperparameters_for
from yoloquant.training.loader import TrainingLoader, open_samples
from yoloquant.training.losses import loss_for

OPTIONS = "options.json"


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        epochs: Total number of epochs.
        batch_size: Number of images in a batch, of all processes together.
        nominal_batch: Images that make an optimizer step; smaller batches are added up.
        image_size: Side of the images, pixels; by default the detector's own.
        overrides: Hyperparameters as `name=value`.
        cosine: Whether the learning rate falls in a cosine instead of a line.
        patience: Number of epochs without a better mAP after which the run ends.
        evaluate_every: Number of epochs between evaluations.
        gradient_clip: Largest norm of the gradient.
        amp: Whether to train in mixed precision: fp16 on CUDA, bf16 on a CPU.
        activation: Activation that replaces all others first; see `swap_activations`.
        distill: Whether to distil from the initial detector.
        seed: Seed of weights, order and augmentation.
        device: "cpu" or "cuda".
        tensorboard: Whether TensorBoard's event files are written, too.
        workers: Number of threads that read and augment images.
    """

    epochs: int = 100
    batch_size: int = 16
    nominal_batch: int = NOMINAL_BATCH
    image_size: int | None = None
    overrides: tuple[str, ...] = ()
    cosine: bool = False
    patience: int | None = None
    evaluate_every: int = 1
    gradient_clip: float = 10.0
    amp: bool = False
    activation: str | None = None
    distill: bool = False
    seed: int = 0
    device: str = "cpu"
    tensorboard: bool = False
    workers: int = 2


def train(
    model: str | Path | Detector,
    data: str | Path,
    output: str | Path,
    options: TrainingOptions | None = None,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Training:
    """Train a float detector.

    Args:
        model: A checkpoint, or the name of an architecture to begin from random weights, see `ARCHITECTURES`; a detector in
            memory is changed.
        data: `data.yaml` with a train and a val split.
        output: Folder for `best.safetensors` (the best detector, which every command reads), `last.safetensors` (to resume
            from), `results.csv` and `options.json`.
        options: Training options; `TrainingOptions()` by default.
        resume: Whether the run in the folder is continued.
        reporter: Reporter of progress.

    Raises:
        YoloquantError: Something given cannot be used, or the loss stops being finite.
    """
    options = options or TrainingOptions()
    with process_group(options.device) as device:
        tell = reporter if reporter is not None and process_number() == 0 else Silent()
        folder = _checked_run(output, resume=resume)
        refuse_inputs([folder / name for name in (BEST, STATE_NAME, LOG_NAME, OPTIONS)], [file_of_model(model), data])
        return _train(model, data, folder, options, device, resume=resume, tell=tell)


def _train(
    model: str | Path | Detector,
    data: str | Path,
    output: Path,
    options: TrainingOptions,
    device: str,
    *,
    resume: bool,
    tell: Reporter,
) -> Training:
    training, validation = load_dataset(data, "train"), load_dataset(data, "val")
    names = _checked_names(data, training, validation)
    for sentence in validation.problem_sentences():
        tell.note(f"val split: {sentence}")
    torch.manual_seed(options.seed)
    given = starting_detector(model, names, options.image_size)
    parameters = hyperparameters_for(given.family, options.overrides)
    teacher = _teacher(given, names, device, parameters) if options.distill else None
    detector = with_classes(given, names)
    if options.activation is not None:
        swapped = swap_activations(detector.network, options.activation)
        tell.note(f"{swapped} activations became {options.activation}")
    detector.network.requires_grad_(requires_grad=True)
    side = max(detector.input_size)
    loss = loss_for(detector, parameters, side, options.epochs)
    samples = _read_samples(training, side, tell)
    trainer = Trainer(
        detector.network,
        loss,
        TrainingLoader(samples, side, options.batch_size, parameters, options.seed, options.workers, options.epochs),
        options.epochs,
        parameters,
        evaluate=lambda network: _score(detector, network, validation, device),
        evaluate_every=options.evaluate_every,
        patience=options.patience,
        cosine=options.cosine,
        gradient_clip=options.gradient_clip,
        device=device,
        amp=options.amp,
        folder=output,
        tensorboard=options.tensorboard,
        nominal_batch=options.nominal_batch,
        teacher=teacher,
    )
    # All that is read or written of the run, since another one may be in the folder.
    with reserved(output), tell.step(f"Train {options.epochs} epochs") as update:
        if resume:
            trainer.resume()
            tell.note(f"going on with epoch {trainer.epoch} of {options.epochs}")
        elif process_number() == 0:
            write_text(output / OPTIONS, _described(model, data, options, parameters))
        table = EpochTable(tell, options.epochs)
        trainer.run(update, lambda result: _epoch_done(trainer, detector, result, output, table))
        return _finish(trainer, detector, output)


def starting_detector(model: str | Path | Detector, names: Sequence[str], image_size: int | None) -> Detector:
    """What training begins with: a detector that is given, a checkpoint's, or random weights.

    Args:
        model: Model as in `train`.
        names: Classes of random weights.
        image_size: Side of the images, pixels; by default the detector's own.

    Raises:
        CheckpointError: There is neither a file nor an architecture of this name, or the file cannot be read.
        YoloquantError: The image size does not fit the strides.
    """
    if isinstance(model, Detector):
        detector = model
    elif str(model) in ARCHITECTURES and not Path(model).is_file():
        detector = build_detector(str(model), names, image_size or DEFAULT_INPUT_SIZE)
    elif Path(model).is_file():
        detector = read_detector(model)
    elif Path(model).is_dir():
        raise CheckpointError(f"{model} is a folder: quantized ones are trained by yoloquant.finetune")
    else:
        raise CheckpointError(f"there is no file {model} and no architecture of this name: {', '.join(ARCHITECTURES)}")
    side = image_size or max(detector.input_size)
    return at_size(detector, (side, side))


def _checked_names(data: str | Path, training: DetectionDataset, validation: DetectionDataset) -> tuple[str, ...]:
    """The classes of a data set that can be trained on; what is missing is reported before anything long begins."""
    names = training.names or validation.names
    if not names:
        raise DataError(f"{data} does not name its classes: training needs a data.yaml with `names`")
    if not has_label_files(training.images, len(names)):
        raise DataError(f"the train split of {data} has no labels: training needs a YOLO label file for each image with objects")
    _ = validation.ground_truth
    return names


def _checked_run(output: str | Path, *, resume: bool) -> Path:
    """The folder of the run, which is new, or that of an earlier one."""
    folder = checked_own_folder(output, OPTIONS, "one that a training began in")
    if (folder / OPTIONS).is_file() and not _is_ours(folder / OPTIONS):
        raise CheckpointError(f"{folder / OPTIONS} is of another program: name a new folder")
    found = (folder / STATE_NAME).is_file()
    if resume and not found:
        raise CheckpointError(f"there is no run to resume in {folder}: it has no {STATE_NAME}")
    if found and not resume:
        raise CheckpointError(f"{folder} holds a run already: add --resume to go on with it, or name another folder")
    return folder


def _is_ours(path: Path) -> bool:
    """Whether a file holds a run's options, as `_described` writes them."""
    try:
        return "hyperparameters" in parse_json(read_text(path), str(path))
    except (YoloquantError, TypeError):
        return False


def _teacher(given: Detector, names: Sequence[str], device: str, parameters: Hyperparameters) -> Teacher:
    """The detector as it was given."""
    if tuple(names) != given.names:
        raise DataError("a detector can only teach the classes it knows: leave --distill out, or use a data set of its classes")
    return Teacher(replace(given, network=copy.deepcopy(given.network)), device, parameters.distill)


def _read_samples(training: DetectionDataset, side: int, tell: Reporter) -> Sequence[Sample]:
    with tell.step(f"Read {len(training.images)} images") as update:
        samples = open_samples(training, side)
        update(1, 1)
    for sentence in training.problem_sentences():
        tell.note(sentence)
    return samples


def _score(detector: Detector, network: nn.Module, validation: DetectionDataset, device: str) -> Score:
    """Figures on the val split, as YOLO's users know them."""
    evaluation = evaluate(TorchRunner(replace(detector, network=network), device), validation)
    found = evaluation.classification
    figures = {
        "P": found.precision,
        "R": found.recall,
        "mAP50": evaluation.map50,
        "mAP50-95": evaluation.map50_95,
    }
    return Score(evaluation.map50_95, figures)


def _epoch_done(trainer: Trainer, detector: Detector, result: EpochResult, output: Path, table: EpochTable) -> None:
    table.tell(result)
    if trainer.best_epoch == result.epoch and process_number() == 0:
        _write(_best(trainer, detector), output / BEST)


def _best(trainer: Trainer, detector: Detector) -> Detector:
    """The detector of the best epoch, on the CPU."""
    assert trainer.best is not None
    network = copy.deepcopy(trainer.average.network)
    network.load_state_dict(trainer.best)
    facts = {"epoch": trainer.best_epoch, "mAP50-95": round(trainer.best_score, 4)}
    return replace(detector, network=network.cpu().eval(), source={**detector.source, **facts})


def _write(detector: Detector, path: Path) -> None:
    """Write a detector; an interruption leaves the file that was there before."""
    with replaced_whole(path) as partial:
        save_detector(detector, partial)


def _finish(trainer: Trainer, detector: Detector, output: Path) -> Training:
    best = _best(trainer, detector)
    path = output / BEST if process_number() == 0 else None
    if path is not None:
        # Once more: an interruption may have come between a best epoch and its file.
        _write(best, path)
    return Training(detector=best, map50_95=trainer.best_score, epoch=trainer.best_epoch, epochs=trainer.epoch, path=path)


def _described(model: str | Path | Detector, data: str | Path, options: TrainingOptions, parameters: Hyperparameters) -> str:
    """The run's options as JSON."""
    name = model.family if isinstance(model, Detector) else named_path(model)
    values = {"model": name, "data": named_path(data), **asdict(options), "hyperparameters": parameters.model_dump()}
    return json.dumps(values, indent=2)
