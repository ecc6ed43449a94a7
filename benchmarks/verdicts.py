"""Seconds from launch to verdict for twenty bad runs: ``python benchmarks/verdicts.py``.

Each run is ``python train_network.py`` with one mistake, in a process of its own, after one run that warms the disk cache. The
column "stops by" is the check that ended it. Runs that need PyTorch are measured against the bare import of torch.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOOD = ["--train_data_dir=data", "--output_dir=out", "--network_module=networks.lora", "--network_dim=4", "--resolution=64,64",
        "--learning_rate=1e-4", "--max_train_steps=100", "--caption_extension=.txt", "--enable_bucket", "--min_bucket_reso=64",
        "--seed=1"]
MODEL = "--pretrained_model_name_or_path="


def make_world(folder: Path) -> None:
    """Pictures, a copy of the shipped model, and wrecks of models."""
    from PIL import Image

    for n in range(8):
        path = folder / "data" / "2_cat" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64 + 8 * n, 64), (n * 30, 80, 80)).save(path)
        path.with_suffix(".txt").write_text("cat, red", encoding="utf-8")
    shutil.copytree(ROOT / "examples" / "tiny-sd", folder / "model")
    shutil.copytree(ROOT / "examples" / "tiny-sd", folder / "incomplete", ignore=shutil.ignore_patterns("vae"))
    weights = next((folder / "model" / "unet").glob("*.safetensors")).read_bytes()
    for name, data in {"half": weights[: len(weights) // 2], "page": b"<!DOCTYPE html><html>login</html>", "empty": b"",
                       "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"}.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    (folder / "deep").mkdir()
    (folder / "nothing" / "10_empty").mkdir(parents=True)
    (folder / "bad.toml").write_text("learing_rate = 1e-4\n", encoding="utf-8")
    (folder / "broken.toml").write_text("a = = 1\n", encoding="utf-8")


def change(*words: str, without: tuple[str, ...] = (), model: str = "model") -> Callable[[], list[str]]:
    """The good command with words more and some less."""
    return lambda: [MODEL + model, *(w for w in GOOD if not w.startswith(without or ("\0",))), *words]


RUNS: dict[str, Callable[[], list[str]]] = {
    "wrong model path": change(model="models/none.safetensors"),
    "half a model file": change(model="half.safetensors"),
    "web page as model": change(model="page.safetensors"),
    "empty model file": change(model="empty.safetensors"),
    "Git LFS pointer": change(model="pointer.safetensors"),
    "incomplete diffusers folder": change(model="incomplete"),
    "part of a diffusers folder": change(model="model/unet"),
    "no data folder": change("--train_data_dir=dta"),
    "one level too deep": change("--train_data_dir=data/2_cat"),
    "no pictures": change("--train_data_dir=nothing"),
    "picture sizes without buckets": change(without=("--enable_bucket",)),
    "no --resolution": change(without=("--resolution",)),
    "unknown flag": change("--network_dimm=4"),
    "bad number": change("--max_train_steps=many"),
    "unknown optimizer": change("--optimizer_type=AdmW"),
    "unknown schedule": change("--lr_scheduler=cosinee"),
    "missing module": change("--network_module=networks.nonexistent"),
    "network_args without =": change("--network_args", "conv_dim"),
    "misspelt key in --config_file": change("--config_file=bad.toml"),
    "--config_file that is no TOML": change("--config_file=broken.toml"),
}
NEEDS_TORCH = {"8-bit optimizer without a GPU": change("--optimizer_type=AdamW8bit")}


def measure(folder: Path, words: list[str]) -> tuple[float, int, str]:
    """(seconds, exit code, last line) of one run."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, str(ROOT / "train_network.py"), *words], cwd=folder, capture_output=True, text=True,
                          encoding="utf-8", errors="replace")
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return time.perf_counter() - began, done.returncode, lines[-1] if lines else ""


def main() -> None:
    """Print the table."""
    folder = Path(tempfile.mkdtemp())
    make_world(folder)
    measure(folder, change(model="none.safetensors")())
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    print(f"bare import of torch: {time.perf_counter() - began:.2f} s\n")
    print("| mistake | seconds | exit | last line |\n|---|---|---|---|")
    for name, words in {**RUNS, **NEEDS_TORCH}.items():
        seconds, code, last = measure(folder, words())
        print(f"| {name} | {seconds:.2f} | {code} | {last[:110]} |", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
