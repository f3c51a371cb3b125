"""Outputs of long commands: apart from the inputs, of one run at a time, and replaced so that a whole one is there all the time.

Everything that is only there while a command runs stands beside its output and begins with `.yoloquant-`. A run that was killed
leaves it, and the next run into the same output removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from yoloquant.environment import is_first_process
from yoloquant.errors import YoloquantError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows has no such locks: two runs into one output are not told from one there.
    fcntl = None

PREFIX = ".yoloquant-"
# Errors of storage, and not of this project.
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# File systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
# Of Linux: exchange two names in one step; and its C library's "relative to the current folder".
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
# Bytes of a name that leave room for the prefix; file systems take 255.
_LONGEST_NAME = 200


class _HasPath(Protocol):
    """An image of a data set."""

    @property
    def path(self) -> Path: ...


def beside(path: Path, use: str) -> Path:
    """The name beside an output that a command uses while it runs; the suffix stays, since writers choose formats by it."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32] + path.suffix[:16]
    return path.with_name(f"{PREFIX}{use}-{name}")


def followed(path: str | Path) -> Path:
    """The absolute path that is written where `path` is given: what a symbolic link leads to, so that the link stays.

    Raises:
        YoloquantError: The link leads to itself, or the system takes no such name.
    """
    path = Path(path).absolute()
    try:
        place = Path(os.path.realpath(path)) if path.is_symlink() else path
        leads_nowhere = place.is_symlink()
        place.exists()
    except OSError as error:
        raise YoloquantError(f"the output {path} cannot be written: {error.strerror}; name another") from error
    if leads_nowhere:
        raise YoloquantError(f"the output {path} is a symbolic link that leads to itself: name another")
    return place


def refuse_inputs(outputs: Iterable[str | Path | None], inputs: Iterable[Any]) -> None:
    """Make sure that nothing which is read is replaced by what is written.

    Args:
        outputs: Files and folders that will be written; a folder is replaced with all that it holds.
        inputs: Files and folders that are read; what is no path, or does not exist, is passed over.

    Raises:
        YoloquantError: An output is an input, holds one, or stands in a folder that is one.
    """
    given = [Path(source) for source in inputs if isinstance(source, str | Path)]
    read = {Path(os.path.realpath(source)): source for source in given if source.exists()}
    written: list[Path] = []
    for output in outputs:
        if output is None:
            continue
        place = Path(os.path.realpath(output))
        if place in written:
            raise YoloquantError(f"two outputs are the same file {output}: name another for one of them")
        written.append(place)
        for source, name in read.items():
            is_same = place.exists() and place.samefile(source)
            is_in = place.is_file() and source.is_dir() and source in place.parents
            if is_same or is_in or place in source.parents:
                raise YoloquantError(f"the output {output} would replace {name}, which is read: name another output")


def refuse_images(outputs: Iterable[Path | None], images: Iterable[_HasPath]) -> None:
    """The same for the images of a data set, of which there may be very many.

    Raises:
        YoloquantError: An output is one of them.
    """
    written = {(status.st_dev, status.st_ino): path for path in outputs if path is not None and (status := _status(path))}
    for entry in images if written else ():
        status = _status(entry.path)
        if status and (status.st_dev, status.st_ino) in written:
            output = written[status.st_dev, status.st_ino]
            raise YoloquantError(f"the output {output} would replace the image {entry.path}, which is read: name another output")


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


@contextmanager
def reserved(*outputs: str | Path | None) -> Iterator[None]:
    """Hold outputs for this run; what an earlier one left unfinished beside them is put back or removed.

    Under `torchrun` the first process, which writes, holds them for all.

    Args:
        outputs: Outputs that are written; None for nothing.

    Raises:
        YoloquantError: Another run holds one of them, or storage fails while they are held.
    """
    wanted = [followed(output) for output in outputs if output is not None and is_first_process()]
    with ExitStack() as stack:
        for output in wanted:
            stack.enter_context(storage_errors_told(output))
            output.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(output))
            _put_back(output)
        yield


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """A lock that the system releases, whatever ends this process."""
    path = beside(output, "lock")
    descriptor = _lock(path, output)
    try:
        yield
    finally:
        # Before it is released: afterwards it may be another run's.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path, output: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The run before may have removed the file between both calls.
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise YoloquantError(f"another run is writing {output}: wait until it ends, or name another output") from error
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)


def _put_back(output: Path) -> None:
    """Undo what a killed run left: an output that was set aside comes back, and unfinished ones go."""
    aside = beside(output, "old")
    if aside.exists() and not output.exists():
        aside.rename(output)
    for path in (aside, beside(output, "work"), beside(output, "part")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def working_folder(output: Path | None) -> Iterator[Path]:
    """A folder to work in, on the file system of the output, or anywhere where there is none; it is removed at the end."""
    if output is None:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            yield Path(folder)
        return
    work = beside(output, "work")
    # One that could not be removed, as on network file systems while files in it are open, is used again.
    work.mkdir(parents=True, exist_ok=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def put_in_place(new: Path, output: Path) -> str | None:
    """Move a finished folder to where its output shall be, and delete the earlier one.

    Args:
        new: Finished file or folder, on the same file system.
        output: Folder to write; an earlier one may exist.

    Returns:
        A sentence where the earlier output could not be deleted whole.

    Raises:
        YoloquantError: It cannot be moved; both are kept, and the message says where.
    """
    _take_umask(new)
    aside = beside(output, "old")
    try:
        if output.exists() and _exchange(new, output):
            new.rename(aside)
        else:
            _swap(new, output, aside)
    except OSError as error:
        kept = _unused(output, "new")
        with contextlib.suppress(OSError):
            new.rename(kept)
        place = kept if kept.exists() else new
        reason = f"{output} cannot be replaced ({error.strerror})"
        raise YoloquantError(f"{reason}: it is as it was, the new one is {place}") from error
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        kept = _unused(output, "old")
        aside.rename(kept)
        return f"the earlier output could not be deleted whole: what is left of it is {kept}"
    return None


def _swap(new: Path, output: Path, aside: Path) -> None:
    """The earlier output aside, the new one in; the earlier one back where that fails."""
    had = output.exists()
    if had:
        output.rename(aside)
    try:
        new.rename(output)
    except OSError:
        if had:
            aside.rename(output)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, so that there is no moment without either; false where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return rename is not None and rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _unused(output: Path, use: str) -> Path:
    """A name beside an output at which nothing stands."""
    names = (output.with_name(f"{output.name}.{use}{number or ''}") for number in range(1000))
    return next(path for path in names if not os.path.lexists(path))


def _take_umask(folder: Path) -> None:
    """Give files the mode that the user's umask gives to new ones; some writers make theirs readable for the user alone."""
    probe = folder / f"{PREFIX}probe"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


@contextmanager
def storage_errors_told(output: Path) -> Iterator[None]:
    """Turn a full disk and the like into one sentence.

    Raises:
        YoloquantError: The system refuses to store something.
    """
    try:
        yield
    except Exception as error:
        number = storage_error(error)
        if number is None:
            raise
        reason = os.strerror(number)
        raise YoloquantError(
            f"{output} cannot be written: {reason}; what was there before is as it was: make room, or name another output"
        ) from error


def storage_error(error: Exception) -> int | None:
    """The system's number of an error of storage; none for any other error.

    Libraries in other languages name it in their messages alone.
    """
    if isinstance(error, YoloquantError):
        return None
    if isinstance(error, OSError):
        return error.errno if error.errno in _STORAGE else None
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = int(found.group(1)) if found else next((code for code in _STORAGE if os.strerror(code) in str(error)), 0)
    return number if number in _STORAGE else None
