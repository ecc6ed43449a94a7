"""Seconds from the command to the first step, beside the bare imports of the same packages; and `--help`.

    python benchmarks/startup.py                        # the model that ships here
    python benchmarks/startup.py --model MODEL          # a full-size Stable Diffusion 1.5 too

Imports and starts are measured in turn, in processes of their own; what counts is the median difference of the pairs,
because the imports alone vary by seconds on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

IMPORTS = """
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
"""
FIRST_EPOCH = "epoch 1/"
"""The line that the trainer prints when everything is ready and the first step is about to begin."""
SCRIPT = str(measure.ROOT / "train_network.py")


def until(command: list[str], sign: str) -> float:
    """Seconds until a command prints a line that begins with ``sign``; the command is then let run to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=measure.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               encoding="utf-8", errors="replace", env=os.environ | {"PYTHONUNBUFFERED": "1"})
    seen, lines = None, []
    for line in process.stdout:
        lines.append(line)
        if seen is None and line.startswith(sign):
            seen = time.perf_counter() - start
    if process.wait() or seen is None:
        raise SystemExit("".join(lines[-40:]) + f"\n{' '.join(command)} ended with code {process.returncode}, "
                         f"{'' if seen else 'and never printed ' + repr(sign)}")
    return seen


def seconds(command: list[str], times: int) -> list[float]:
    return [measure.run(command)[0] for _ in range(times)]


def first_step(model: Path, side: int, times: int, folder: Path) -> list[tuple[float, float]]:
    """(seconds of the bare imports, seconds of the trainer to its first step), in turn."""
    args = measure.arguments(model, measure.pictures(folder, side), folder / "out", f"--resolution={side},{side}",
                             "--max_train_steps=1")
    pairs = []
    for _ in range(times):
        bare = measure.run([sys.executable, "-c", IMPORTS])[0]
        pairs.append((bare, until([sys.executable, SCRIPT, *args], FIRST_EPOCH)))
    return pairs


def show(name: str, pairs: list[tuple[float, float]]) -> None:
    bare, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
    more = statistics.median(b - a for a, b in pairs)
    print(f"{name:14s} bare imports {bare:.2f} s, to the first step {whole:.2f} s, median difference {more:.2f} s "
          f"({', '.join(f'{b - a:.2f}' for a, b in pairs)})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a full-size Stable Diffusion 1.5 in diffusers' layout")
    parser.add_argument("--times", type=int, default=5, help="how often each is measured (default 5)")
    asked = parser.parse_args()
    print(measure.machine())
    help_alone = seconds([sys.executable, SCRIPT, "--help"], asked.times)
    launched = seconds([sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", SCRIPT, "--help"],
                       asked.times)
    print(f"--help         {statistics.median(help_alone):.2f} s (least {min(help_alone):.2f}); an empty Python "
          f"{statistics.median(seconds([sys.executable, '-c', 'pass'], asked.times)):.2f} s; accelerate launch adds "
          f"{statistics.median(launched) - statistics.median(help_alone):.2f} s of its own", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        show("shipped model", first_step(measure.ROOT / "examples" / "tiny-sd", 64, asked.times, Path(name)))
        if asked.model:
            show("full size", first_step(asked.model.resolve(), 64, asked.times, Path(name)))


if __name__ == "__main__":
    main()
