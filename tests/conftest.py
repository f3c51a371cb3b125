"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each process has a core of its own; torch reads this when it is first imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and official checkpoints, named by `YOLOQUANT_SHARED`."""
    folder = os.environ.get("YOLOQUANT_SHARED")
    if not folder:
        pytest.skip("YOLOQUANT_SHARED is not set: it names the folder of photographs and checkpoints")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"YOLOQUANT_SHARED names {path}, which is not a folder")
    return path
