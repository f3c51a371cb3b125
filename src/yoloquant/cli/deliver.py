"""`yoloquant deliver`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import Branch, FormatName, Json, command
from yoloquant.cli.results import tell_figures, tell_next


@command(example="yoloquant deliver out --format openvino")
def deliver(
    folder: Annotated[Path, typer.Argument(help="Quantized folder.")],
    format_name: FormatName,
    output: Annotated[
        Path | None,
        typer.Option(help="File or folder to write; by default the folder's name with the format's ending, beside it."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Images to compare file and torch on: data.yaml, list or folder; drawn ones by default."),
    ] = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Write the file that a runtime takes, run it there, and compare it with torch."""
    from yoloquant.flows.deliver import deliver as run

    done = run(folder, format_name, output, images=images, branch=branch, reporter=RichReporter())
    for sentence in done.sentences():
        OUT.print(sentence, markup=False)
    tell_figures(done.to_dict(), as_json)
    tell_next("evaluate", done.path, "--data", "data.yaml")
