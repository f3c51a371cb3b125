"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


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
