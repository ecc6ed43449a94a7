"""What the benchmarks share: pictures to train on, command lines, clocks and memory of processes of their own."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CAPTIONS = [f"riho, {rest}" for rest in ("smile, outdoors", "sitting, white background", "long hair, blue eyes, standing",
                                         "school uniform, red ribbon")]
PEAK = re.compile(r"peak memory: ([\d.]+) GB")


def pictures(folder: Path, side: int) -> Path:
    """Write a data folder of one picture of side x side pixels for each of CAPTIONS; returns the folder to train on."""
    from PIL import Image

    inner = folder / f"data{side}" / "10_riho"
    inner.mkdir(parents=True, exist_ok=True)
    for number, caption in enumerate(CAPTIONS):
        noise = random.Random(number).randbytes(side * side * 3)
        Image.frombytes("RGB", (side, side), noise).save(inner / f"{number}.png")
        (inner / f"{number}.txt").write_text(caption, encoding="utf-8")
    return inner.parent


def arguments(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    """The trainer's arguments that match the bare loop: fp32, dim 4, alpha 4, text encoder trained, batch 1."""
    return [f"--pretrained_model_name_or_path={model}", f"--train_data_dir={data}", f"--output_dir={output}",
            "--output_name=bench", "--caption_extension=.txt", "--network_module=networks.lora", "--network_dim=4",
            "--network_alpha=4", "--learning_rate=1e-4", "--optimizer_type=AdamW", "--mixed_precision=no", "--seed=1",
            "--train_batch_size=1", "--max_data_loader_n_workers=0", *more]


def tell_peak() -> None:
    """Print this process's greatest memory so far, for ``run`` to read."""
    print(f"peak memory: {peak_of_this_process():.2f} GB", flush=True)


def peak_of_this_process() -> float:
    """Greatest resident memory of this process so far, in GB (10^9 bytes): VmHWM, on Windows the peak working set."""
    import psutil

    info = psutil.Process().memory_info()
    if sys.platform == "win32":
        return info.peak_wset / 1e9
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


# Runs an entry script in this process, and prints the peak when it ends, however it ends.
SCRIPT_WITH_PEAK = """
import atexit, runpy, sys
sys.path.insert(0, {here!r})
import measure
atexit.register(measure.tell_peak)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def script_with_peak(script: Path, args: Sequence[str]) -> list[str]:
    """A command that runs a script with arguments and tells its peak memory."""
    return [sys.executable, "-c", SCRIPT_WITH_PEAK.format(here=str(ROOT / "benchmarks")), str(script), *args]


def run(command: Sequence[str], **environment: str) -> tuple[float, str]:
    """Run a command to its end: (seconds, everything it printed). SystemExit with its output where it fails."""
    start = time.perf_counter()
    done = subprocess.run(list(command), cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
                          check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with code {done.returncode}:\n{done.stdout[-4000:]}")
    return seconds, done.stdout


def peak(output: str) -> float:
    """The peak memory that a process told, in GB."""
    return float(PEAK.findall(output)[-1])


def machine() -> str:
    """One line about the machine and the versions measured."""
    from importlib.metadata import version

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers", "accelerate", "peft"))
    return f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {packages}"
