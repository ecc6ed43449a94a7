"""Tensor names, shapes and places of a torch checkpoint, read from its pickle without torch and without running code.

Only what tensors are made of is understood. Harmless training records that old checkpoints carry along (callbacks,
configurations, numpy scalars) become inert placeholders; any other global, ``os.system`` say, makes the file UNSAFE.
Format: torch.save's zip (since 1.6) and the older sequence of pickles (torch/serialization.py, ``_legacy_save``).
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from library.util.file_header import ITEM_SIZE, FileKind, Header, Place, from_places, wreck

STORAGES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
    "ComplexFloatStorage": "C64",
}
DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
INERT = (
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
    "omegaconf.",
    "numpy.",
    "torch.optim.",
    "ldm.",
    "typing.",
    "argparse.Namespace",
    "_codecs.encode",
    "collections.defaultdict",
    "collections.Counter",
    "torch.Size",
    "torch.device",
    "builtins.set",
    "builtins.int",
    "builtins.float",
    "builtins.bool",
    "builtins.str",
    "builtins.list",
    "builtins.dict",
    "builtins.tuple",
    "builtins.complex",
    "builtins.slice",
    "builtins.range",
    "builtins.bytearray",
    "builtins.object",
    "copyreg._reconstructor",
    "__builtin__.set",
    "__builtin__.object",
    "copy_reg._reconstructor",
    "pathlib.",
    "torch.serialization._get_layout",
    "torch._utils._rebuild_device_tensor_from_numpy",
)
"""Globals that are replaced by a placeholder, never called: whole modules (with a dot at the end) or single names."""


class UnsafeGlobal(pickle.UnpicklingError):
    """A pickle asks for something that has no place in a file of weights."""


class Inert(dict):
    """Stands for an object that we do not want: takes everything, keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def add(self, item: Any) -> None: ...


@dataclass(frozen=True)
class Stored:
    """A storage in the pickle: its key in the archive and the type of its items."""

    key: str
    dtype: str


@dataclass(frozen=True)
class Pickled:
    """A tensor in the pickle: a view of a storage."""

    storage: Stored
    offset: int
    """In items."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(storage: Stored, offset: int, shape: Any, stride: Any, *rest: Any) -> Pickled:
    return Pickled(storage, int(offset), tuple(shape), tuple(stride))


def _rebuild_v3(
    storage: Stored, offset: int, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: str, *rest: Any
) -> Pickled:
    return Pickled(replace(storage, dtype=dtype), int(offset), tuple(shape), tuple(stride))


def _first(value: Any, *rest: Any) -> Any:
    return value


_REBUILD = {
    "_rebuild_tensor": _rebuild,
    "_rebuild_tensor_v2": _rebuild,
    "_rebuild_tensor_v3": _rebuild_v3,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
}


class TensorUnpickler(pickle.Unpickler):
    """Understands tensors, dictionaries and plain values; everything else is inert or refused."""

    def __init__(self, file: Any, types: dict[str, str] | None = None):
        super().__init__(file, encoding="utf-8")
        self.types = {} if types is None else types
        """Storage key -> type of its items, as they are met."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return OrderedDict
        if module == "torch._utils" and name in _REBUILD:
            return _REBUILD[name]
        if module == "torch._tensor" and name == "_rebuild_from_type_v2":
            return lambda function, kind, arguments, state: function(*arguments)
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if full == "torch.Tensor" or full == "torch.nn.parameter.Parameter":
            return Inert
        if any(full == known or (known.endswith(".") and full.startswith(known)) for known in INERT):
            return Inert
        raise UnsafeGlobal(full)

    def persistent_load(self, pid: Any) -> Stored:
        _, dtype, key = pid[:3]
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError("its storages are views of each other")
        self.types[str(key)] = dtype if isinstance(dtype, str) else "U8"
        return Stored(str(key), self.types[str(key)])


def read_pickle(path: Path, file: BinaryIO, size: int) -> Header:
    """Header of a torch checkpoint; UNSAFE where it contains anything but weights, CUT_OFF where it ends too early."""
    try:
        if file.read(4) == b"PK\x03\x04":
            return _read_zip(path, file, size)
        file.seek(0)
        return _read_legacy(path, file, size)
    except UnsafeGlobal as error:
        return wreck(path, FileKind.UNSAFE, f"contains more than weights ({error}), so it was not opened", size)
    except zipfile.BadZipFile:
        return wreck(
            path,
            FileKind.CUT_OFF,
            f"is cut off: only {size:,} bytes are here and the end of the archive is missing",
            size,
        )
    except (
        pickle.UnpicklingError,
        EOFError,
        struct.error,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
        ImportError,
    ) as error:
        return wreck(path, FileKind.UNREADABLE, f"is not a readable checkpoint ({type(error).__name__}: {error})", size)


def _read_zip(path: Path, file: BinaryIO, size: int) -> Header:
    with zipfile.ZipFile(file) as archive:
        infos = {i.filename: i for i in archive.infolist()}
        root = next((n[: -len("data.pkl")] for n in infos if n.endswith("data.pkl")), None)
        if root is None:
            return wreck(path, FileKind.UNREADABLE, "is a .zip archive, but not a checkpoint", size)
        found = TensorUnpickler(io.BytesIO(archive.read(f"{root}data.pkl"))).load()
        tensors = named_tensors(found)
        starts = {
            key: _data_start(file, infos[f"{root}data/{key}"]) for key in {t.storage.key for t in tensors.values()}
        }
    return from_places(path, FileKind.PICKLE, _places(path, tensors, starts), size)


def _data_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a stored entry's bytes begin: after its local header of 30 bytes, its name and its extra field."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("its tensors are compressed")
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name + extra


def _read_legacy(path: Path, file: BinaryIO, size: int) -> Header:
    """Five pickles (magic number, protocol, system, object, storage keys), then each storage: int64 count, bytes."""
    header = [TensorUnpickler(file).load() for _ in range(3)]
    if header[0] != 0x1950A86A20F9469CFC6C:
        return wreck(path, FileKind.UNREADABLE, "is a pickle, but not a torch checkpoint", size)
    types: dict[str, str] = {}
    tensors = named_tensors(TensorUnpickler(file, types).load())
    keys = TensorUnpickler(file).load()
    starts: dict[str, int] = {}
    for key in keys:
        count = struct.unpack("<q", file.read(8))[0]
        starts[str(key)] = file.tell()
        file.seek(count * ITEM_SIZE[types[str(key)]], io.SEEK_CUR)
    return from_places(path, FileKind.PICKLE, _places(path, tensors, starts), size)


def named_tensors(found: Any) -> dict[str, Pickled]:
    """The weights in a checkpoint's object: itself, or what it holds under ``state_dict`` and the like."""
    for inner in ("state_dict", "module", "model", "params_ema", "params"):
        if isinstance(found, Mapping) and isinstance(found.get(inner), Mapping) and found[inner]:
            found = found[inner]
            break
    if not isinstance(found, Mapping):
        raise ValueError("no table of weights inside")
    return {str(name): value for name, value in found.items() if isinstance(value, Pickled)}


def _places(path: Path, tensors: Mapping[str, Pickled], starts: Mapping[str, int]) -> dict[str, Place]:
    places = {}
    for name, t in tensors.items():
        plain = _row_major(t.shape)
        same = all(n == 1 or a == b for n, a, b in zip(t.shape, t.stride, plain, strict=True))
        offset = starts[t.storage.key] + t.offset * ITEM_SIZE[t.storage.dtype]
        places[name] = Place(path, offset, t.shape, t.storage.dtype, None if same else t.stride)
    return places


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride, total = [], 1
    for n in reversed(shape):
        stride.append(total)
        total *= n
    return tuple(reversed(stride))
