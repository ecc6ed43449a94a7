"""Two sliders in one file: how much they overlap, and what each then moves, with and without ``--no_overlap``.

    python benchmarks/slider_merge.py                                     trains size and brightness, a few minutes
    python benchmarks/slider_merge.py --files SIZE BRIGHTNESS             measures two files

Overlap is the part of the second slider's change that reads inputs which the first reads, too. Drawn at strength 1: each
alone, and both merged by --concat and by --no_overlap; what is told is the mean change of size and brightness against 0, in
the units of benchmarks/sliders.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import sliders  # noqa: E402  (needs the path above)

from library.lorafile import file, merge  # noqa: E402

NAMES = ("size", "brightness")


def both(pair: list[Path], apart: bool, target: Path) -> Path:
    """The two files merged, exactly or without overlap."""
    every = merge.shares(list(map(str, pair)), [1.0, 1.0])
    if apart:
        plain, every = every, merge.orthogonal(every)
        print(f"overlap of {NAMES[1]} with {NAMES[0]}: {merge.overlap(plain[1], every[1]):.1%} before, "
              f"{merge.overlap(every[1], merge.orthogonal(every)[1]):.2%} after")
    modules = merge.concatenated(every)
    file.write(file.Output(target), file.spelled(modules, "kohya"), {"ss_base_model_version": "sd_v1"})
    return target


def moved(target: Path, drawing: sliders.Drawing) -> dict[str, float]:
    """Mean change of each attribute at strength 1, on prompts that say nothing of either."""
    attribute = sliders.ATTRIBUTES[NAMES[1]]
    pipeline = sliders.loaded()
    prompts = [prompt for prompt, _ in sliders.held_out(attribute, drawing)]
    before = sliders.drawn(pipeline, prompts, drawing)
    pipeline.load_lora_weights(target.parent, weight_name=target.name)
    after = sliders.drawn(pipeline, prompts, drawing)
    return {name: statistics.fmean(sliders.reading(name, b, 0.0) - sliders.reading(name, a, 0.0)
                                   for a, b in zip(before, after, strict=True)) for name in NAMES}


def main() -> None:
    """Train unless files are given, merge both ways, draw, tell."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=Path, nargs=2, metavar=("SIZE", "BRIGHTNESS"), help="two slider files")
    parser.add_argument("--prompts", type=int, default=40, help="pictures a file")
    args = parser.parse_args()
    drawing = sliders.Drawing(prompts=args.prompts)
    with tempfile.TemporaryDirectory() as folder:
        pair = args.files or [sliders.trained(sliders.ATTRIBUTES[name], sliders.SCHEMES["text"], Path(folder) / name, ())[0]
                              for name in NAMES]
        files = {f"{NAMES[0]} alone": pair[0], f"{NAMES[1]} alone": pair[1],
                 "both, --concat": both(pair, False, Path(folder) / "concat.safetensors"),
                 "both, --no_overlap": both(pair, True, Path(folder) / "apart.safetensors")}
        for what, path in files.items():
            print(f"{what:22} " + ", ".join(f"{name} {change:+.3f}" for name, change in moved(path, drawing).items()), flush=True)


if __name__ == "__main__":
    main()
