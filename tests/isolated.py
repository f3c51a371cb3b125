"""Read a file in a process of its own, whose memory and time are limited, and tell how that ended."""

import os
import resource
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yoloquant.errors import YoloquantError

SECONDS, MEGABYTES = 30, 2048


def outcome(read: Callable[[], Any], seconds: int = SECONDS, megabytes: int = MEGABYTES) -> str:
    """How a call ends: "read", "refused: sentence", "traceback: ...", or "killed by signal N" (14 is time, 9 and 11 a crash)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.write(writing, _limited(read, seconds, megabytes).encode(errors="replace")[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    return f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else told


def _limited(read: Callable[[], Any], seconds: int, megabytes: int) -> str:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        read()
        return "read"
    except YoloquantError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error} {''.join(traceback.format_tb(error.__traceback__)[-2:])}"
