"""The flow behind `yoloquant finetune`: read it, train on, and write a folder like it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch.fx import GraphModule

from yoloquant.algorithms.job import Job
from yoloquant.algorithms.step import Stage
from yoloquant.checkpoint.open import file_of_model, to_detector
from yoloquant.checkpoint.safetensors_file import CUSTOM
from yoloquant.data.dataset import DetectionDataset, load_dataset
from yoloquant.data.sample import sample_images
from yoloquant.data.source import Source
from yoloquant.distributed import checked_device, process_group, process_number
from yoloquant.errors import CheckpointError, DataError, RecipeError
from yoloquant.evaluation.evaluator import check_classes
from yoloquant.exporting.folder import load_quantized
from yoloquant.files.outputs import refuse_inputs, reserved
from yoloquant.files.reading import reason_of
from yoloquant.flows.commands import commands_of_finetune
from yoloquant.flows.finish import FolderPlan, checked_output, checked_report, finish, partial_folder
from yoloquant.flows.options import MEASURE, REPORT, Measure, Report
from yoloquant.graph.capture import captured, copy_graph
from yoloquant.graph.channel_constants import is_scaled
from yoloquant.models.architecture import describe
from yoloquant.models.detector import Detector
from yoloquant.models.hyperparameters import Hyperparameters
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.images import CalibrationImages
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.recipe.recipe import Recipe, recipe_of
from yoloquant.results.quantization import Quantization
from yoloquant.training.hyperparameters import hyperparameters_for
from yoloquant.training.quantized.step import Train

# Hyperparameters of float training that do nothing here, and what does.
_OTHERWISE = {
    "lr0": "its learning rate is learning_rate",
    "momentum": "optimizer is adam or sgd",
    "weight_decay": "weights do not decay",
    "warmup_epochs": "the share of the run is warm_up",
    "warmup_iterations": "the share of the run is warm_up",
    "warmup_momentum": "the share of the run is warm_up",
    "warmup_bias_lr": "the share of the run is warm_up",
    "distill": "the teacher is set by teacher",
    "close_mosaic": "mosaic stays the same over the run",
    "iou_type": "it stays as the family has it",
}


def finetune(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    teacher: str | Path | Detector | Any | None = None,
    settings: Mapping[str, Any] | None = None,
    measure: Measure = MEASURE,
    report: Report | None = REPORT,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Quantization:
    """Go on training a quantized folder, and write what it becomes as another.

    Under `torchrun` the processes share training and evaluation, and the first one writes. An interrupted run goes on where it
    stopped, from `<output>.partial`.

    Args:
        model: A folder that `yoloquant quantize` or this function wrote.
        data: `data.yaml` or COCO JSON, a folder or a list of images; the train split trains, and the val split evaluates where it
            has labels.
        output: Folder to write; it must not exist, or be an earlier output.
        teacher: The float checkpoint (or detector) that the folder was made from; without it the training is on labels.
        settings: Settings of the recipe's step `train`, and hyperparameters of augmentation and losses, by name.
        measure: Measurements to take.
        report: Contents of the report; None for no report.
        device: Device that trains.
        reporter: Reporter of progress.

    Returns:
        The quantized detector and all figures; rows of the float model only with a teacher.

    Raises:
        YoloquantError: Something given cannot be used, the teacher is of another network, or the exported file is not right in
            the target's runtime.
    """
    tell, source, folder = reporter or Silent(), Path(model), checked_output(output)
    assert folder is not None
    refuse_inputs([folder], [model, data, file_of_model(teacher), report.analysis if report else None])
    analysis = checked_report(report)
    checked_device(device)
    given = None if teacher is None else to_detector(teacher)
    quantized = load_quantized(source, given if given and given.family == CUSTOM else None)
    assert quantized.detector is not None
    recipe = recipe_of(source)
    step = training_step(settings or {}, quantized, has_teacher=given is not None)
    detector = quantized.detector if given is None else replace(given, input_size=quantized.input_size)
    # On labels nothing is compared, and the folder's own network stands in for the float one.
    reference = copy_graph(quantized.network) if given is None else _reference(detector, quantized, recipe)
    training, validation = load_dataset(data, "train"), _validation(data, tell) if measure.evaluate else None
    for dataset, has_labels in ((training, step.teacher == "labels"), (validation, True)):
        if dataset is not None and has_labels:
            check_classes(quantized.names, dataset)
    entries = list(training.images) if step.images is None else sample_images(training.images, step.images)
    wanted = FolderPlan(
        folder=folder,
        recipe=recipe.model_copy(update={"algorithms": (*recipe.algorithms, step)}),
        source=Source(data),
        dataset=validation,
        measure=measure,
        report=report,
        analysis=analysis,
        commands=commands_of_finetune(model, data, output, teacher),
    )
    with reserved(folder), process_group(device) as own_device:
        job = Job(
            detector=detector,
            reference=reference,
            rules=recipe,
            images=CalibrationImages(tuple(entries), entries, recipe.calibration.seed),
            reporter=tell if process_number() == 0 else Silent(),
            device=own_device,
            partial=partial_folder(folder),
            has_float=given is not None,
            reference_matches=given is not None and not is_scaled(quantized.network),
        )
        job.quantized = quantized
        step.apply(job)
        job.fit_scales()
        job.clock.stop(step.name)
        return finish(job, wanted)


def training_step(values: Mapping[str, Any], quantized: QuantizedDetector, *, has_teacher: bool) -> Train:
    """The step `train` that settings make.

    Args:
        values: Settings of the step, and hyperparameters of augmentation and losses, by name.
        quantized: Quantized detector to train.
        has_teacher: Whether the float network is available.

    Raises:
        RecipeError: A name is unknown, a value is not allowed, or the teacher cannot teach what is asked.
    """
    usable = set(Hyperparameters.model_fields) - set(_OTHERWISE) - set(Train.model_fields)
    for name in set(values) - set(Train.model_fields) - usable:
        near = difflib.get_close_matches(name, [*Train.model_fields, *usable], 1, 0.4)
        hint = _OTHERWISE.get(name) or (f"did you mean {near[0]!r}?" if near else "see docs/qat.md for those that there are")
        raise RecipeError(f"quantized training has no setting {name!r}: {hint}")
    of_step = {name: value for name, value in values.items() if name in Train.model_fields}
    augmentation = of_step.pop("augmentation", {})
    if not isinstance(augmentation, Mapping):
        raise RecipeError("augmentation takes hyperparameters by name, as {fliplr: 0.5}; each can be set by itself, too")
    augmentation = {**augmentation, **{name: values[name] for name in values if name in usable}}
    hyperparameters_for(quantized.family, (), **augmentation)
    of_step.setdefault("teacher", _teaching(quantized, has_teacher=has_teacher))
    try:
        step = Train.model_validate({**of_step, "augmentation": augmentation})
    except ValidationError as error:
        first = error.errors()[0]
        # What follows the name in the location is pydantic's own word for a type.
        raise RecipeError(f"quantized training: {(*first['loc'], 'settings')[0]}: {reason_of(first)}") from error
    if step.teacher != "labels" and not has_teacher:
        raise RecipeError(f"teacher {step.teacher} needs the float network: name its checkpoint with --teacher")
    if step.teacher in ("features", "both") and is_scaled(quantized.network):
        raise RecipeError("step smooth scaled the folder's channels, so that features cannot be compared: set teacher=detections")
    if step.compares_boxes() and quantized.head.suppresses:
        raise RecipeError("the file's head suppresses boxes, so that they cannot be compared: set teacher=features")
    return step


def _teaching(quantized: QuantizedDetector, *, has_teacher: bool) -> str:
    """Default teacher."""
    if not has_teacher:
        return "labels"
    if is_scaled(quantized.network):
        return "detections"
    return "features" if quantized.head.suppresses else "both"


def _reference(teacher: Detector, quantized: QuantizedDetector, recipe: Recipe) -> GraphModule:
    """The float network, its channels scaled as the folder's were where weights alone decide that.

    Raises:
        CheckpointError: It is not the network that the folder was made from.
    """
    if teacher.names != quantized.names:
        raise CheckpointError(
            f"the teacher knows other classes than the folder ({len(teacher.names)} and {len(quantized.names)}): "
            "name the checkpoint that the folder was made from"
        )
    own = teacher.family == CUSTOM
    same_head = own or describe(teacher.head).to_dict() == describe(quantized.head).to_dict()
    network = captured(teacher)
    nodes = {node.name for node in quantized.network.graph.nodes}
    shapes = {name: parameter.shape for name, parameter in quantized.network.named_parameters()}
    fits = all(node.name in nodes for node in network.graph.nodes) and all(
        shapes.get(name) == parameter.shape for name, parameter in network.named_parameters()
    )
    if not (same_head and fits):
        raise CheckpointError(
            "the teacher is of another architecture than the folder: name the checkpoint that the folder was made from"
        )
    # Without images: steps that read some scaled channels as nobody knows here.
    job = Job(detector=teacher, reference=network, rules=recipe, images=CalibrationImages((), [], 0), reporter=Silent())
    for step in () if is_scaled(quantized.network) else recipe.algorithms:
        if step.stage is Stage.PREPARE and not step.reads_images:
            step.apply(job)
    return network


def _validation(data: str | Path, tell: Reporter) -> DetectionDataset | None:
    """The val split, if it has labels."""
    try:
        dataset = load_dataset(data, "val")
        _ = dataset.ground_truth
        for sentence in dataset.problem_sentences():
            tell.note(sentence)
    except DataError as error:
        tell.note(f"nothing will be evaluated: {error}")
        return None
    return dataset
