"""Writing, naming, hashing and removing what a run saves."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from pathlib import Path

import pytest
import torch

from library.config.run_config import HubConfig, SaveConfig
from library.save import hashes, hub, names, weights
from library.util import tensorfile
from library.util.secrets import has_secret, mask
from library.util.tensorfile import read_metadata, read_tensors


def _tensors() -> dict[str, torch.Tensor]:
    return {"b.lora_up.weight": torch.arange(6.0).reshape(2, 3), "a.alpha": torch.tensor(4.0)}


def test_file_holds_sorted_keys_metadata_and_both_hashes(tmp_path):
    path = tmp_path / "日本語 名.safetensors"
    saved = weights.save(weights.TensorFile(path, _tensors(), {"ss_b": "é", "modelspec.x": "1"}))
    assert saved.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_metadata(path) == saved.metadata
    assert set(saved.metadata) == {"ss_b", "modelspec.x", "sshs_model_hash", "sshs_legacy_hash"}
    (size,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert saved.metadata["sshs_model_hash"] == hashlib.sha256(path.read_bytes()[8 + size:]).hexdigest()
    assert size % 8 == 0
    assert all(torch.equal(v, _tensors()[k]) for k, v in read_tensors(path).items())
    from safetensors import safe_open
    with safe_open(path, "pt") as reader:
        assert list(reader.keys()) == ["a.alpha", "b.lora_up.weight"] and reader.metadata() == saved.metadata


def test_legacy_hash_is_of_64_kib_at_1_mib_of_the_file_with_ss_metadata_only(tmp_path):
    from safetensors.torch import save

    tensors = {"x.lora_up.weight": torch.randn(600, 600)}
    saved = weights.save(weights.TensorFile(tmp_path / "a.safetensors", tensors, {"ss_x": "1", "modelspec.y": "2"}))
    plain = save(tensors, {"ss_x": "1"})
    assert saved.metadata["sshs_legacy_hash"] == hashlib.sha256(plain[0x100000:0x110000]).hexdigest()[:8]


def test_same_tensors_give_the_same_bytes(tmp_path):
    many = {f"ss_{i}": str(i) for i in range(40)}
    for name in ("a", "b"):
        weights.save(weights.TensorFile(tmp_path / f"{name}.safetensors", _tensors(), many))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(("precision", "dtype"), [(None, torch.float32), ("fp16", torch.float16),
                                                  ("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("extension", ["safetensors", "pt", "ckpt"])
def test_precision_casts_alpha_too(tmp_path, precision, dtype, extension):
    path = tmp_path / f"a.{extension}"
    weights.save(weights.TensorFile(path, _tensors(), {}, precision))
    assert {t.dtype for t in read_tensors(path).values()} == {dtype}


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        tensorfile.write_atomically(path, fail)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_file_that_another_program_has_mapped_is_replaced(tmp_path, monkeypatch):
    """Windows refuses to overwrite a mapped file, allows to rename it, and refuses to delete it until it is closed."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    mapped = {"held": True}
    real_replace, real_unlink = os.replace, Path.unlink

    def replace(source, target):
        if mapped["held"] and Path(target) == path and path.exists():
            raise PermissionError(5, "Access is denied")
        real_replace(source, target)

    def unlink(self, missing_ok=False):
        if mapped["held"] and self.suffix == tensorfile.ASIDE:
            raise PermissionError(5, "Access is denied")
        real_unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    tensorfile.write_atomically(path, lambda temporary: temporary.write_bytes(b"new"))
    assert path.read_bytes() == b"new"
    mapped["held"] = False
    tensorfile.write_atomically(path, lambda temporary: temporary.write_bytes(b"newer"))
    assert path.read_bytes() == b"newer" and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_users_own_copy_beside_a_file_stays(tmp_path):
    path, copy = tmp_path / "a.safetensors", tmp_path / "a.safetensors.monday.old"
    copy.write_bytes(b"mine")
    tensorfile.write_atomically(path, lambda temporary: temporary.write_bytes(b"new"))
    assert copy.read_bytes() == b"mine"


def test_reading_leaves_no_mapping_behind(tmp_path):
    path = tmp_path / "a.safetensors"
    weights.save(weights.TensorFile(path, _tensors(), {}))
    tensors = read_tensors(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert float(tensors["a.alpha"]) == 4.0


def test_tensors_that_share_memory_are_written(tmp_path):
    base = torch.arange(4.0)
    weights.save(weights.TensorFile(tmp_path / "a.safetensors", {"x.alpha": base[1], "y.alpha": base[2]}, {}))
    assert float(read_tensors(tmp_path / "a.safetensors")["y.alpha"]) == 2.0


# ---------------------------------------------------------------------------------------------------------- hashes


def test_model_hashes_follow_their_formulas(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(0x120000))
    data = path.read_bytes()
    assert hashes.model_hash(path) == hashlib.sha256(data).hexdigest()
    assert hashes.model_hash_short(path) == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    assert hashes.model_hash(tmp_path) == hashes.model_hash_short(tmp_path) == "IsADirectory"
    assert hashes.source_name(str(path)) == "model.safetensors" and hashes.source_name("org/name") == "org/name"


# ----------------------------------------------------------------------------------------------------------- names


def test_names_have_kohyas_digits():
    n = names.FileNames.of(SaveConfig(Path("out"), "lineart_lora"))
    assert n.step(100) == "lineart_lora-step00000100.safetensors"
    assert n.step_state(100) == "lineart_lora-step00000100-state"
    assert (n.epoch(1), n.epoch_state(12)) == ("lineart_lora-000001.safetensors", "lineart_lora-000012-state")
    assert (n.last(), n.last_state()) == ("lineart_lora.safetensors", "lineart_lora-state")
    assert names.FileNames("a", "ckpt", 2).epoch(3) == "a-03.ckpt"


def _left(save: SaveConfig, steps: int) -> tuple[list[int], list[int]]:
    """Steps whose files and states are left after a run."""
    n = names.FileNames.of(save)
    files, states = {}, {}
    for step in range(save.every_n_steps, steps + 1, save.every_n_steps):
        files[n.step(step)], states[n.step_state(step)] = step, step
        old = names.outdated_by_step(save, step)
        files.pop(old.file, None)
        states.pop(old.state, None)
    return list(files.values()), list(states.values())


@pytest.mark.parametrize(("every", "keep", "keep_state", "files", "states"), [
    (10, None, None, [10, 20, 30, 40, 50], [10, 20, 30, 40, 50]),
    (10, 20, None, [30, 40, 50], [30, 40, 50]),
    (10, 25, 10, [30, 40, 50], [40, 50]),
    (30, 10, None, [60], [60]),
    (10, None, 20, [10, 20, 30, 40, 50], [30, 40, 50])])
def test_last_n_steps_keeps_the_files_of_so_many_steps(every, keep, keep_state, files, states):
    save = SaveConfig(Path("out"), "a", every_n_steps=every, last_n_steps=keep, last_n_steps_state=keep_state)
    assert _left(save, 60 if every == 30 else 50) == (files, states)


def test_last_n_epochs_keeps_so_many_files():
    save = SaveConfig(Path("out"), "a", every_n_epochs=2, last_n_epochs=2, last_n_epochs_state=1)
    assert names.outdated_by_epoch(save, 4, 2) == names.Outdated(None, "a-000002-state")
    assert names.outdated_by_epoch(save, 6, 2) == names.Outdated("a-000002.safetensors", "a-000004-state")
    assert names.outdated_by_epoch(SaveConfig(Path("out"), "a", every_n_epochs=2), 6, 2) == names.Outdated(None, None)


def test_epoch_ratio_gives_so_many_files():
    assert names.epochs_between_saves(SaveConfig(Path("out"), "a", n_epoch_ratio=5), 20) == 4
    assert names.epochs_between_saves(SaveConfig(Path("out"), "a", n_epoch_ratio=5), 3) == 1
    assert names.epochs_between_saves(SaveConfig(Path("out"), "a", every_n_epochs=3), 20) == 3


def test_remove_takes_files_and_folders_and_tolerates_absence(tmp_path):
    (tmp_path / "a").write_text("x", encoding="utf-8")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "b").write_text("x", encoding="utf-8")
    assert weights.remove(tmp_path / "a") and weights.remove(tmp_path / "s") and not weights.remove(tmp_path / "a")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(("text", "masked"), [
    ("token hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345 here", "token hf_*** here"),
    ("Authorization: Bearer abcDEF123456789", "Authorization: Bearer ***"),
    ("https://civitai.com/api/download/models/1?token=abc123def456&x=1",
     "https://civitai.com/api/download/models/1?token=***&x=1"),
    ("https://me:secret@host/x", "https://me:***@host/x"),
    ("WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567", "WANDB_API_KEY=***"),
    ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "ghp_***"),
    ("sk-proj-abcdefghijklmnop123", "sk-***")])
def test_what_is_shaped_like_a_secret_is_masked(text, masked):
    assert mask(text) == masked and has_secret(text)


@pytest.mark.parametrize("text", [
    "keep_tokens=1", "1girl, solo, riho", "max_token_length=225", "C:\\AI\\sd-scripts\\dataset", "hf_transfer",
    "class_tokens: riho girl",
    "148dce2d01421e4cd329c99594537a201f5644ae682f6fc6882826fda1c489c5", "runwayml/stable-diffusion-v1-5",
    '{"keep_tokens_separator": "|||"}', "keep_tokens: 1", "token_warmup_step=0.5"])
def test_ordinary_text_is_left_as_it_is(text):
    assert mask(text) == text and not has_secret(text)


# ------------------------------------------------------------------------------------------------------------- hub


class _FakeApi:
    def __init__(self, token=None):
        self.token, self.sent = token, []

    def create_repo(self, *args, **kwargs):
        self.sent.append(("create", args, kwargs))

    def upload_file(self, **kwargs):
        self.sent.append(("file", kwargs))
        if "fail" in kwargs["path_or_fileobj"]:
            raise ConnectionError("no route, Authorization: Bearer abcDEF123456789")

    def upload_folder(self, **kwargs):
        self.sent.append(("folder", kwargs))


@pytest.mark.parametrize("background", [False, True])
def test_uploads_go_under_the_path_in_the_repository(tmp_path, monkeypatch, caplog, background):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", _FakeApi)
    (tmp_path / "a.safetensors").write_bytes(b"x")
    (tmp_path / "a-state").mkdir()
    uploader = hub.Uploader(HubConfig("me/lora", "model", "private", "runs/1", async_upload=background), "t")
    uploader.prepare()
    uploader.upload(tmp_path / "a.safetensors")
    uploader.upload(tmp_path / "a-state")
    uploader.upload(tmp_path / "fail.safetensors")
    uploader.finish()
    kinds = [entry[0] for entry in uploader._api.sent]
    assert kinds == ["create", "file", "folder", "file"]
    assert uploader._api.sent[0][2]["private"] is True
    assert uploader._api.sent[1][1]["path_in_repo"] == "runs/1/a.safetensors"
    assert uploader._api.sent[2][1]["path_in_repo"] == "runs/1/a-state"
    assert "upload of fail.safetensors to me/lora failed" in caplog.text and "abcDEF" not in caplog.text


def test_stream_hash_reads_what_is_left():
    from library.util.hashing import sha256_of

    stream = io.BytesIO(b"abcdef")
    stream.read(3)
    assert sha256_of(stream) == hashlib.sha256(b"def").hexdigest()
