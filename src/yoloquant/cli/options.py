"""The application, and the arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yoloquant.cli.config import take_options
from yoloquant.cli.console import OUT, show_figures_alone
from yoloquant.cli.groups import GroupedCommand

if TYPE_CHECKING:
    from yoloquant.models.detector import Detector
    from yoloquant.models.preprocessing import Preprocessing

app = typer.Typer(
    name="yoloquant",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from yoloquant import __version__

        OUT.print(f"yoloquant {__version__}", markup=False, highlight=False)
        raise typer.Exit


@app.callback()
def _before_a_command(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with options, as `quantize: {target: openvino}`; what is typed wins.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Quantize YOLO detectors for integer runtimes, and see what it costs and where."""
    show_figures_alone(wanted=False)
    if config is not None:
        take_options(context, config)


def command(name: str | None = None, *, example: str, earlier: str | None = None) -> Callable[[Any], Any]:
    """Register a function as a command of the application.

    Args:
        name: Name of the command; the function's by default.
        example: A line that works, shown at the end of the help.
        earlier: A name that still works and is not shown.
    """

    def register(function: Any) -> Any:
        if earlier is not None:
            app.command(earlier, hidden=True, cls=GroupedCommand)(function)
        return app.command(name, epilog=f"Example: `{example}`", cls=GroupedCommand)(function)

    return register


Model = Annotated[
    Path, typer.Argument(help="Checkpoint (.pt, .safetensors), ONNX file, quantized folder, or what `yoloquant deliver` wrote.")
]
Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint (.pt or .safetensors) or float ONNX file.")]
Exportable = Annotated[Path, typer.Argument(help="Checkpoint (.pt or .safetensors), float ONNX file, or quantized folder.")]
Data = Annotated[Path, typer.Option(help="data.yaml or COCO JSON.")]
Calibration = Annotated[Path | None, typer.Option(help="Images to calibrate on instead of the train split.")]
Annotations = Annotated[Path | None, typer.Option(help="COCO JSON with the ground truth of the val split.")]
TargetName = Annotated[str | None, typer.Option(help="Deployment target; see `yoloquant targets`.")]


def _complete_setting(incomplete: str) -> list[str]:
    from yoloquant.recipe.overrides import complete

    return complete(incomplete)


Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a key of the recipe, as weights.bits=4; repeatable.", autocompletion=_complete_setting),
]
RuntimeName = Annotated[
    str | None, typer.Option(help="torch, onnxruntime, openvino or tensorrt; a runtime's own file names its runtime itself.")
]
# Beside their own names, options have those that users of ultralytics and YOLOv5 type.
Limit = Annotated[int | None, typer.Option(min=1, help="Maximum number of images to evaluate.")]
Confidence = Annotated[float, typer.Option("--confidence", "--conf", min=0.0, max=1.0, help="Minimum score of a box.")]
Iou = Annotated[float, typer.Option(min=0.0, max=1.0, help="Threshold of non-maximum suppression.")]
MaxDetections = Annotated[int, typer.Option("--max-detections", "--max-det", min=1, help="Boxes kept in an image.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "--batch", min=1, help="Images in a batch.")]
Nms = Annotated[bool, typer.Option("--nms", help="Put non-maximum suppression into the file.")]
NmsConfidence = Annotated[float, typer.Option(min=0.0, max=1.0, help="Minimum score that the file's suppression keeps.")]
NmsIou = Annotated[float, typer.Option(min=0.0, max=1.0, help="Threshold of the file's suppression.")]
NmsMost = Annotated[int, typer.Option(min=1, help="Maximum number of boxes in the file's output.")]
NmsAgnostic = Annotated[bool, typer.Option("--nms-agnostic", help="Boxes of different classes suppress each other in the file.")]
FormatName = Annotated[str, typer.Option("--format", help="Kind of file: onnx, openvino, tflite, ncnn, or one of a plug-in.")]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", help="Write the file that the target's runtime takes, too: openvino, tflite or ncnn; repeatable."),
]
Plots = Annotated[str | None, typer.Option(metavar="png|pdf", help="Write every chart as a file, too.")]
ImageSize = Annotated[int | None, typer.Option("--image-size", "--imgsz", min=32, help="Side of the network's input, pixels.")]
Json = Annotated[
    bool, typer.Option("--json", callback=show_figures_alone, help="Print the figures as JSON, and all else on standard error.")
]
Device = Annotated[
    str, typer.Option(help="auto (a GPU if there is one), cpu, cuda or cuda:1; torchrun gives each process its own.")
]
Branch = Annotated[
    str | None,
    typer.Option(
        metavar="one-to-one|one-to-many",
        help="Pair of branches to use, of YOLOv10 and YOLO26; one-to-many by default, as ultralytics 8.4 has it.",
    ),
]
Pixels = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="WORDS",
        help="How an ONNX file wants its images, as bgr,0..255,top-left; known of this project's files and of known exporters.",
    ),
]


def preprocessing(words: str | None) -> Preprocessing | None:
    """How an ONNX file wants its images, from the words of `--images`."""
    from yoloquant.models.preprocessing import parse_preprocessing

    return None if words is None else parse_preprocessing(words)


def opened(
    model: Path, *, pixels: str | None = None, branch: str | None = None, image_size: int | None = None
) -> Path | Detector:
    """A float model as options say how to open it; its path where none says more."""
    if pixels is None and branch is None and image_size is None:
        return model
    from yoloquant.checkpoint.open import to_detector

    return to_detector(model, preprocessing=preprocessing(pixels), branch=branch, input_size=image_size)
