"""Weights from files into modules: one tensor at a time, straight into the wanted type, nothing held twice.

No file stays open or mapped afterwards, so a checkpoint can be replaced while it is in use (Windows), and peak memory
is the weights themselves plus one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from library.util.header import FileKind, Header, Place, join, read_header
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch
    from torch import nn

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
PREFERENCE = {"fp16": (".fp16", ""), "bf16": ("", ".bf16", ".fp16"), "fp32": ("", ".fp16", ".bf16")}
"""Variants of a folder's weights by the type they are wanted in, best first."""


def torch_dtype(name: str) -> torch.dtype:
    """``fp32``, ``fp16``, ``bf16`` or a name of torch (``float8_e4m3fn``) -> torch.dtype."""
    import torch

    known = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "float": torch.float32}
    return known.get(name) or torch.__dict__[name]


def file_dtypes() -> dict[str, torch.dtype]:
    """safetensors' type names -> torch.dtype."""
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }


class Reader:
    """Reads tensors from their places; holds each file open, and one buffer for conversions, until it is closed."""

    def __init__(self) -> None:
        import torch

        self.files: dict[Path, BinaryIO] = {}
        self.dtypes = file_dtypes()
        self.scratch = torch.empty(0, dtype=torch.uint8)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self.files.values():
            file.close()

    def read(self, place: Place, dtype: torch.dtype | None = None, device: str = "cpu") -> torch.Tensor:
        """One tensor; floating types become ``dtype`` where it is given. Raises UserError on a read error."""
        import torch

        stored = self.dtypes[place.dtype]
        wanted = dtype if dtype is not None and stored.is_floating_point else stored
        keep = wanted == stored and device == "cpu" and place.stride is None
        raw = torch.empty(place.nbytes, dtype=torch.uint8) if keep else self._buffer(place.nbytes)
        self._read_bytes(place, memoryview(raw.numpy()))
        tensor = raw.view(stored)
        tensor = tensor.view(place.shape) if place.stride is None else tensor.as_strided(place.shape, place.stride)
        if keep:
            return tensor
        return torch.empty(place.shape, dtype=wanted, device=device).copy_(tensor)

    def _buffer(self, size: int) -> torch.Tensor:
        """Memory that is used again for every conversion: fresh memory costs more than the conversion itself."""
        import torch

        if len(self.scratch) < size:
            self.scratch = torch.empty(size, dtype=torch.uint8)
        return self.scratch[:size]

    def _read_bytes(self, place: Place, view: memoryview) -> None:
        try:
            if place.path not in self.files:
                self.files[place.path] = place.path.open("rb", buffering=0)
            file = self.files[place.path]
            file.seek(place.offset)
            self._fill(file, view, place)
        except OSError as error:
            raise UserError(
                Problem(
                    str(place.path),
                    say("This cannot be read ({value}).", value=error.strerror or error),
                    "Check the drive and that the file is still there.",
                )
            ) from error

    @staticmethod
    def _fill(file: BinaryIO, view: memoryview, place: Place) -> None:
        done = 0
        while done < len(view):
            count = file.readinto(view[done : done + (1 << 28)])  # type: ignore[attr-defined]
            if not count:
                raise OSError(f"{place.path.name} ends too early")
            done += count


def empty(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a module without memory for its parameters; buffers are real. Draws no random numbers."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return make()


Source = Place | tuple[Place, ...]
"""Where a tensor lies: one place, or several that are put together along the first axis."""


_noted: ContextVar[list[tuple[Any, dict[str, tuple[Place, ...]]]] | None] = ContextVar("noted", default=None)


@contextmanager
def only_places() -> Iterator[list[tuple[Any, dict[str, tuple[Place, ...]]]]]:
    """Within this context models are loaded without their weights: yields (module, where each of its tensors lies).

    The modules stay on torch's meta device. Tools that change or compare model files need places, not weights.
    """
    token = _noted.set([])
    try:
        yield _noted.get()  # type: ignore[misc]
    finally:
        _noted.reset(token)


def fill(
    module: nn.Module,
    places: Mapping[str, Source],
    dtype: torch.dtype,
    device: str,
    what: str,
    given: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """Read every parameter and persistent buffer of ``module`` from ``places`` (by its own names); frozen, eval mode.

    ``given`` are tensors that no file has. Raises UserError naming ``what`` (a part, in words) where tensors are missing
    or have another shape.
    """
    import torch

    given = given or {}
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items() if name not in given}
    lists = {name: (p,) if isinstance(p, Place) else p for name, p in places.items()}
    _check(wanted, lists, what)
    if (noted := _noted.get()) is not None:
        noted.append((module, lists))
        return module.requires_grad_(False).eval()
    with Reader() as reader:
        for name in sorted(wanted, key=lambda n: (str(lists[n][0].path), lists[n][0].offset)):
            pieces = [reader.read(place, dtype, device) for place in lists[name]]
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            _assign(module, name, tensor.reshape(wanted[name]))
    for name, tensor in given.items():
        _assign(module, name, tensor.to(device, dtype))
    module.requires_grad_(False)
    return module.to(device).eval()


def _check(wanted: Mapping[str, tuple[int, ...]], places: Mapping[str, tuple[Place, ...]], what: str) -> None:
    missing = [n for n in wanted if n not in places]
    shapes = {n: (sum(p.shape[0] for p in ps), *ps[0].shape[1:]) if ps[0].shape else () for n, ps in places.items()}
    wrong = [n for n, shape in wanted.items() if n in shapes and _core(shapes[n]) != _core(shape)]
    where = str(next((ps[0].path for ps in places.values()), what))
    if missing:
        raise UserError(
            Problem(
                where,
                say(
                    "It lacks {missing} of {wanted} tensors of {what} (the first: {first}).",
                    missing=len(missing),
                    wanted=len(wanted),
                    what=what,
                    first=missing[0],
                ),
                "The file is not a complete model of this kind. Choose the full checkpoint.",
            )
        )
    if wrong:
        name = wrong[0]
        raise UserError(
            Problem(
                where,
                say(
                    "{wrong} tensors of {what} have another shape than this architecture's ({name}: {shapes} instead of {wanted}).",
                    wrong=len(wrong),
                    what=what,
                    name=name,
                    shapes=list(shapes[name]),
                    wanted=list(wanted[name]),
                ),
                "The file is of another architecture or a special version of it.",
            )
        )


def _core(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape without axes of length 1: kernels of 1x1 and matrices are the same numbers."""
    return tuple(n for n in shape if n != 1)


def _assign(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    from torch import nn

    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[leaf] = tensor


def folder_weights(folder: Path, dtype: str = "fp32") -> Header:
    """Header of the weights in one part's folder (``unet/``): .safetensors before .bin, whole or sharded, any variant.

    Raises UserError where there are none or the file is damaged.
    """
    for path in candidates(folder, dtype):
        if path.is_file():
            return usable(read_header(path))
    raise UserError(
        Problem(
            str(folder),
            "It holds no weights (no .safetensors and no .bin file).",
            "The model folder is incomplete: copy or download it again.",
        )
    )


def given(path: Path) -> Header:
    """Header of weights that a user named: a file, the first of several pieces, or a folder. Raises UserError as ``usable``."""
    if path.is_dir():
        return folder_weights(path)
    pieces = pieces_of(path)
    if gone := [piece for piece in pieces if not piece.is_file()]:
        raise UserError(
            Problem(
                str(path),
                say("This is one of {pieces} pieces, and {gone} is not beside it.", pieces=len(pieces), gone=gone[0].name),
                "Put all pieces into one folder.",
            )
        )
    return joined(usable(read_header(piece)) for piece in pieces)


def pieces_of(path: Path) -> list[Path]:
    """All files of a model that is cut into pieces (``model-00001-of-00003.safetensors``); of others the file itself."""
    found = PIECE.fullmatch(path.name)
    if found is None:
        return [path]
    return [path.with_name(f"{found['stem']}-{n:05d}-of-{found['count']}{found['end']}") for n in range(1, 1 + int(found["count"]))]


PIECE = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<end>\.\w+)")


def candidates(folder: Path, dtype: str) -> list[Path]:
    """Names that a part's weights may have, best first."""
    names = []
    for ending in ("safetensors", "bin"):
        for variant in PREFERENCE.get(dtype, PREFERENCE["fp32"]):
            for stem in STEMS:
                names += [
                    f"{stem}{variant}.{ending}",
                    f"{stem}.{ending}.index{variant}.json",
                    f"{stem}{variant}.{ending}.index.json",
                ]
    return [folder / name for name in dict.fromkeys(names)]


def usable(header: Header, where: str | None = None) -> Header:
    """The header itself; UserError where the file is missing, damaged, quantised or contains code."""
    place = where or str(header.path)
    if not header.readable:
        raise UserError(
            Problem(place, say("This file {fault}.", fault=header.detail), REMEDIES.get(header.kind, "Choose another file."))
        )
    scaled = any(name.endswith((".scale_weight", ".weight_scale", "scaled_fp8")) for name in header.shapes)
    if header.kind == FileKind.GGUF or scaled:
        form = "scaled 8-bit" if scaled else "GGUF"
        what = say("This is a {form} file: its weights are quantised and cannot be trained on.", form=form)
        raise UserError(Problem(place, what, REMEDIES[FileKind.GGUF]))
    return header


REMEDIES = {
    FileKind.MISSING: "Check the path; relative paths start from the folder that the program was started in.",
    FileKind.EMPTY: "Download it again.",
    FileKind.CUT_OFF: "The download was cut off: download it again.",
    FileKind.WEB_PAGE: "Open the link in a browser, log in if it asks for that, and download the file itself.",
    FileKind.LFS_POINTER: "Run `git lfs pull` in its folder, or download the file itself.",
    FileKind.UNSAFE: "Take the .safetensors version of this model; a .ckpt can run any program when it is opened.",
    FileKind.UNREADABLE: "Choose a .safetensors or .ckpt checkpoint, or a diffusers folder.",
    FileKind.GGUF: "Take the .safetensors version of this model (fp16 or bf16).",
}


def joined(headers: Iterable[Header]) -> Header:
    """Several files as one."""
    headers = list(headers)
    return headers[0] if len(headers) == 1 else join(headers[0].path or Path(), headers)
