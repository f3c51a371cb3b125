"""Repeat the tables of docs/reliability.md.

Run `python scripts/reliability.py files` (damaged files of every format), `kills` (whole commands, killed at moments that are
spread over their duration, or before their changes to the file system) or `load` (data sets of up to 100,000 images).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

# Reading in parallel would be slower: most files are small.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(1, str(Path(__file__).parent.parent / "tests" / "checkpoint"))

from isolated import outcomes
from kills import COMMANDS, after_a_kill, prepare
from large_sets import load_of, write_large_set
from mutations import FORMATS, Format, damage
from yoloquant.assets import demo_weights

# A folder takes seconds to read, since its network is captured again.
SLOW = {"folder": 6}
# Damaged files that are read in one process.
BATCH = 50
SIZES = ("1000x2", "10000x2", "100000x2", "10000x10000")
COLUMNS = ("format", "tried", "read", "refused", "traceback", "crash", "over 30 s", "over 2 GB", "seconds per file")


def row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def head(columns: Iterable[str]) -> None:
    print(row(columns))
    print(row("---" for _ in columns))


def files(count: int, only: list[str]) -> None:
    head(COLUMNS)
    whole: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, kind) in enumerate(FORMATS.items()):
            if only and name not in only:
                continue
            begin = time.monotonic()
            found = files_of(name, kind, Path(scratch) / str(number), count // SLOW.get(name, 1))
            whole += found
            seconds = (time.monotonic() - begin) / found["tried"]
            print(row((name, *(found[column] for column in COLUMNS[1:-1]), f"{seconds:.2f}")), flush=True)
    print(row(("all", *(whole[column] for column in COLUMNS[1:-1]), "")))


def files_of(name: str, kind: Format, folder: Path, count: int) -> Counter[str]:
    """How many damaged files of a format there were, and how many ended in each column."""
    (folder / "seed").mkdir(parents=True)
    seed_path = kind.seed(folder / "seed")
    found: Counter[str] = Counter()
    for first in range(0, count, BATCH):
        seeds = range(first, min(first + BATCH, count))
        paths = [damage(kind, seed_path, folder / "places" / str(seed - first), seed) for seed in seeds]
        ends = iter(outcomes([lambda reader=reader, path=path: reader(path) for path in paths for reader in kind.readers]))
        for seed in seeds:
            columns = {end_of(next(ends), name, seed) for _ in kind.readers}
            found["tried"] += 1
            # The worst that any reader of the file did.
            found[next(column for column in reversed(COLUMNS[2:-1]) if column in columns)] += 1
    return found


def end_of(told: str, name: str, seed: int) -> str:
    """The column that an outcome counts in; what should not be is printed, too."""
    if told == "read":
        return "read"
    if "MemoryError" in told or "allocate memory" in told:
        end = "over 2 GB"
    elif told.startswith("refused"):
        return "refused"
    else:
        end = "over 30 s" if told == "killed by signal 14" else "crash" if told.startswith("killed") else "traceback"
    print(f"{name}, seed {seed}: {told[:300]}", file=sys.stderr)
    return end


def kills(count: int, only: list[str], *, at_changes: bool) -> None:
    head(("command", "undisturbed s", "killed", "files lost", "other faults"))
    with tempfile.TemporaryDirectory() as scratch:
        for name, command in COMMANDS.items():
            if only and name not in only:
                continue
            folder = Path(scratch) / name
            truth = prepare(folder, command, lambda path: shutil.copy(demo_weights(), path))
            spread = [(number + 0.5) / count for number in range(count)]
            moments = (
                [{"change": 1 + int(share * truth.changes)} for share in spread]
                if at_changes
                else [{"seconds": share * truth.seconds} for share in spread]
            )
            faults = [
                f"{name}, killed at {moment}: {fault}"
                for moment in moments
                for fault in after_a_kill(command, truth, folder / "place", **moment)
            ]
            print("\n".join(faults), file=sys.stderr)
            lost = sum(fault.endswith((" is lost", " is changed", " is missing")) for fault in faults)
            print(row((name, f"{truth.seconds:.0f}", count, lost, len(faults) - lost)), flush=True)


def load(sizes: list[str]) -> None:
    head(("images", "classes", "open s", "evaluate s", "opened MiB", "images run MiB", "figures MiB"))
    for size in sizes:
        count, _, classes = size.partition("x")
        with tempfile.TemporaryDirectory() as folder:
            found = load_of(write_large_set(Path(folder), int(count), int(classes)), int(classes))
        memory = (f"{value >> 20}" for value in (found.opened, found.running, found.peak))
        print(row((count, classes, f"{found.open_seconds:.1f}", f"{found.evaluate_seconds:.1f}", *memory)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    damaged = what.add_parser("files", help="damaged files")
    damaged.add_argument("--count", type=int, default=360, help="of each format")
    damaged.add_argument("--only", nargs="*", default=[], help="formats")
    killed = what.add_parser("kills", help="killed commands")
    killed.add_argument("--count", type=int, default=10, help="of each command")
    killed.add_argument("--only", nargs="*", default=[], help="commands")
    killed.add_argument("--changes", action="store_true", help="kill before changes to the file system")
    loaded = what.add_parser("load", help="large data sets")
    loaded.add_argument("--sizes", nargs="*", default=SIZES, help="images x classes")
    options = parser.parse_args()
    if options.what == "files":
        files(options.count, options.only)
    elif options.what == "kills":
        kills(options.count, options.only, at_changes=options.changes)
    else:
        load(options.sizes)


if __name__ == "__main__":
    main()
