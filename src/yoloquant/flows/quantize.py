"""The whole flow behind `yoloquant quantize`: read, place, calibrate, learn; `finishing` has the rest."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yoloquant.checkpoint.open import to_detector
from yoloquant.data.dataset import DetectionDataset, load_dataset
from yoloquant.distributed import checked_device, process_group, process_number
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.evaluator import check_classes
from yoloquant.exporting.folder import LARGEST_METRICS, RECIPE
from yoloquant.exporting.nms import NmsOptions
from yoloquant.files.outputs import refuse_inputs, reserved
from yoloquant.files.reading import parse_json, read_text
from yoloquant.files.writing import named_path
from yoloquant.flows.deliver import Delivery, checked_output, deliver, partial_folder
from yoloquant.flows.deliver_as import check_formats
from yoloquant.flows.job import begin, follow, tell_branch
from yoloquant.models.detector import Detector, at_size
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.images import images_to_calibrate
from yoloquant.recipe.recipe import Recipe, file_of, replaced_target, resolve_recipe
from yoloquant.report.formats import check_format
from yoloquant.results.quantization import QuantizationResult
from yoloquant.targets.registry import get_target


def quantize(
    model: str | Path | Detector | Any,
    data: str | Path | None = None,
    *,
    target: str | None = None,
    recipe: str | Path | Recipe | None = None,
    overrides: tuple[str, ...] = (),
    output: str | Path | None = None,
    calibration: str | Path | None = None,
    annotations: str | Path | None = None,
    measure: bool = True,
    limit: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    branch: str | None = None,
    runtimes: tuple[str, ...] | None = None,
    device: str = "cpu",
    nms: NmsOptions | None = None,
    formats: Sequence[str] = (),
    report: bool = True,
    analysis: str | Path | None = None,
    plots: str | None = None,
    commands: tuple[str, ...] | None = None,
    reporter: Reporter | None = None,
) -> QuantizationResult:
    """Quantize a detector, export it, verify the file, and measure what it cost.

    Under `torchrun` the processes share training and evaluation, and the first one writes.

    Args:
        model: checkpoint or ONNX file, a `Detector`, or an object of an original repository (`ultralytics.YOLO("x.pt")`).
        data: `data.yaml` or COCO JSON; its train split calibrates, its val split evaluates.
        target: deployment target; the recipe's own by default.
        recipe: preset name, YAML file or `Recipe`; the preset `int8` by default.
        overrides: `key=value` changes to the recipe.
        output: folder to write; it must not exist, or be one that this function wrote. Nothing is written without.
        calibration: images to calibrate on instead of the train split: a list, a folder or a data set.
        annotations: COCO JSON with the val split's ground truth.
        measure: evaluate and time float and quantized models; needs labels.
        limit: evaluate only the first so many images.
        input_size: `(height, width)` or one side, pixels; the checkpoint's own by default.
        preprocessing: how an ONNX file wants its images; by default as its exporter is known for.
        branch: `one-to-one` or `one-to-many`, where a network holds both (YOLOv10, YOLO26); see `yoloquant.models.branches`.
        runtimes: that verify and measure the file beside torch; all installed ones by default.
        device: that the steps which learn run on: `cpu`, `cuda`, `cuda:1`.
        nms: puts suppression into the file after it was verified and measured without.
        formats: further files to write into the folder and to verify, by name: "openvino", see `yoloquant.exporting.formats`.
        report: write report.html and the figures of layers and tensors into the folder.
        analysis: folder of `yoloquant analyze`, whose ranking the report shows.
        plots: "png" or "pdf": every chart of the report as a file, too.
        commands: that the report names to repeat it; by default what these arguments are on the command line.
        reporter: told about progress.

    Returns:
        The quantized detector and all figures.

    Raises:
        YoloquantError: something given cannot be used, or the exported file is not right in the target's runtime.
    """
    tell = reporter or Silent()
    folder = checked_output(output)
    refuse_inputs([folder], [model, data, file_of(recipe), calibration, annotations, analysis])
    settings = resolve_recipe(recipe, overrides, target)
    written_for = replaced_target(recipe, target)
    if written_for is not None:
        tell.note(
            f"recipe {recipe} is written for {written_for}: {target} places quantizers by other rules, and figures will differ"
        )
    ranking = None if analysis is None else _read_analysis(Path(analysis))
    check_format(plots)
    get_target(settings.target)
    check_formats(formats, settings.target)
    checked_device(device)
    detector = to_detector(model, preprocessing, branch)
    tell_branch(detector, tell)
    if input_size is not None:
        detector = at_size(detector, (input_size, input_size) if isinstance(input_size, int) else input_size)
    images = images_to_calibrate(settings.calibration, data, calibration)
    dataset = load_dataset(data, "val", annotations=annotations) if data is not None and measure else None
    if dataset is not None:
        check_classes(detector.names, dataset)
        _check_labels(dataset)
    for sentence in (*images.problems, *(dataset.problem_sentences() if dataset else ())):
        tell.note(sentence)
    wanted = Delivery(
        folder=folder,
        dataset=dataset,
        measure=measure,
        limit=limit,
        runtimes=runtimes,
        nms=nms,
        formats=tuple(formats),
        report=report,
        plots=plots,
        commands=commands_to_repeat(
            model,
            settings,
            output,
            {"data": data, "calibration": calibration, "annotations": annotations},
            limit=limit,
            image_size=max(input_size) if isinstance(input_size, tuple) else input_size,
            images=preprocessing.words() if preprocessing else None,
            branch=branch,
        )
        if commands is None
        else commands,
        analysis=ranking,
    )
    with reserved(folder), process_group(device) as own_device:
        own_tell = tell if process_number() == 0 else Silent()
        partial = None if folder is None else partial_folder(folder)
        job = begin(detector, settings, images, own_tell, device=own_device, partial=partial)
        return deliver(follow(settings, job), settings, wanted)


def _check_labels(dataset: DetectionDataset) -> None:
    """Tell what is wrong with the labels before anything long begins."""
    try:
        _ = dataset.ground_truth
    except DataError as error:
        raise DataError(f"{error}; --no-evaluate quantizes without labels") from error


def commands_to_repeat(
    model: Any,
    recipe: Recipe,
    output: str | Path | None,
    sources: Mapping[str, str | Path | None],
    **options: Any,
) -> tuple[str, ...]:
    """What to type to do it again, to evaluate the folder, and to see what each layer costs; none for objects in memory.

    Args:
        model: Model file.
        recipe: Recipe that was followed.
        output: Folder that was written.
        sources: `data`, `calibration` and `annotations`, as options.
        options: Further options of the command `quantize`, `branch` and `limit` among them.
    """
    if not isinstance(model, str | Path) or output is None or sources["data"] is None:
        return ()

    def command(name: str, subject: str | Path, **options: Any) -> str:
        shown = {option: named_path(value) if isinstance(value, Path) else value for option, value in options.items()}
        given = [(f"--{option.replace('_', '-')}", str(value)) for option, value in shown.items() if value is not None]
        return shlex.join(["yoloquant", name, named_path(subject), *(word for pair in given for word in pair)])

    chosen = {"recipe": Path(output) / RECIPE, "output": f"{output}-again"}
    labelled = {name: sources[name] for name in ("data", "annotations")}
    return (
        command("quantize", model, **sources, **chosen, **options),
        command("evaluate", output, **labelled, limit=options.get("limit")),
        command("analyze", model, **sources, target=recipe.target, branch=options.get("branch")),
    )


def _read_analysis(folder: Path) -> dict[str, Any]:
    """What an analysis found; only its ranking is kept.

    Raises:
        YoloquantError: the folder holds none.
    """
    try:
        content = parse_json(read_text(folder / "analysis.json", largest=LARGEST_METRICS), "analysis.json")
        return {name: content[name] for name in ("measure", "mode", "sensitivities")}
    except (YoloquantError, KeyError, TypeError) as error:
        raise YoloquantError(f"{folder} has no readable analysis.json: name a folder that `yoloquant analyze` wrote") from error
