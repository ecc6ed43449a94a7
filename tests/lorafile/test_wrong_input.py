"""Every command for LoRA files meets every wrong input with a frame and code 1, and what lies at the output stays as it was."""

import errno
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from networks import keys
from tests.lorafile import lora_files as made
from tests.lorafile.test_commands import ROOT, run

MODEL = ROOT / "examples" / "tiny-sd"
OUT, GOOD = "out.safetensors", "good.safetensors"
# Command -> its arguments where X is the wrong file; OUT lies there already.
READS_A_LORA = {
    "networks/resize_lora.py": ["--model", "X", "--save_to", OUT, "--new_rank", "2"],
    "networks/merge_lora.py": ["--models", "X", GOOD, "--ratios", "1", "1", "--concat", "--save_to", OUT],
    "networks/merge_lora.py second": ["--models", GOOD, "X", "--ratios", "1", "1", "--save_to", OUT],
    "networks/merge_lora.py no_overlap": ["--models", GOOD, "X", "--ratios", "1", "1", "--no_overlap", "--save_to", OUT],
    "networks/merge_lora.py model": ["--sd_model", str(MODEL), "--models", "X", "--ratios", "1", "--save_to", "out"],
    "networks/merge_lora_old.py": ["--models", "X", GOOD, "--ratios", "1", "1", "--save_to", OUT],
    "networks/sdxl_merge_lora.py": ["--models", "X", GOOD, "--ratios", "1", "1", "--save_to", OUT],
    "networks/flux_merge_lora.py": ["--models", "X", GOOD, "--ratios", "1", "1", "--save_to", OUT],
    "networks/svd_merge_lora.py": ["--models", "X", GOOD, "--ratios", "1", "1", "--save_to", OUT],
    "networks/extract_lora_from_dylora.py": ["--model", "X", "--unit", "2", "--save_to", OUT],
    "networks/convert_lora.py": ["X", "--to", "diffusers", "--family", "sd1", "--save_to", OUT],
    "networks/convert_flux_lora.py": ["--src", "sd-scripts", "--dst", "ai-toolkit", "--src_path", "X", "--dst_path", OUT],
    "networks/convert_anima_lora_to_comfy.py": ["X", OUT],
    "networks/convert_hunyuan_image_lora_to_comfy.py": ["X", OUT],
    "networks/check_lora_weights.py": ["X"],
    "networks/lora_interrogator.py": ["--sd_model", str(MODEL), "--model", "X"],
    "tools/lora_info.py": ["X"],
    "tools/lora_info.py compare": [GOOD, "--compare", "X"],
}
READS_A_MODEL = {
    "networks/merge_lora.py": ["--sd_model", "X", "--models", GOOD, "--ratios", "1", "--save_to", OUT],
    "networks/sdxl_merge_lora.py": ["--sd_model", "X", "--models", GOOD, "--ratios", "1", "--save_to", OUT],
    "networks/flux_merge_lora.py": ["--flux_model", "X", "--models", GOOD, "--ratios", "1", "--save_to", OUT],
    "networks/extract_lora_from_models.py": ["--model_org", "X", "--model_tuned", str(MODEL), "--save_to", OUT],
    "networks/extract_lora_from_models.py tuned": ["--model_org", str(MODEL), "--model_tuned", "X", "--save_to", OUT],
    "networks/flux_extract_lora.py": ["--model_org", "X", "--model_tuned", "X", "--save_to", OUT],
    "networks/lora_interrogator.py": ["--sd_model", "X", "--model", GOOD],
    "tools/merge_models.py": ["--models", "model.safetensors", "X", "--output", OUT],
    "tools/merge_models.py first": ["--models", "X", "model.safetensors", "--output", OUT],
    "tools/convert_diffusers20_original_sd.py": ["X", OUT],
}


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self):
        return (Path.touch, (Path("burst"),))


def _cut(path: Path) -> None:
    path.write_bytes(Path(GOOD).read_bytes()[:-50])


def _half(path: Path) -> None:
    save_file({k: t for k, t in load_file(GOOD).items() if not k.endswith(keys.UP)}, path)


def _ill_fitting(path: Path) -> None:
    tensors = load_file(GOOD)
    key = next(k for k in tensors if k.endswith(keys.UP))
    save_file(tensors | {key: tensors[key][:, :-1].contiguous()}, path)


NO_FILE_OF_TENSORS = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<!doctype html><html>404</html>", encoding="utf-8"),
    "cut short": _cut,
    "a pickle with code": lambda path: path.write_bytes(pickle.dumps({"a": Bomb()})),
    "no header": lambda path: path.write_bytes(b"\x40\0\0\0\0\0\0\0{" + b"x" * 200),
}
NO_LORA = NO_FILE_OF_TENSORS | {
    "half a LoRA": _half,
    "parts that do not fit": _ill_fitting,
    "a model": lambda path: save_file({"model.diffusion_model.a.weight": torch.zeros(3, 3)}, path),
}
NO_MODEL = NO_FILE_OF_TENSORS | {
    "a LoRA": lambda path: shutil.copyfile(GOOD, path),
    "another thing": lambda path: save_file({"something.weight": torch.zeros(3, 3)}, path),
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made.saved(tmp_path / GOOD, made.lora(4))
    save_file({"model.diffusion_model.a.weight": torch.zeros(3, 3), "something.weight": torch.zeros(3)}, "model.safetensors")
    return tmp_path


def refused(capsys, script: str, argv: list[str]) -> str:
    """Run a command that must refuse; everything it said, on one line."""
    Path(OUT).write_bytes(b"as it was")
    there = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    assert run(script.split()[0], *argv) == 1
    told = capsys.readouterr()
    assert "What to do" in told.err and "Traceback" not in told.err + told.out
    assert {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()} == there
    return " ".join(told.err.replace("┃", " ").split())


@pytest.mark.parametrize("wrong", NO_LORA)
@pytest.mark.parametrize("command", READS_A_LORA)
def test_what_is_no_lora_is_refused_and_nothing_is_written(command, wrong, capsys):
    NO_LORA[wrong](Path("x.safetensors"))
    told = refused(capsys, command, [word if word != "X" else "x.safetensors" for word in READS_A_LORA[command]])
    assert "x.safetensors" in told


@pytest.mark.parametrize("wrong", NO_MODEL)
@pytest.mark.parametrize("command", READS_A_MODEL)
def test_what_is_no_model_is_refused_and_nothing_is_written(command, wrong, capsys):
    NO_MODEL[wrong](Path("x.safetensors"))
    refused(capsys, command, [word if word != "X" else "x.safetensors" for word in READS_A_MODEL[command]])


@pytest.mark.parametrize("command", [c for c, argv in {**READS_A_LORA, **READS_A_MODEL}.items() if OUT in argv])
def test_a_file_is_never_written_over_itself(command, capsys):
    argv = READS_A_LORA.get(command) or READS_A_MODEL[command]
    shutil.copyfile(GOOD, "x.safetensors")
    same = [{"X": "x.safetensors", OUT: "./x.safetensors"}.get(word, word) for word in argv]
    assert "read, too" in refused(capsys, command, same)


@pytest.mark.parametrize("command", [c for c, argv in READS_A_LORA.items() if {GOOD, "sd1", str(MODEL)} & set(argv)])
def test_another_familys_file_is_refused(command, capsys):
    made.saved(Path("x.safetensors"), {f"lora_unet_double_blocks_0_img_attn_proj.{suffix}": tensor for suffix, tensor in (
        (keys.DOWN, torch.ones(4, 3072)), (keys.UP, torch.ones(3072, 4)), (keys.ALPHA, torch.tensor(4.0)))}, {})
    refused(capsys, command, [word if word != "X" else "x.safetensors" for word in READS_A_LORA[command]])


def test_ranks_that_differ_are_named_with_the_way_out(capsys):
    made.saved(Path("x.safetensors"), made.lora(2))
    told = refused(capsys, "networks/merge_lora.py", READS_A_LORA["networks/merge_lora.py second"][:1] + [
        GOOD, "x.safetensors", "--ratios", "1", "1", "--save_to", OUT])
    assert "rank 4 and 2" in told and "--concat" in told


@pytest.mark.parametrize("name", ["folder.safetensors", "out.txt", "good.safetensors/x.safetensors"])
def test_an_output_that_cannot_be_written_is_refused(name, capsys):
    Path("folder.safetensors").mkdir()
    refused(capsys, "networks/resize_lora.py", ["--model", GOOD, "--save_to", name, "--new_rank", "2"])


def test_a_full_disk_is_said_so_and_leaves_what_was_there(capsys, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    Path(OUT).touch()
    assert run("networks/resize_lora.py", "--model", GOOD, "--save_to", OUT, "--new_rank", "2") == 1
    assert "The disk is full" in capsys.readouterr().err
    assert sorted(p.name for p in Path().iterdir()) == ["good.safetensors", "model.safetensors", OUT]
