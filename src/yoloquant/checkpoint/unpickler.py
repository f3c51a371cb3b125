"""Read a torch `.pt` file without executing anything in it.

A checkpoint of the YOLO repositories is a pickle of whole modules, and a pickle is a program. Here that program can only build
inert values: every class it names becomes a `Record` (its name and its state), tensors are views of the file's storages, and
whatever is not on the allow-list is refused by name before anything is made of it.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yoloquant.errors import CheckpointError

# No official detector's file comes near these; a file that declares more is an attack or no checkpoint.
LARGEST_TOTAL = 8 << 30
LARGEST_PICKLE = 64 << 20
LARGEST_RATIO = 200

STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Record:
    """An object of the pickle as inert data.

    Attributes:
        path: `module.name` of the class that the pickle names.
        arguments: what its constructor would have been called with.
        state: its attributes.
    """

    path = ""

    def __new__(cls, *arguments: Any, **_keywords: Any) -> Record:
        """Keep the arguments; run nothing."""
        record = object.__new__(cls)
        record.arguments = arguments
        record.state = {}
        return record

    arguments: tuple[Any, ...]
    state: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        """Keep the state; run nothing."""
        self.state = state if isinstance(state, dict) else {"state": state}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Dictionaries of a named class."""
        self.state[key] = value

    def append(self, value: Any) -> None:
        """Lists of a named class; their items are not needed."""

    def extend(self, values: Any) -> None:
        """Lists of a named class; their items are not needed."""


def record_class(path: str) -> type[Record]:
    """The class of records that stand for one class of the pickle."""
    return type("Record", (Record,), {"path": path})


class _StorageType:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: Any) -> Tensor:
    needed = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
    if not isinstance(storage, Tensor) or offset < 0 or min((*size, *stride), default=0) < 0:
        raise CheckpointError("a tensor in the checkpoint has an impossible shape: the file is damaged")
    if 0 not in size and needed > storage.numel():
        raise CheckpointError("a tensor in the checkpoint is larger than its data: the file is damaged")
    return torch.as_strided(storage, size, stride, offset).clone()


def _rebuild_parameter(data: Tensor, *_rest: Any) -> Tensor:
    return data


def _rebuild_array(_subtype: Any, _shape: Any, _code: Any) -> Record:
    return record_class("numpy.ndarray")()


def _encode(text: Any, _encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str):
        raise CheckpointError("the checkpoint encodes something that is no text: the file is damaged")
    return text.encode("latin1", "replace")


def _bound_method(owner: Any, name: Any) -> Record:
    """What a fused module replaced its `forward` by; nothing is looked up, since which forward runs is decided here."""
    if not isinstance(owner, Record) or not isinstance(name, str):
        raise CheckpointError("the checkpoint asks for an attribute of something that is no layer: it is refused")
    return record_class("builtins.method")()


# Things of Python, numpy and torch that official files hold beside their modules. All answer with inert values.
_FUNCTIONS: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "numpy.core.multiarray._reconstruct": _rebuild_array,
    "numpy._core.multiarray._reconstruct": _rebuild_array,
    "_codecs.encode": _encode,
    "__builtin__.getattr": _bound_method,
    "builtins.getattr": _bound_method,
    "collections.OrderedDict": OrderedDict,
    "__builtin__.set": set,
    "builtins.set": set,
    "__builtin__.frozenset": frozenset,
    "builtins.frozenset": frozenset,
    "torch.Size": tuple,
}
_INERT = frozenset(
    {
        "numpy.ndarray",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtypes.Float32DType",
        "numpy.dtypes.Float64DType",
        "numpy.dtypes.Int64DType",
        "torch.device",
        "torch.float16",
        "torch.float32",
        "torch.nn.parameter.Parameter",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "argparse.Namespace",
        "types.SimpleNamespace",
        "datetime.datetime",
        "ultralytics.utils.IterableSimpleNamespace",
        "ultralytics.yolo.utils.IterableSimpleNamespace",
        "easydict.EasyDict",
        "addict.addict.Dict",
        "yolov6.utils.config.ConfigDict",
        "yolov6.utils.config.Config",
    }
)

# Packages whose classes are modules of detectors; which of those are understood is decided when networks are built.
_MODULE_PACKAGES = (
    "models.",
    "ultralytics.nn.",
    "yolov6.layers.",
    "yolov6.models.",
    "yolov6.assigners.",
    "torch.nn.modules.",
    "torch.distributed.",
    "torch.nn.parallel.",
    "torch.nn.utils.prune.",
)
_LOSS_PACKAGES = ("utils.loss.", "ultralytics.utils.loss.", "ultralytics.yolo.utils.loss.", "yolov6.models.losses.")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, storages: dict[str, Tensor], archive: _Archive) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._storages = storages
        self._archive = archive

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path in _FUNCTIONS:
            return _FUNCTIONS[path]
        if module == "torch" and name in STORAGE_TYPES:
            return _StorageType(STORAGE_TYPES[name])
        # A class is a plain name in a plain module: "models.common" must not smuggle "os.system" in by dots.
        is_module = path.startswith((*_MODULE_PACKAGES, *_LOSS_PACKAGES)) and "." not in name and name.isidentifier()
        if path in _INERT or is_module:
            return record_class(path)
        raise CheckpointError(
            f"the checkpoint names {path}, which is not on the list of what a detector's file may hold: it is refused"
        )

    def persistent_load(self, key: Any) -> Tensor:
        if not (isinstance(key, tuple) and len(key) == 5 and key[0] == "storage" and isinstance(key[1], _StorageType)):
            raise CheckpointError("the checkpoint refers to storage in an unknown way: the file is damaged or too new")
        name = str(key[2])
        if name not in self._storages:
            self._storages[name] = self._archive.storage(name, key[1].dtype)
        return self._storages[name]


class _Archive:
    """The zip file that torch.save writes."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path, self._file = path, file
        names = file.namelist()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
            raise CheckpointError(
                f"{path} is a TorchScript file, which holds compiled code: give the training checkpoint it was made from"
            )
        if len(pickles) != 1:
            raise CheckpointError(f"{path} is a zip file but no torch checkpoint: it has no data.pkl")
        self._pickle = pickles[0]
        self._prefix = pickles[0].removesuffix("data.pkl")
        self._refuse_bombs()

    def _refuse_bombs(self) -> None:
        entries = self._file.infolist()
        total = sum(entry.file_size for entry in entries)
        inflated = any(entry.file_size > LARGEST_RATIO * max(entry.compress_size, 4096) for entry in entries)
        pickle_size = self._file.getinfo(self._pickle).file_size
        if total > LARGEST_TOTAL or inflated or pickle_size > LARGEST_PICKLE:
            raise CheckpointError(
                f"{self._path} would unpack to {total / (1 << 20):.0f} MiB, far more than a checkpoint of its size can hold: "
                "it is refused as a zip bomb"
            )

    def read_pickle(self) -> bytes:
        return self._file.read(self._pickle)

    def storage(self, name: str, dtype: torch.dtype) -> Tensor:
        try:
            data = self._file.read(f"{self._prefix}data/{name}")
        except KeyError as error:
            raise CheckpointError(f"{self._path} lacks the data of a tensor: it is damaged, download it again") from error
        usable = len(data) - len(data) % torch.empty((), dtype=dtype).element_size()
        return torch.frombuffer(bytearray(data[:usable]), dtype=dtype) if usable else torch.empty(0, dtype=dtype)


def read_pickle(path: Path) -> Any:
    """Read a torch checkpoint as inert data: dictionaries, lists, numbers, tensors and `Record`s.

    Raises:
        CheckpointError: the file is missing, damaged, too large, of another kind, or names what is not allowed.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the checkpoint file in it")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(_not_a_zip(path))
        with zipfile.ZipFile(path) as file:
            archive = _Archive(path, file)
            return _Unpickler(archive.read_pickle(), {}, archive).load()
    except CheckpointError:
        raise
    except Exception as error:
        # A damaged pickle or zip can raise nearly anything; whatever it is, the file cannot be read.
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}): download or save it again") from error


def _not_a_zip(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        return f"{path} is truncated: its end is missing, download or copy it again"
    if start[:1] == b"\x80":
        return (
            f"{path} is in torch's old format from before torch 1.6: "
            "load it with torch and save it again with torch.save to get the zip format"
        )
    return f"{path} is not a torch checkpoint"


def to_number(value: Any) -> Any:
    """Numbers of torch (0-dimensional tensors) as Python's; anything else as it is."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, np.generic):
        return value.item()
    return value
