"""Does a LoRA of the quickstart draw its new subject, and leave the rest of the model as it was? Read from pixels.

    python benchmarks/learning.py                       trains with examples/quickstart.toml, then measures
    python benchmarks/learning.py --max_train_steps=80  the same with other settings
    python benchmarks/learning.py --lora FILE           measures a file
    python benchmarks/learning.py --flow                on the shipped flow-matching model, from 400 pictures that it draws itself
    python benchmarks/learning.py --flow --lora FILE    measures a file for that model

The pictures are drawn by diffusers alone, which loads the file as any program would. Wanted: the trigger draws the subject
in at least 80 of 100 pictures; without the trigger shape and colour read as the base model's own in at least 90 of 100, on
the same prompts and noise; the mean loss of the last tenth of steps is below the first tenth's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import world  # noqa: E402  (needs the path above)

WITH_TRIGGER, WITHOUT = 40, 100
WANTED = {"subject": 0.8, "unharmed": 0.9}


@dataclass(frozen=True)
class Model:
    """A shipped model: how a LoRA for it is trained beyond the quickstart's settings, and how its pipeline is asked."""

    folder: Path
    script: str
    flags: tuple[str, ...] = ()
    asks: Mapping[str, Any] = field(default_factory=dict)
    pictures: int = 0
    """How many pictures of the subject and of the known shapes are drawn for it; 0: those of examples."""


SD = Model(ROOT / "examples" / "tiny-sd", "train_network.py")
FLOW = Model(ROOT / "examples" / "tiny-flow", "lumina_train_network.py",
             ("--save_format=diffusers", "--network_train_unet_only", "--recommended", "--learning_rate=3e-3",
              "--network_dim=32", "--network_alpha=32", "--max_train_steps=1500"),
             {"system_prompt": "", "cfg_normalization": False, "max_sequence_length": 48}, pictures=400)


def trained(model: Model, flags: list[str], folder: Path) -> tuple[Path, dict[str, float]]:
    """Train as the quickstart does, with further flags; the file, the seconds it took and the losses."""
    begun, more = time.monotonic(), []
    if model.pictures:
        world.write_dataset(folder / "subject" / f"1_{world.SUBJECT}", model.pictures)
        world.write_regularisation(folder / "known" / "1_shapes", model.pictures)
        more = [f"--train_data_dir={folder / 'subject'}", f"--reg_data_dir={folder / 'known'}"]
    subprocess.run([sys.executable, str(ROOT / model.script), "--config_file", str(ROOT / "examples" / "quickstart.toml"),
                    f"--pretrained_model_name_or_path={model.folder}", *model.flags, *more, f"--output_dir={folder}",
                    "--output_name=zobi", f"--logging_dir={folder / 'logs'}", *flags], cwd=ROOT, check=True)
    seconds = time.monotonic() - begun
    lines = (folder / "zobi-report" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    tenth = max(1, len(losses) // 10)
    return folder / "zobi.safetensors", {"seconds": seconds, "steps": len(losses),
                                         "loss of first tenth": float(np.mean(losses[:tenth])),
                                         "loss of last tenth": float(np.mean(losses[-tenth:]))}


def loaded(model: Model) -> Any:
    """The shipped model in diffusers; one that predicts noise draws by DDIM."""
    import torch
    from diffusers import DDIMScheduler, DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(model.folder, torch_dtype=torch.float32)
    if model is SD:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(model: Model, pipeline: Any, prompts: list[str], seed: int) -> list[world.Reading]:
    """What the pictures of the prompts show; each prompt has noise of its own, whatever stands beside it."""
    import torch

    readings = []
    for start in range(0, len(prompts), 20):
        own = [torch.Generator().manual_seed(1000 * seed + number) for number in range(start, min(start + 20, len(prompts)))]
        pictures = pipeline(prompts[start:start + 20], height=world.SIDE, width=world.SIDE, num_inference_steps=20,
                            guidance_scale=4.0, generator=own, output_type="np", **model.asks).images
        readings += [world.measure(picture) for picture in pictures]
    return readings


def subject_prompts(count: int, seed: int) -> tuple[list[str], list[world.Scene]]:
    """Prompts in the manner of the data set's captions, of scenes that it does not hold."""
    scenes = world.subject_scenes(count, seed)
    return world.subject_captions(scenes), scenes


def measured(model: Model, file: Path) -> dict[str, float]:
    """Parts of the pictures that read as they should."""
    pipeline = loaded(model)
    prompts, scenes = subject_prompts(WITH_TRIGGER, seed=101)
    others = [prompt for prompt, _ in world.batch_of_prompts(WITHOUT, seed=102)]
    base = drawn(model, pipeline, others, seed=2)
    knew = part(reading.shape == world.SUBJECT for reading in drawn(model, pipeline, prompts, seed=1))
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    subject, after = drawn(model, pipeline, prompts, seed=1), drawn(model, pipeline, others, seed=2)
    return {
        "subject": part(reading.shape == world.SUBJECT for reading in subject),
        "subject before": knew,
        "subject's colour": world.agreement(scenes, subject)["colour"],
        "unharmed": part((one.shape, one.colour) == (other.shape, other.colour) for one, other in zip(base, after,
                                                                                                      strict=True)),
        "shape unharmed": part(one.shape == other.shape for one, other in zip(base, after, strict=True)),
        "subject without trigger": part(reading.shape == world.SUBJECT for reading in after),
    }


def part(truths: Any) -> float:
    found = list(truths)
    return sum(found) / len(found)


def main(argv: list[str]) -> int:
    """Train unless a file is given, measure, tell; 1 where something wanted is missed."""
    figures: dict[str, float] = {}
    model = FLOW if argv[:1] == ["--flow"] else SD
    argv = argv[1:] if model is FLOW else argv
    if argv[:1] == ["--lora"]:
        file = Path(argv[1])
    else:
        file, figures = trained(model, argv, ROOT / "output" / ("learning" if model is SD else "learning_flow"))
    figures |= measured(model, file)
    for name, value in figures.items():
        wanted = f"   wanted: {WANTED[name]:.2f}" if name in WANTED else ""
        print(f"{name:24} {value:8.3f}{wanted}")
    learned = figures.get("loss of last tenth", 0.0) <= figures.get("loss of first tenth", 0.0)
    return 0 if learned and all(figures[name] >= least for name, least in WANTED.items()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
