"""How well each kind of adapter learns the quickstart's new subject, how large its file is, and what a step costs.

    python benchmarks/adapters.py                      every adapter; about two minutes of one core each
    python benchmarks/adapters.py --only loha lokr     some of them
    python benchmarks/adapters.py --write benchmarks/adapters.json

Each trains with ``examples/quickstart.toml`` and its own arguments and learning rate (the table below), then draws with its
own module hung on the model: 40 pictures with the trigger, 100 without it on the same prompts and noise before and after.
A rate is a part of the pictures. A step's seconds are the processor's, of all threads, the start's few seconds spread over
the steps: what the clock says depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "examples")]

import learning  # noqa: E402  (needs the path above)
import world  # noqa: E402


@dataclass(frozen=True)
class Recipe:
    """One adapter as it is trained."""

    module: str
    args: dict[str, str] = field(default_factory=dict)
    dim: int = 16
    alpha: float = 16
    rate: float = 1e-3

    def flags(self) -> list[str]:
        words = [f"{name}={value}" for name, value in self.args.items()]
        return [f"--network_module={self.module}", f"--network_dim={self.dim}", f"--network_alpha={self.alpha}",
                f"--learning_rate={self.rate}", f"--text_encoder_lr={self.rate}", "--network_args", *words]


CONV = {"conv_dim": "8", "conv_alpha": "8"}
RECIPES: dict[str, Recipe] = {
    "LoRA with convolutions (LoCon)": Recipe("networks.lora", CONV),
    "LoRA": Recipe("networks.lora"),
    "DoRA": Recipe("networks.lora", CONV | {"dora_wd": "true"}),
    "rsLoRA": Recipe("networks.lora", {"conv_dim": "8", "conv_alpha": "2", "use_rslora": "true"}, alpha=4),
    "PiSSA": Recipe("networks.lora", CONV | {"init": "pissa"}, rate=5e-4),
    "LoRA from main directions": Recipe("networks.lora", CONV | {"init": "svd"}),
    "LoRA-FA": Recipe("networks.lora_fa", CONV, rate=2e-3),
    "DyLoRA": Recipe("networks.dylora", CONV | {"unit": "4"}, rate=2e-3),
    "LoHa": Recipe("networks.loha", {"conv_dim": "8", "conv_alpha": "8"}, dim=8, alpha=8),
    "LoKr": Recipe("networks.lokr", {"conv_dim": "16", "conv_alpha": "16", "factor": "4"}, rate=2e-3),
    "OFT": Recipe("networks.oft", {"enable_conv": "true", "enable_all_linear": "true"}, dim=4, alpha=10, rate=3e-4),
    "(IA)^3": Recipe("networks.ia3", {"include_patterns": ".*"}, dim=1, alpha=1, rate=2e-2),
    "lycoris: diag-oft": Recipe("lycoris.kohya", {"algo": "diag-oft"}, dim=16, rate=1e-3),
    "lycoris: BOFT": Recipe("lycoris.kohya", {"algo": "boft"}, dim=16, rate=3e-4),
    "lycoris: GLoRA": Recipe("lycoris.kohya", {"algo": "glora"}, dim=8, alpha=8),
    "lycoris: full": Recipe("lycoris.kohya", {"algo": "full"}, rate=3e-4),
    "lycoris: LoCon": Recipe("lycoris.kohya", CONV | {"algo": "locon"}),
    "lycoris: LoHa": Recipe("lycoris.kohya", CONV | {"algo": "loha"}, dim=8, alpha=8),
    "lycoris: LoKr": Recipe("lycoris.kohya", {"algo": "lokr", "factor": "4", "conv_dim": "16", "conv_alpha": "16"}),
    "lycoris: (IA)^3": Recipe("lycoris.kohya", {"algo": "ia3"}, dim=1, alpha=1, rate=2e-2),
}


def trained(name: str, recipe: Recipe, folder: Path) -> tuple[Path, dict[str, float]]:
    """Train; the file and what it cost."""
    stem = "".join(c for c in name if c.isalnum())
    begun = os.times()
    config = ROOT / "examples" / "quickstart.toml"
    told = subprocess.run([sys.executable, str(ROOT / "train_network.py"), "--config_file", str(config),
                           f"--output_dir={folder}", f"--output_name={stem}", "--logging_dir=", "--sample_prompts=",
                           *recipe.flags()],
                          cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    ended = os.times()
    busy = ended.children_user + ended.children_system - begun.children_user - begun.children_system
    steps, minutes, seconds = re.search(r"(\d+) steps in (?:(\d+) min )?(\d+) s", told).groups()
    lines = [json.loads(line) for line in (folder / f"{stem}-report" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    file = folder / f"{stem}.safetensors"
    return file, {"kB": round(file.stat().st_size / 1000),
                  "seconds per step": busy / int(steps),
                  "by the clock": (60 * int(minutes or 0) + int(seconds)) / int(steps),
                  "loss": statistics.fmean(line["loss"] for line in lines[-len(lines) // 10:])}


@functools.cache
def before() -> tuple[list[str], list[world.Reading]]:
    """Prompts without the trigger, and what the model draws for them by itself."""
    prompts = [prompt for prompt, _ in world.batch_of_prompts(learning.WITHOUT, seed=102)]
    return prompts, learning.drawn(learning.SD, learning.loaded(learning.SD), prompts, seed=2)


def measured(recipe: Recipe, file: Path) -> dict[str, float]:
    """Parts of the pictures that read as they should, drawn with the adapter's own module."""
    from library.families import registry as families
    from library.families.interface import Parts
    from networks import registry
    from networks.request import NetworkRequest

    pipeline = learning.loaded(learning.SD)
    prompts, scenes = learning.subject_prompts(learning.WITH_TRIGGER, seed=101)
    others, alone = before()
    family = families.get("sd1")
    parts = Parts(pipeline.unet, pipeline.vae, [pipeline.text_encoder], [pipeline.tokenizer], family.Options())
    request = NetworkRequest(family.adapter_targets(parts), recipe.dim, recipe.alpha, args=recipe.args, weights=file,
                             text_encoders=parts.text_encoders, denoiser=parts.denoiser,
                             extra_targets=family.extra_targets(parts))
    registry.attach(recipe.module, request).eval()
    subject, after = (learning.drawn(learning.SD, pipeline, asked, seed) for asked, seed in ((prompts, 1), (others, 2)))
    return {"subject": learning.part(reading.shape == world.SUBJECT for reading in subject),
            "colour": world.agreement(scenes, subject)["colour"],
            "unharmed": learning.part((one.shape, one.colour) == (other.shape, other.colour)
                                      for one, other in zip(alone, after, strict=True))}


def main() -> None:
    """Train and measure each, and print a line of the table for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", help="parts of adapters' names")
    parser.add_argument("--write", type=Path, help="a JSON file for the figures; those of other adapters in it stay")
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "adapters", help="where the files go")
    args = parser.parse_args()
    for name, recipe in RECIPES.items():
        if args.only and not any(word.lower() in name.lower() for word in args.only):
            continue
        file, figures = trained(name, recipe, args.folder)
        figures |= measured(recipe, file)
        print(f"| {name} | {figures['subject']:.0%} | {figures['unharmed']:.0%} | {figures['kB']:,} kB | "
              f"{figures['seconds per step']:.3f} |", flush=True)
        if args.write:
            known = json.loads(args.write.read_text(encoding="utf-8")) if args.write.exists() else {}
            args.write.write_text(json.dumps(known | {name: figures}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
