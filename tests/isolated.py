"""Read files in a process of its own, whose memory and time are limited, and report how each call ended."""

import json
import os
import resource
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yoloquant.errors import YoloquantError

SECONDS, MEGABYTES = 30, 2048

Call = Callable[[], Any]


def outcome(read: Call, seconds: int = SECONDS, megabytes: int = MEGABYTES) -> str:
    """How a call ends: "read", "refused: sentence", "traceback: ...", or "killed by signal N" (14 is time, 9 and 11 a crash)."""
    ends, status = _in_a_child([read], seconds, megabytes)
    if ends:
        return ends[0]
    return f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"killed by exit code {status >> 8}"


def outcomes(reads: Sequence[Call], seconds: int = SECONDS, megabytes: int = MEGABYTES) -> list[str]:
    """How each of several calls ends, as `outcome` reports it.

    They share one process as long as they are read or refused; any other end is only believed of a call that is alone in its
    process. The limits hold for each call.
    """
    ends: list[str] = []
    while len(ends) < len(reads):
        found, _ = _in_a_child(reads[len(ends) :], seconds, megabytes)
        for end in found:
            is_good = end == "read" or end.startswith("refused: ")
            ends.append(end if is_good else outcome(reads[len(ends)], seconds, megabytes))
        if len(ends) < len(reads):
            # The process ended in this one.
            ends.append(outcome(reads[len(ends)], seconds, megabytes))
    return ends


def _in_a_child(reads: Sequence[Call], seconds: int, megabytes: int) -> tuple[list[str], int]:
    """The ends of the calls up to the one that ended the process, if any did, and the status of the process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            for read in reads:
                pipe.write(json.dumps(_limited(read, seconds, megabytes)[:4000]) + "\n")
                pipe.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        ends = [json.loads(line) for line in pipe]
    return ends, os.waitpid(child, 0)[1]


def _limited(read: Call, seconds: int, megabytes: int) -> str:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (megabytes << 20)
    # The soft limit alone, so that the next call may have its own.
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
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
    finally:
        signal.alarm(0)
