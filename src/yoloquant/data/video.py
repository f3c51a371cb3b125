"""Videos, cameras and streams, frame by frame, by OpenCV and FFmpeg; one frame is in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from yoloquant.data.download import shown_address
from yoloquant.errors import DataError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
# Milliseconds that a stream may take to begin, and to send its next frame.
_PATIENCE = 10_000
# Frames for a second where a camera does not say.
_USUAL_RATE, _GREATEST_RATE = 25.0, 1000.0


@dataclass(frozen=True)
class Video:
    """An open video.

    Attributes:
        name: Name for messages.
        rate: Frames per second.
        count: Number of frames, as the file says; 0 if unknown.
        capture: OpenCV's own.
    """

    name: str
    rate: float
    count: int
    capture: cv2.VideoCapture

    def frames(self) -> Generator[np.ndarray, None, None]:
        """The frames, uint8 `(H, W, 3)`, RGB, until the video ends; it is closed then.

        Raises:
            DataError: There is not a single one.
        """
        number = 0
        try:
            while True:
                there, frame = self.capture.read()
                if not there:
                    break
                number += 1
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self.capture.release()
        if not number:
            raise DataError(f"{self.name} holds no frame that can be decoded: it is damaged or empty")


def open_video(place: Path | str | int) -> Video:
    """Open a file, the address of a stream, or a camera by its number.

    Raises:
        DataError: It cannot be opened.
    """
    _be_quiet()
    if isinstance(place, int):
        capture, name = cv2.VideoCapture(place), f"camera {place}"
        hint = "connect one, or give another number"
    elif isinstance(place, Path):
        capture, name = cv2.VideoCapture(str(place), cv2.CAP_FFMPEG), str(place)
        hint = "it is damaged, or of a format that FFmpeg does not read"
    else:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _PATIENCE]
        capture, name = cv2.VideoCapture(place, cv2.CAP_FFMPEG, limits), shown_address(place)
        hint = "check the address, and that the stream runs"
    if not capture.isOpened():
        raise DataError(f"{name} cannot be opened as a video: {hint}")
    rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    # Live streams and damaged headers give no rate, or one of billions, and negative counts.
    return Video(name, rate if 0.0 < rate <= _GREATEST_RATE else _USUAL_RATE, int(max(0.0, count)), capture)


def _be_quiet() -> None:
    """What cannot be opened is reported in one sentence, and not by OpenCV and FFmpeg, too."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
