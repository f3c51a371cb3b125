"""What a user names to detect objects in: pictures, folders, patterns, lists, addresses, videos and cameras."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np

from yoloquant.data.dataset import load_dataset
from yoloquant.data.download import download, is_picture, shown_address
from yoloquant.data.images import IMAGE_SUFFIXES, decode_image, read_image
from yoloquant.data.video import VIDEO_SUFFIXES, Video, open_video
from yoloquant.errors import DataError
from yoloquant.files.reading import exists, is_file, parsed, read_text

_STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "tcp", "udp")
_WEB = ("http", "https")
_OFFERS = 'images, videos, folders, patterns as "frames/*.jpg", lists, addresses or the number of a camera'
# Bytes of a list of images.
_LARGEST_LIST = 256 << 20


@dataclass(frozen=True)
class Source:
    """One picture, video or stream.

    Attributes:
        place: Path of a file, an address, or the number of a camera.
        kind: A "picture", a "video" that ends, or a "stream" that may not.
    """

    place: Path | str | int
    kind: Literal["picture", "video", "stream"]

    @property
    def file(self) -> Path | None:
        """The file that is read; none for addresses and cameras."""
        return self.place if isinstance(self.place, Path) else None

    @property
    def label(self) -> str:
        """How messages and files name it; addresses without passwords."""
        if isinstance(self.place, int):
            return f"camera-{self.place}"
        return shown_address(self.place) if isinstance(self.place, str) else str(self.place)

    @property
    def file_name(self) -> str:
        """A name that outputs of an address or a camera can have as a file, without suffix."""
        if not isinstance(self.place, str):
            return self.label
        name = Path(urlsplit(self.place).path).stem or urlsplit(self.place).hostname or "stream"
        return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:80]

    def video(self) -> Video:
        """The opened video or stream.

        Raises:
            DataError: It cannot be opened.
        """
        return open_video(self.place)

    def picture(self) -> np.ndarray:
        """The picture, uint8 `(H, W, 3)`, RGB.

        Raises:
            DataError: It cannot be read or decoded.
        """
        if isinstance(self.place, Path):
            return read_image(self.place)
        return decode_image(download(str(self.place)), self.label)


def find_sources(names: Sequence[str | Path], skipped: list[str] | None = None) -> list[Source]:
    """What the given names stand for, each once, in their order.

    Args:
        names: Images, videos, folders, patterns, lists of these (`.txt`), data sets, addresses, numbers of cameras.
        skipped: Gets a sentence for each line of a list that leads nowhere.

    Raises:
        DataError: One does not exist or holds nothing.
    """
    told: list[str] = []
    found = [source for name in names for source in _sources(str(name), told)]
    if skipped is not None:
        skipped += told
    if not found:
        raise DataError(told[0] if told else f"there is nothing to detect objects in: give {_OFFERS}")
    return list(dict.fromkeys(found))


def files_read(names: Sequence[str | Path], sources: Sequence[Source]) -> list[Path]:
    """The files that reading these sources reads, the lists among them."""
    lists = [path for path in map(Path, map(str, names)) if is_file(path)]
    return [*lists, *(source.file for source in sources if source.file is not None)]


def _sources(name: str, skipped: list[str]) -> Iterator[Source]:
    path = Path(name)
    if exists(path):
        yield from _of_path(path, skipped)
    elif name.isdecimal() and name.isascii() and len(name) < 4:
        yield Source(int(name), "stream")
    elif "://" in name:
        yield _of_address(name)
    elif any(sign in name for sign in "*?["):
        yield from _of_pattern(name)
    else:
        raise DataError(f"there is no picture {name}: give {_OFFERS}")


def _of_path(path: Path, skipped: list[str]) -> Iterator[Source]:
    if path.is_dir():
        with parsed(str(path), DataError):
            files = sorted(file for file in path.rglob("*") if _kind(file) and is_file(file))
        if not files:
            raise DataError(f"{path} holds no images and no videos: check its path")
        yield from map(_of_file, files)
    elif _kind(path) and is_file(path):
        yield _of_file(path)
    elif path.suffix == ".txt":
        yield from _of_list(path, skipped)
    else:
        yield from (Source(entry.path, "picture") for entry in load_dataset(path).images)


def _of_list(path: Path, skipped: list[str]) -> Iterator[Source]:
    """What the lines of a list name, files relative to it."""
    for line in filter(None, map(str.strip, read_text(path, DataError, _LARGEST_LIST).splitlines())):
        file = path.parent / line
        if "://" in line:
            yield _of_address(line)
        elif _kind(file) and is_file(file):
            yield _of_file(file)
        else:
            skipped.append(f"{line}, listed in {path}, is no image and no video that exists")


def _of_pattern(pattern: str) -> Iterator[Source]:
    # A folder that may not be read holds nothing for the pattern.
    files = sorted(file for file in map(Path, glob.glob(pattern, recursive=True)) if _kind(file) and is_file(file))  # noqa: PTH207
    if not files:
        raise DataError(f"no image and no video matches {pattern}: check the pattern")
    yield from map(_of_file, files)


def _of_address(address: str) -> Source:
    shown = shown_address(address)
    scheme = shown.partition(":")[0].lower()
    if scheme in _STREAMS:
        return Source(address, "stream")
    if scheme not in _WEB:
        raise DataError(f"{shown} cannot be read: give an address of {', '.join((*_WEB, *_STREAMS))}")
    suffix = Path(urlsplit(address).path).suffix.lower()
    if suffix in IMAGE_SUFFIXES or (suffix not in VIDEO_SUFFIXES and is_picture(address)):
        return Source(address, "picture")
    return Source(address, "stream")


def _kind(path: Path) -> Literal["picture", "video", ""]:
    suffix = path.suffix.lower()
    return "picture" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else ""


def _of_file(path: Path) -> Source:
    return Source(path.absolute(), "video" if _kind(path) == "video" else "picture")
