"""`yoloquant sample-calibration`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT
from yoloquant.cli.options import Data, command
from yoloquant.cli.results import tell_next


@command("sample-calibration", example="yoloquant sample-calibration --data data.yaml --count 256")
def sample_calibration(
    data: Data,
    output: Annotated[Path, typer.Option(help="List file to write.")] = Path("calibration.txt"),
    count: Annotated[int, typer.Option(min=1, help="Images to draw.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 42,
) -> None:
    """Draw calibration images from the train split and write their list."""
    from yoloquant.data.images import read_image
    from yoloquant.data.sample import readable_sample, source_images, write_image_list
    from yoloquant.files.outputs import refuse_images, refuse_inputs
    from yoloquant.files.writing import checked_file

    checked_file(output)
    refuse_inputs([output], [data])
    source = source_images(data)
    refuse_inputs([output], source.files)
    refuse_images([output], source.images)
    entries, skipped = readable_sample(source.images, count, seed, read_image)
    write_image_list(entries, output)
    for sentence in (*source.problem_sentences(), *(f"skipped: {image}" for image in skipped)):
        OUT.print(sentence, markup=False)
    OUT.print(f"{len(entries)} images written to {output}", markup=False)
    tell_next("quantize", "model.pt", "--data", data, "--calibration", output)
