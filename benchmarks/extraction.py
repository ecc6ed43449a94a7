"""How much memory a LoRA extraction takes, and whether it grows with the models' files.

    python benchmarks/extraction.py                          two pairs of files in FLUX.1's shapes, 2.5 and 5 GB a file
    python benchmarks/extraction.py --threads 2 --dim 16
    python benchmarks/extraction.py --blocks 19 38           one pair of FLUX.1 whole (24 GB a file: mind the disk)

The files hold random bfloat16 weights in the original spelling; the tuned one differs by a product of rank 8 in every matrix.
They are written layer by layer below ``--folder`` and removed afterwards. Each extraction runs in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import measure  # noqa: E402  (needs the path above)
import torch  # noqa: E402

from library.lorafile.rewrite import stream  # noqa: E402

Shapes = dict[str, tuple[int, ...]]
PAIRS = ((2, 4), (4, 8))
"""Double and single blocks of the pairs that are compared."""


def shapes(double: int, single: int) -> Shapes:
    """Tensors of a FLUX.1 file with so many blocks, as this program's table of the original has them."""
    from library.families import flux1, source, weights

    config = dict(source.asset("flux1.json")["transformer"]) | {"num_layers": double, "num_single_layers": single}
    from diffusers import FluxTransformer2DModel

    model = weights.empty(lambda: FluxTransformer2DModel.from_config(config))
    table = flux1.native_modules(config)
    found: Shapes = {}
    for name, tensor in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        original, rest = table[path].tensor(leaf), tuple(tensor.shape[1:])
        found[original] = (found.get(original, (0,))[0] + tensor.shape[0], *rest)
    return found


def parts(name: str, shape: tuple[int, ...], is_tuned: bool) -> torch.Tensor:
    """A tensor of one of the two files, the same for the same name."""
    generator = torch.Generator().manual_seed(sum(ord(c) * 31 ** (i % 7) for i, c in enumerate(name)))
    weight = torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)
    if is_tuned and len(shape) == 2:
        up, down = torch.randn(shape[0], 8, generator=generator), torch.randn(8, shape[1], generator=generator)
        for rows, left in zip(weight.split(1024), up.split(1024), strict=True):
            rows.copy_(rows.float() + left @ down * 0.005)
    return weight


def write(path: Path, found: Shapes, is_tuned: bool) -> float:
    """Write one file; its size in GB."""
    stream(path, {name: ("BF16", shape) for name, shape in found.items()}, {}, lambda n: parts(n, found[n], is_tuned))
    return path.stat().st_size / 1e9


def pairs(folder: Path, blocks: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, Path, Path]]:
    """(what it is, original, tuned) of each pair; only one pair is on the disk at a time."""
    for double, single in blocks:
        found = shapes(double, single)
        files = folder / "before.safetensors", folder / "after.safetensors"
        needed = 2 * 2 * sum(int(torch.Size(shape).numel()) for shape in found.values())
        free = shutil.disk_usage(folder).free
        if free < 1.2 * needed:
            raise SystemExit(f"{needed / 1e9:.0f} GB are needed in {folder}, {free / 1e9:.0f} GB are free")
        sizes = [write(path, found, number > 0) for number, path in enumerate(files)]
        yield f"2 files of {sizes[0]:.1f} GB ({double} + {single} blocks)", *files
        for path in files:
            path.unlink()


def main() -> None:
    """Make each pair, extract, tell the peak."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", type=int, nargs=2, action="append", metavar=("DOUBLE", "SINGLE"), help="sizes of a pair")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="processor threads")
    parser.add_argument("--dim", type=int, default=16, help="rank of the LoRA")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for what, before, after in pairs(Path(folder), tuple(map(tuple, args.blocks or PAIRS))):
            for threads in args.threads:
                command = measure.script_with_peak(ROOT / "networks" / "flux_extract_lora.py", [
                    f"--model_org={before}", f"--model_tuned={after}", f"--save_to={folder}/lora.safetensors",
                    "--save_precision=bf16", f"--dim={args.dim}", "--clamp_quantile=1"])
                seconds, told = measure.run(command, OMP_NUM_THREADS=str(threads))
                kept = os.path.getsize(f"{folder}/lora.safetensors") / 1e6
                print(f"{what}, {threads} thread(s): peak {measure.peak(told):.2f} GB, {seconds:.0f} s, LoRA {kept:.0f} MB; "
                      f"{told.strip().splitlines()[0].rpartition(': ')[2]}", flush=True)


if __name__ == "__main__":
    main()
