"""Headers of model files: what they hold, and what is wrong with them, without torch."""

from __future__ import annotations

import collections
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from library.util.header import FileKind, Place, read_header

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.ones(5).half(),
    "n": torch.tensor(3),
    "t.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
}


class Evil:
    def __reduce__(self):
        return (eval, ("1+1",))


def read(place: Place) -> torch.Tensor:
    dtype = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64}[place.dtype]
    raw = place.path.read_bytes()[place.offset : place.offset + place.nbytes]
    flat = torch.frombuffer(bytearray(raw), dtype=dtype)
    return flat.as_strided(place.shape, place.stride) if place.stride else flat.reshape(place.shape)


def save_as(path: Path, kind: str) -> Path:
    if kind == "safetensors":
        save_file({n: t.contiguous() for n, t in TENSORS.items()}, path, {"format": "pt", "note": "x"})
    elif kind == "nested":
        torch.save(
            {"state_dict": collections.OrderedDict(TENSORS), "optimizer_states": [{"x": torch.ones(2)}], "epoch": 1},
            path,
        )
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind != "legacy")
    return path


@pytest.mark.parametrize("kind", ["safetensors", "zip", "nested", "legacy"])
def test_every_tensor_is_found_at_its_place(tmp_path: Path, kind: str) -> None:
    header = read_header(save_as(tmp_path / "model.bin", kind))
    assert header.readable, header.detail
    assert dict(header.shapes) == {n: tuple(t.shape) for n, t in TENSORS.items()}
    assert all(torch.equal(read(header.places[n]), t) for n, t in TENSORS.items())


def test_headers_are_read_without_torch(tmp_path: Path) -> None:
    path = save_as(tmp_path / "model.ckpt", "zip")
    code = (
        "import sys; sys.modules['torch'] = None; from library.util.header import read_header; "
        f"h = read_header({str(path)!r}); assert len(h.shapes) == 4 and h.readable"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_metadata_of_safetensors_is_read(tmp_path: Path) -> None:
    assert read_header(save_as(tmp_path / "m.safetensors", "safetensors")).metadata == {"format": "pt", "note": "x"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", FileKind.EMPTY),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", FileKind.LFS_POINTER),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", FileKind.WEB_PAGE),
        (b'{"error":"Unauthorized"}', FileKind.WEB_PAGE),
        (b"hello world, this is no model", FileKind.UNREADABLE),
        (struct.pack("<Q", 10_000) + b'{"a":{"dtype":"F32"', FileKind.CUT_OFF),
        (struct.pack("<Q", 20) + b'{"a":{"dtype":"F32" ', FileKind.UNREADABLE),
        (b"PK\x03\x04half an archive", FileKind.CUT_OFF),
    ],
)
def test_a_file_that_is_no_model_is_called_what_it_is(tmp_path: Path, content: bytes, kind: FileKind) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    header = read_header(path)
    assert header.kind == kind and not header.readable and not header.shapes and header.detail


def test_a_cut_off_download_tells_both_sizes(tmp_path: Path) -> None:
    path = save_as(tmp_path / "m.safetensors", "safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    header = read_header(path)
    assert header.kind == FileKind.CUT_OFF
    assert (header.size, header.expected_size) == (len(whole) - 10, len(whole))


def test_missing_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    assert read_header(tmp_path / "no.safetensors").kind == FileKind.MISSING
    assert read_header(tmp_path).kind == FileKind.FOLDER


def test_a_sharded_model_is_one_header_and_a_missing_shard_is_named(tmp_path: Path) -> None:
    for i, name in enumerate(("a.weight", "b")):
        save_file({name: TENSORS[name]}, tmp_path / f"m-{i}.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a.weight": "m-0.safetensors", "b": "m-1.safetensors"}}), encoding="utf-8"
    )
    header = read_header(index)
    assert header.kind == FileKind.SHARDED and set(header.shapes) == {"a.weight", "b"}
    assert torch.equal(read(header.places["b"]), TENSORS["b"])
    (tmp_path / "m-1.safetensors").unlink()
    assert "m-1.safetensors" in read_header(index).detail


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_unsafe_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "m.ckpt"
    if legacy:
        with path.open("wb") as file:
            for value in (0x1950A86A20F9469CFC6C, 1001, {}, {"w": Evil()}, []):
                pickle.dump(value, file, protocol=2)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", pickle.dumps({"w": Evil()}, protocol=2))
    header = read_header(path)
    assert header.kind == FileKind.UNSAFE and "eval" in header.detail


def test_training_records_in_a_checkpoint_are_ignored(tmp_path: Path) -> None:
    import argparse

    path = tmp_path / "m.ckpt"
    torch.save(
        {
            "state_dict": {"w": torch.ones(2)},
            "hyper": argparse.Namespace(a=1),
            "counts": collections.Counter("ab"),
            "device": torch.device("cpu"),
            "size": torch.Size([1]),
        },
        path,
    )
    assert read_header(path).shapes == {"w": (2,)}


def test_gguf_names_and_shapes_are_read_in_torchs_order(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    content = (
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("general.architecture") + struct.pack("<I", 8) + text("flux")
    )
    content += text("img_in.weight") + struct.pack("<I", 2) + struct.pack("<QQ", 64, 3072) + struct.pack("<IQ", 12, 0)
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    header = read_header(path)
    assert header.kind == FileKind.GGUF and header.shapes == {"img_in.weight": (3072, 64)}
    assert header.metadata == {"general.architecture": "flux"} and header.dtypes["img_in.weight"] == "quantised (12)"


def test_slices_and_transposes_of_a_place_read_the_right_numbers(tmp_path: Path) -> None:
    place = read_header(save_as(tmp_path / "m.safetensors", "safetensors")).places["a.weight"]
    assert torch.equal(read(place.rows(2, 3)), TENSORS["a.weight"][2:3])
    assert torch.equal(read(place.transposed()), TENSORS["a.weight"].t())
