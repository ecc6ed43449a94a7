"""How much faster the LoRA tools are than the full singular value decomposition of every layer, and how exact.

    python benchmarks/lora_tools.py                  # SDXL's layers, one of each size; a few minutes
    python benchmarks/lora_tools.py --device cuda

Resize: rank 128 -> 32. Merge: two files of rank 64 -> 32. Extraction: rank 32 of a difference whose singular values fall
like those of a fine-tuned model (1 / n^0.7). "Full" is what kohya's tools do: multiply out, then torch.linalg.svd. Both
ways run on the same layers, in turn; the result is the ratio of the sums over SDXL's 722 U-Net layers, each size weighted
by how often it occurs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from library.lorafile import factors, kinds, merge, resize
from library.lorafile.file import LoraFile
from networks import keys

SIZES = Counter({(1280, 1280): 300, (1280, 2048): 120, (10240, 1280): 60, (1280, 5120): 60, (640, 640): 90, (640, 2048): 40,
                 (5120, 640): 20, (640, 2560): 20})
"""(outputs, inputs) of SDXL's attention and feed-forward layers -> how many; those of a few layers are left out."""

ECONOMY = False
"""Whether the full way leaves out the parts of U and V that nobody uses; kohya's tools do not."""


def layer(rows: int, columns: int, rank: int, seed: int, device: str) -> dict[str, torch.Tensor]:
    """kohya's tensors of one module, of singular values that fall as a trained one's do."""
    g = torch.Generator().manual_seed(seed)
    fall = torch.arange(1, rank + 1).float() ** -0.5
    down, up = torch.randn(rank, columns, generator=g) * fall[:, None], torch.randn(rows, rank, generator=g) * 0.01
    return {keys.DOWN: down.to(device), keys.UP: up.to(device), keys.ALPHA: torch.tensor(float(rank) / 2)}


def as_file(parts: dict[str, torch.Tensor]) -> LoraFile:
    return LoraFile({"lora_unet_x": parts}, {}, keys.Identity("lora", "kohya", 1), Path("x.safetensors"))


def timed(function: Callable[[], object], device: str, repeats: int) -> tuple[float, object]:
    """(median seconds, result); the processor's seconds on a CPU, which other work on the machine does not lengthen."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds, result = [], None
    for _ in range(repeats):
        start = clock()
        result = function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return statistics.median(seconds), result


def values_of(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """Singular values of what a module amounts to."""
    whole = kinds.product("x", parts)
    return factors.thin_svd(whole.up, whole.down).values


def full_way(matrix: Callable[[], torch.Tensor], rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """kohya's tools: the whole product, its whole decomposition (with --economy without the square U and V), then the cut."""
    left, values, right = torch.linalg.svd(matrix(), full_matrices=not ECONOMY)
    return left[:, :rank] * values[:rank], right[:rank], values


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference of singular values, relative to the largest."""
    count = min(len(ours), len(theirs))
    return float((ours[:count].cpu() - theirs[:count].cpu()).abs().max() / theirs[0].cpu())


def resizing(size: tuple[int, int], device: str) -> tuple[float, float, float]:
    parts = layer(*size, 128, 1, device)
    request = resize.ResizeRequest.of(32, device=device)
    fast, (modules, _) = timed(lambda: resize.resize(as_file(parts), request), device, 5)
    slow, (_, _, values) = timed(lambda: full_way(lambda: parts[keys.UP] @ parts[keys.DOWN], 32), device, 1)
    return fast, slow, off(values_of(modules["lora_unet_x"]), values[:32] * 0.5)


def merging(size: tuple[int, int], device: str) -> tuple[float, float, float]:
    both = [layer(*size, 64, seed, device) for seed in (1, 2)]
    shares = [merge.Share(as_file(parts), ratio) for parts, ratio in zip(both, (0.7, 0.4), strict=True)]
    fast, modules = timed(lambda: merge.svd_merged(shares, 32, device=device), device, 5)
    whole = lambda: sum(p[keys.UP] @ p[keys.DOWN] * 0.5 * r for p, r in zip(both, (0.7, 0.4), strict=True))  # noqa: E731
    slow, (_, _, values) = timed(lambda: full_way(whole, 32), device, 1)
    return fast, slow, off(values_of(modules["lora_unet_x"]), values[:32])


def difference(rows: int, columns: int, device: str) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    size = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, size, generator=g)).Q.to(device)
    right = torch.linalg.qr(torch.randn(columns, size, generator=g)).Q.to(device)
    return (left * torch.arange(1, size + 1, device=device).float() ** -0.7) @ right.T


def extracting(size: tuple[int, int], device: str) -> tuple[float, float, float]:
    delta = difference(*size, device)
    fast, found = timed(lambda: factors.random_svd(delta, 32), device, 3)
    slow, (_, _, values) = timed(lambda: full_way(lambda: delta, 32), device, 1)
    error = math.sqrt(factors.lost(delta, *found.factors())[0])
    best = math.sqrt(float(values[32:].double().pow(2).sum()))
    return fast, slow, error / best - 1


def main() -> None:
    """Measure and print a line for each tool, and for each size with --verbose."""
    global ECONOMY
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many of the sizes, the most frequent first")
    parser.add_argument("--economy", action="store_true", help="against a full decomposition without the unused parts of U, V")
    parser.add_argument("--json", action="store_true", help="one line for programs")
    parser.add_argument("--verbose", action="store_true", help="a line for every size")
    args = parser.parse_args()
    ECONOMY = args.economy
    told = {}
    for name, tool, word in (("resize 128 -> 32", resizing, "singular values off by"),
                             ("merge 64 + 64 -> 32", merging, "singular values off by"),
                             ("extract 32", extracting, "error above the optimum")):
        fast = slow = worst = 0.0
        for size, count in SIZES.most_common(args.sizes):
            ours, theirs, error = tool(size, args.device)
            fast, slow, worst = fast + count * ours, slow + count * theirs, max(worst, error)
            if args.verbose:
                print(f"  {name:20} {size[0]:>5} x {size[1]:<5} {ours:8.4f} s against {theirs:8.3f} s: "
                      f"{theirs / ours:7.1f} times", flush=True)
        told[name] = {"seconds": fast, "seconds_full": slow, "times_faster": slow / fast, word.replace(" ", "_"): worst}
        if not args.json:
            print(f"{name:20} {fast:7.1f} s, full {slow:8.1f} s: {slow / fast:6.1f} times faster, {word} {worst:.2g}",
                  flush=True)
    if args.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
