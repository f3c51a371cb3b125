"""`yoloquant predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.ending import stays
from yoloquant.cli.options import (
    Branch,
    Confidence,
    ImageSize,
    Iou,
    MaxDetections,
    Model,
    Pixels,
    RuntimeName,
    command,
    preprocessing,
)
from yoloquant.cli.results import tell_next


@command(example="yoloquant predict out pictures/ --output predictions --compare yolov8n.pt")
def predict(
    model: Model,
    sources: Annotated[
        list[str],
        typer.Argument(
            help='Images, videos, folders, patterns ("frames/*.jpg"), lists (.txt), http(s) or rtsp addresses, camera numbers.'
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for pictures, videos and labels.")] = Path("predictions"),
    compare: Annotated[Path | None, typer.Option(help="A second model, drawn beside the first.")] = None,
    runtime: RuntimeName = None,
    confidence: Confidence = 0.25,
    iou: Iou = 0.45,
    max_detections: MaxDetections = 300,
    classes: Annotated[list[str] | None, typer.Option(help="Keep these classes, by name or number; repeatable.")] = None,
    draw: Annotated[bool, typer.Option(help="Write pictures and videos with boxes.")] = True,
    save_json: Annotated[Path | None, typer.Option(help="Write a JSON line for each picture or frame into this file.")] = None,
    save_txt: Annotated[bool, typer.Option("--save-txt", help="Write YOLO label files into `labels` in the output.")] = False,
    save_conf: Annotated[bool, typer.Option("--save-conf", help="Label rows end with the score.")] = False,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Frames of a video or a stream, at most.")] = None,
    image_size: ImageSize = None,
    pixels: Pixels = None,
    branch: Branch = None,
) -> None:
    """Detect objects in pictures, videos and streams; draw them, or write them down."""
    from yoloquant.evaluation.predict import PredictionSettings
    from yoloquant.evaluation.prediction_files import PredictionFiles
    from yoloquant.flows.predict import predict as run
    from yoloquant.runtime.open import load

    files = PredictionFiles(
        output=output, draw=draw, json=save_json, labels=save_txt, scores=save_conf, max_frames=max_frames
    )  # fmt: skip
    settings = PredictionSettings(confidence=confidence, iou=iou, max_detections=max_detections)
    stays(f"what is done stays in {output}")
    wanted = preprocessing(pixels)
    sized = model if image_size is None else load(model, preprocessing=wanted, branch=branch, input_size=image_size)
    for done in run(
        sized,
        sources,
        files,
        settings,
        compare=compare,
        runtime=runtime,
        classes=classes or (),
        preprocessing=wanted if image_size is None else None,
        branch=branch,
        reporter=RichReporter(),
    ):
        frames = f"{done.frames} frames, " if done.is_video else ""
        OUT.print(f"{done.name}: {frames}{done.objects} objects", markup=False)
    tell_next("evaluate", model, "--data", "data.yaml")
