"""What `yoloquant predict` writes: pictures and videos with boxes, JSON lines, and YOLO's label files."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import IO

import numpy as np

from yoloquant.data.dataset import ImageEntry
from yoloquant.data.labels import label_path
from yoloquant.data.sources import Source
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.drawing import draw_detections, side_by_side
from yoloquant.evaluation.pictures import check_drawn, picture_names, save_picture
from yoloquant.evaluation.postprocess import Detections
from yoloquant.evaluation.predict import PredictionSettings, detect, predict
from yoloquant.evaluation.prediction_formats import film, json_line, label_rows
from yoloquant.files.outputs import refuse_images, refuse_inputs
from yoloquant.files.writing import checked_file, replaced_whole, write_text
from yoloquant.progress import Reporter, Silent
from yoloquant.runtime.runner import Runner

LABELS = "labels"
# Share of a video's frames, as its header counts them, from which it is whole: headers are not exact.
_WHOLE = 0.95


@dataclass(frozen=True, kw_only=True)
class PredictionFiles:
    """What to write.

    Attributes:
        output: Folder for pictures, videos and labels.
        draw: Write each picture and video with its boxes.
        json: File for JSON lines, one for each picture or frame.
        labels: Write a label file for each picture or frame into `labels` in the folder.
        scores: Label rows end with the score.
        max_frames: Frames of each video and stream, at most.
    """

    output: Path
    draw: bool = True
    json: Path | None = None
    labels: bool = False
    scores: bool = False
    max_frames: int | None = None


@dataclass(frozen=True)
class Drawn:
    """One source that is done.

    Attributes:
        name: Name of what was read, or of the picture or video that was written.
        frames: 1 for a picture.
        objects: Number of objects in all frames.
        is_video: Whether the source was a video or a stream.
        detections: In a picture; none of a video, whose frames the file of JSON lines has.
    """

    name: str
    frames: int
    objects: int
    is_video: bool
    detections: Detections | None = None


def output_names(sources: Sequence[Source]) -> dict[Source, Path]:
    """The name of what is drawn of each source, relative to the output: `.jpg` of a picture, `.mp4` of all else."""
    files = [source for source in sources if source.file is not None]
    suffix = {source: ".jpg" if source.kind == "picture" else ".mp4" for source in sources}
    by_path = picture_names([source.file for source in files if source.file], [suffix[source] for source in files])
    names = {source: by_path[source.file] for source in files if source.file}
    taken = set(names.values())
    for source in sources:
        if source.file is None:
            tries = (f"{source.file_name}{f'-{number}' if number else ''}{suffix[source]}" for number in range(len(sources) + 1))
            names[source] = next(path for path in map(Path, tries) if path not in taken)
            taken.add(names[source])
    return names


def check_predictions(
    sources: Sequence[Source], files: PredictionFiles, models: Sequence[Path | None] = (), lists: Sequence[Path] = ()
) -> dict[Source, Path]:
    """The names of what will be drawn, see `output_names`.

    Args:
        sources: What is read.
        files: What will be written.
        models: Files and folders of models that are read, too.
        lists: Lists of images that are read, too.

    Raises:
        YoloquantError: The output cannot be written, or would replace or stand among what is read, or replaces labels of images.
    """
    names = output_names(sources)
    entries = [ImageEntry(source.file, 0) for source in sources if source.file is not None]
    drawn = [files.output / name for name in names.values()] if files.draw else []
    labels = [_label_file(files, name) for name in names.values()] if files.labels else []
    if drawn or labels:
        check_drawn(entries, [*drawn, *labels], files.output, [*models, *lists])
    own = {os.path.realpath(label_path(entry.path)): entry.path for entry in entries} if labels else {}
    for path in labels:
        if path.exists() and (image := own.get(os.path.realpath(path))):
            raise YoloquantError(f"the labels in {path.parent} would replace those of {image}: name another output")
    if files.json is not None:
        checked_file(files.json)
        refuse_inputs([files.json], [*models, *lists])
        refuse_images([files.json], entries)
    return names


def _label_file(files: PredictionFiles, name: Path, frame: int | None = None) -> Path:
    own = files.output / LABELS / name.with_suffix(".txt")
    return own if frame is None else own.with_name(f"{own.stem}_{frame}.txt")


def predict_to_files(
    runner: Runner,
    sources: Sequence[Source],
    files: PredictionFiles,
    settings: PredictionSettings | None = None,
    *,
    compare: Runner | None = None,
    titles: tuple[str, str] = ("model", "compared with"),
    skipped: list[str] | None = None,
    reporter: Reporter | None = None,
) -> Iterator[Drawn]:
    """Detect objects in every source and write what is asked for; beside those of a second model where `compare` is given.

    An interruption while a stream is read ends it: what was written until then is kept whole, and the interruption goes on.

    Args:
        runner: Runner of the model.
        sources: What to read.
        files: What to write.
        settings: Thresholds and classes.
        compare: A second model, drawn on the right of the first.
        titles: Titles of both models.
        skipped: Gets a sentence for each picture that cannot be decoded, which is left out.
        reporter: Receives the progress of each video.

    Yields:
        Each source that is done.

    Raises:
        YoloquantError: Nothing can be decoded, a video is damaged, or the output cannot be written.
    """
    work = _Work(
        runner, files, settings or PredictionSettings(), compare, titles, output_names(sources), reporter or Silent()
    )  # fmt: skip
    with ExitStack() as stack:
        if files.json is not None:
            partial = stack.enter_context(replaced_whole(files.json))
            work.lines = stack.enter_context(partial.open("w", encoding="utf-8"))
        for are_pictures, group in groupby(sources, lambda source: source.kind == "picture"):
            own = list(group)
            yield from work.pictures(own) if are_pictures else work.videos(own)
            if work.stopped is not None:
                break
        if work.unreadable == len(sources):
            raise DataError(work.notes[0])
    if work.stopped is not None:
        raise work.stopped
    if skipped is not None:
        skipped += work.notes


class _Work:
    """Detects in sources and writes what is found.

    Attributes:
        lines: The open file of JSON lines.
        notes: Sentences about what could not be read; unreadable: sources that gave nothing.
        stopped: The interruption that ended a stream.
    """

    def __init__(
        self,
        runner: Runner,
        files: PredictionFiles,
        settings: PredictionSettings,
        compare: Runner | None,
        titles: tuple[str, str],
        names: Mapping[Source, Path],
        reporter: Reporter,
    ) -> None:
        self.lines: IO[str] | None = None
        self.notes: list[str] = []
        self.unreadable = 0
        self.stopped: BaseException | None = None
        self._runner, self._files, self._settings = runner, files, settings
        self._compare, self._titles, self._names, self._reporter = compare, titles, names, reporter

    def pictures(self, sources: Sequence[Source]) -> Iterator[Drawn]:
        """Pictures, one after the other."""
        # Sources whose pictures wait for the network.
        readable: deque[Source] = deque()

        def images() -> Iterator[np.ndarray]:
            for source in sources:
                try:
                    image = source.picture()
                except DataError as error:
                    self._leave_out(error)
                    continue
                readable.append(source)
                yield image

        for image, found in predict(self._runner, images(), self._settings):
            source = readable.popleft()
            self._write_down(source, image, found, None)
            if self._files.draw:
                save_picture(self._files.output / self._names[source], self._drawn(image, found))
            yield Drawn(self._shown(source), 1, len(found), is_video=False, detections=found)

    def videos(self, sources: Sequence[Source]) -> Iterator[Drawn]:
        """Videos and streams, one after the other."""
        for source in sources:
            try:
                yield self._video(source)
            except DataError as error:
                self._leave_out(error)
            if self.stopped is not None:
                return

    def _video(self, source: Source) -> Drawn:
        video = source.video()
        limit, number, objects = self._files.max_frames, 0, 0
        total = min(video.count or limit or 0, limit or video.count)
        with self._reporter.step(f"Detect in {self._names[source].name}") as update, ExitStack() as stack:
            add = stack.enter_context(film(self._files.output / self._names[source], video.rate)) if self._files.draw else None
            frames = stack.enter_context(closing(video.frames()))
            try:
                for image, found in predict(self._runner, islice(frames, limit), self._settings):
                    self._write_down(source, image, found, number)
                    if add is not None:
                        add(self._drawn(image, found))
                    number, objects = number + 1, objects + len(found)
                    update(number, max(total, number))
            except BaseException as error:
                # A stream has no end of its own: whoever ends it wants what there is.
                if source.kind != "stream" or isinstance(error, Exception | GeneratorExit) or not number:
                    raise
                self.stopped = error
        if source.kind == "video" and number < _WHOLE * total:
            self.notes.append(f"{source.label}: only {number} of its {total} frames can be decoded: it is damaged")
        return Drawn(self._shown(source), number, objects, is_video=True)

    def _leave_out(self, error: DataError) -> None:
        self.notes.append(str(error))
        self.unreadable += 1

    def _shown(self, source: Source) -> str:
        """What the line about a source names: the file that was drawn, or what was read."""
        return str(self._files.output / self._names[source]) if self._files.draw else source.label

    def _drawn(self, image: np.ndarray, found: Detections) -> np.ndarray:
        picture = draw_detections(image, found, self._runner.names)
        if self._compare is None:
            return picture
        (other,) = detect(self._compare, [image], self._settings)
        second = draw_detections(image, other, self._compare.names)
        return side_by_side([(self._titles[0], picture), (self._titles[1], second)])

    def _write_down(self, source: Source, image: np.ndarray, found: Detections, frame: int | None) -> None:
        """The JSON line and the label file of a picture or a frame."""
        if self.lines is not None:
            name = source.label if source.file is None else self._names[source].with_name(source.file.name).as_posix()
            line = json_line(name, image.shape[:2], found, self._runner.names, frame)
            self.lines.write(f"{json.dumps(line)}\n")
        if self._files.labels:
            path = _label_file(self._files, self._names[source], frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, label_rows(image.shape[:2], found, scores=self._files.scores))
