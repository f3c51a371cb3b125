"""Repeat the table of docs/reliability.md: damaged files of every format. Run `python scripts/reliability.py files`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from isolated import outcome
from mutations import FORMATS, damage

# A folder takes seconds to read, since its network is captured again.
SLOW = {"folder": 6}
COLUMNS = ("format", "tried", "read", "refused", "traceback", "crash", "over 30 s", "over 2 GB", "longest s")


def row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def files(count: int, only: list[str]) -> None:
    print(row(COLUMNS))
    print(row("---" for _ in COLUMNS))
    whole: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, kind) in enumerate(FORMATS.items()):
            if only and name not in only:
                continue
            folder = Path(scratch) / str(number)
            (folder / "seed").mkdir(parents=True)
            seed_path = kind.seed(folder / "seed")
            found: Counter[str] = Counter()
            longest = 0.0
            for seed in range(count // SLOW.get(name, 1)):
                path = damage(kind, seed_path, folder / "place", seed)
                begin = time.monotonic()
                ends = {end_of(outcome(lambda reader=reader, path=path: reader(path)), name, seed) for reader in kind.readers}
                longest = max(longest, time.monotonic() - begin)
                found["tried"] += 1
                # The worst that any reader of the file did.
                found[next(end for end in reversed(COLUMNS[2:-1]) if end in ends)] += 1
            whole += found
            print(row((name, *(found[column] for column in COLUMNS[1:-1]), f"{longest:.1f}")), flush=True)
    print(row(("all", *(whole[column] for column in COLUMNS[1:-1]), "")))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("files",))
    parser.add_argument("--count", type=int, default=360, help="damaged files of each format")
    parser.add_argument("--only", nargs="*", default=[], help="formats")
    options = parser.parse_args()
    files(options.count, options.only)


if __name__ == "__main__":
    main()
