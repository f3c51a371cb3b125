"""How the command line ends: one sentence and an exit code, whatever stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from yoloquant.cli.console import ERR, OUT
from yoloquant.environment import is_first_process
from yoloquant.errors import YoloquantError
from yoloquant.files.outputs import storage_error

# Seconds after which a process that was told to end does so from within a long computation, too.
PATIENCE = 1.5
# What a command leaves when it is stopped, in a sentence; set by those that leave something.
_stays: list[str] = []
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stopped(BaseException):
    """A signal that ends the process; no `except Exception` on the way holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stays(sentence: str) -> None:
    """What the running command leaves when it is stopped, for the user to know."""
    _stays[:] = [sentence]


def run(command: Callable[[], object]) -> None:
    """Run the command line, and exit.

    Exit codes: 2 for what a user can mend, 130 and 143 for SIGINT and SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal or file of a narrow encoding shows question marks for what it cannot hold.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for number in _WORDS:
        # A parent that ignores interruptions, as nohup and some shells do, means it for its children, too.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    _watch()
    try:
        try:
            command()
        finally:
            _flush()
    except Stopped as stop:
        _tell_of(stop.number)
        _end(128 + stop.number)
    except YoloquantError as error:
        _exit(f"error: {error}", 2)
    except MemoryError:
        _exit("error: there is not enough memory: free some, or take fewer or smaller images", 2)
    except OSError as error:
        sentence = _of_system(error)
        if sentence is None:
            raise
        _exit(f"error: {sentence}", 2)


def _of_system(error: OSError) -> str | None:
    """What the system refuses to do, in one sentence; none where it is a defect of this project."""
    if isinstance(error, BrokenPipeError):
        return "whoever reads the output has gone"
    if storage_error(error) is None and not isinstance(error, PermissionError):
        return None
    return f"{error.filename or 'the output'} cannot be read or written: {error.strerror}"


def _stop(number: int, _frame: FrameType | None) -> None:
    # Once more, and it ends at once.
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)


def _watch() -> None:
    """End the process some time after a signal, if it has not ended by itself.

    The main thread cannot as long as it computes outside of Python, or puts away what waits for another process.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)  # noqa: FBT003  (takes no keyword)
    # The system's handler writes here at once, whatever the main thread does.
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)

    def watch() -> None:
        while (number := reading.recv(1)[0]) not in _WORDS:
            pass
        time.sleep(PATIENCE)
        _tell_of(number)
        os._exit(128 + number)

    threading.Thread(target=watch, daemon=True).start()


def _tell_of(number: int) -> None:
    """Say which signal ends it; of several processes, which all get it, one does."""
    if is_first_process():
        _tell("\n".join([_WORDS[signal.Signals(number)], *_stays]))


def _exit(sentence: str, code: int) -> None:
    _tell(sentence)
    _end(code)


def _end(code: int) -> None:
    try:
        _flush()
    except OSError:
        # Python would try again when it ends, and complain.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if code > 128:
        # Threads that still compute, and processes that wait for this one, are not waited for.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _tell(sentence: str) -> None:
    with contextlib.suppress(OSError):
        ERR.print(sentence, style="red", markup=False)


def _flush() -> None:
    OUT.file.flush()
