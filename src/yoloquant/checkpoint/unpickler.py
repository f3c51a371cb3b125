"""Read a torch `.pt` file without executing anything in it.

A checkpoint of the YOLO repositories is a pickle of whole modules, and a pickle is a program. Here that program can only build
inert values (see `opcodes`): every object becomes a `Record` (the name of its class and its state), tensors are copies of the
file's storages, and whatever is not on the allow-list is refused by name before anything is made of it.
"""

from __future__ import annotations

import math
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yoloquant.checkpoint.opcodes import Global, Interpreter, checked_key
from yoloquant.errors import CheckpointError
from yoloquant.files.reading import parsed
from yoloquant.models.record import Record
from yoloquant.models.registry import FAMILIES

# No official detector's file comes near these; a file that declares more is an attack or no checkpoint.
LARGEST_TOTAL = 8 << 30
LARGEST_PICKLE = 32 << 20
LARGEST_RATIO = 200
# Bytes that unpacked entries, and tensors, may take whatever the file's size is, and for each of its bytes: half precision in
# the file, compression, and several tensors of one storage are common.
_FREE, _MOST_OF_FILE = 64 << 20, 16
_MOST_AXES = 16
_TENSOR = "torch._utils._rebuild_tensor_v2"

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


class _Budget:
    """Bytes that tensors may still take; a file's own size decides how many."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> None:
        """Count what a tensor takes.

        Raises:
            CheckpointError: It is more than a file of this size can need.
        """
        self.left -= size
        if self.left < 0:
            raise CheckpointError("the checkpoint's tensors are many times larger than the file: it is refused")


def _rebuild_tensor(budget: _Budget, storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> Tensor:
    numbers = (offset, *size, *stride) if type(size) is tuple and type(stride) is tuple else ()
    is_shape = len(numbers) == 1 + 2 * len(size) and all(type(number) is int and 0 <= number < 1 << 48 for number in numbers)
    if not isinstance(storage, Tensor) or not is_shape or len(size) > _MOST_AXES:
        raise CheckpointError("a tensor in the checkpoint has an impossible shape: the file is damaged")
    needed = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
    if 0 not in size and needed > storage.numel():
        raise CheckpointError("a tensor in the checkpoint is larger than its data: the file is damaged")
    budget.take(math.prod(size) * storage.element_size())
    return torch.as_strided(storage, size, stride, offset).clone()


def _rebuild_parameter(data: Any, *_rest: Any) -> Any:
    return data


def _rebuild_array(*_arguments: Any) -> Record:
    return Record("numpy.ndarray")


def _encode(text: Any, _encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str):
        raise CheckpointError("the checkpoint encodes something that is no text: the file is damaged")
    return text.encode("latin1", "replace")


def _bound_method(owner: Any, name: Any) -> Record:
    """What a fused module replaced its `forward` by; nothing is looked up, since which forward runs is decided here."""
    if not isinstance(owner, Record) or not isinstance(name, str):
        raise CheckpointError("the checkpoint asks for an attribute of something that is no layer: it is refused")
    return Record("builtins.method")


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    if not all(type(item) in (list, tuple) and len(item) == 2 for item in items):
        raise CheckpointError("the checkpoint holds a dictionary that is none: the file is damaged")
    return OrderedDict((checked_key(key), value) for key, value in items)


def _set(items: Any = ()) -> set[Any]:
    return {checked_key(item) for item in items}


# Things of Python, numpy and torch that official files hold beside their modules. All return inert values.
_FUNCTIONS: dict[str, Any] = {
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "numpy.core.multiarray._reconstruct": _rebuild_array,
    "numpy._core.multiarray._reconstruct": _rebuild_array,
    "_codecs.encode": _encode,
    "__builtin__.getattr": _bound_method,
    "builtins.getattr": _bound_method,
    "collections.OrderedDict": _ordered,
    "__builtin__.set": _set,
    "builtins.set": _set,
    "__builtin__.frozenset": lambda items=(): frozenset(_set(items)),
    "builtins.frozenset": lambda items=(): frozenset(_set(items)),
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
        "easydict.EasyDict",
        "addict.addict.Dict",
    }
)

_READERS = [family.checkpoint for family in FAMILIES.values() if family.checkpoint is not None]
# Packages whose classes are modules of detectors; which of those are understood is decided when networks are built.
_PACKAGES = (
    "torch.nn.modules.",
    "torch.distributed.",
    "torch.nn.parallel.",
    "torch.nn.utils.prune.",
    *dict.fromkeys(package for reader in _READERS for package in reader.packages),
)
_VALUES = _INERT.union(*(reader.values for reader in _READERS))


class _Reader:
    """What the names and references in a checkpoint's pickle stand for."""

    def __init__(self, archive: _Archive) -> None:
        self._archive = archive
        self._storages: dict[str, Tensor] = {}
        self._budget = _Budget(_FREE + _MOST_OF_FILE * archive.size)

    def read(self, data: bytes) -> Any:
        return Interpreter(self._call, self._build, self._storage, self._resolve).run(data)

    def _resolve(self, name: Global) -> Global:
        """The same, if it may stand in a checkpoint."""
        path = name.path
        is_storage = name.module == "torch" and name.name in STORAGE_TYPES
        # A class is a plain name in a plain module: "models.common" must not smuggle "os.system" in by dots.
        is_class = "." not in name.name and name.name.isidentifier()
        is_module = path.startswith(_PACKAGES) and is_class
        if path in _FUNCTIONS or path == _TENSOR or path in _VALUES or is_storage or is_module:
            return name
        raise CheckpointError(
            f"the checkpoint names {path}, which is not on the list of what a detector's file may hold: it is refused"
        )

    def _call(self, name: Global, arguments: tuple[Any, ...]) -> Any:
        if name.path == _TENSOR:
            return _rebuild_tensor(self._budget, *arguments)
        function = _FUNCTIONS.get(name.path)
        return Record(name.path) if function is None else function(*arguments)

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, Record):
            target.state.update(state if isinstance(state, dict) else {"state": state})
        elif type(target) not in (OrderedDict, set):
            # Ordered dictionaries of torch carry metadata, which nothing here needs.
            raise CheckpointError(f"the checkpoint gives attributes to a {type(target).__name__}: the file is damaged")

    def _storage(self, key: Any) -> Tensor:
        is_storage = type(key) is tuple and len(key) == 5 and key[0] == "storage" and isinstance(key[1], Global)
        dtype = STORAGE_TYPES.get(key[1].name) if is_storage and key[1].module == "torch" else None
        if dtype is None or not isinstance(key[2], str | int):
            raise CheckpointError("the checkpoint refers to storage in an unknown way: the file is damaged or too new")
        name = str(key[2])
        if name not in self._storages:
            self._storages[name] = self._archive.storage(name, dtype)
        return self._storages[name]


class _Archive:
    """The zip file that torch.save writes."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path, self._file, self.size = path, file, path.stat().st_size
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
        largest = min(LARGEST_TOTAL, _FREE + _MOST_OF_FILE * self.size)
        if total > largest or inflated or pickle_size > LARGEST_PICKLE:
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
        CheckpointError: The file is missing, damaged, too large, of another kind, or names what is not allowed.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the checkpoint file in it")
    with parsed(path, CheckpointError, "download or save it again"):
        if not zipfile.is_zipfile(path):
            raise CheckpointError(_not_a_zip(path))
        with zipfile.ZipFile(path) as file:
            archive = _Archive(path, file)
            return _Reader(archive).read(archive.read_pickle())


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
