"""Do sliders slide? Trains them on the shipped model, draws at several strengths, and reads the pictures with a ruler.

    python benchmarks/sliders.py                                        every attribute, every scheme: an hour or two
    python benchmarks/sliders.py --attribute size --scheme pairs        one of them: a few minutes
    python benchmarks/sliders.py --attribute size --file FILE           measures a file
    python benchmarks/sliders.py --together size=FILE brightness=FILE   what each keeps of its effect beside the other
    python benchmarks/sliders.py --attribute size --scheme pairs -- --learning_rate=1e-3      with further flags

The pictures are drawn by diffusers alone, which loads the file as any program would. The marks are in ``WANTED``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import world  # noqa: E402  (needs the path above)

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
WANTED = {"monotonic": (">=", 0.95), "R2": (">=", 0.98), "gain": ("within", 0.10), "asymmetry": ("<=", 0.10),
          "shape and colour": (">=", 0.90), "others moved": ("<=", 0.05)}
RANGES = {"size": 0.52, "brightness": 1.0, "hue": 60.0, "position": 0.44}
"""What each attribute spans in the world: the smallest to the largest shape, black to white, from a named hue to the next,
and the room that the middle of a shape has."""
STEP_BACK = 0.01
"""Part of the range by which a reading may step back and still count as monotonic: half a pixel of size."""


# ----------------------------------------------------------------------------------------------------------- attributes


@dataclass(frozen=True)
class Attribute:
    """One thing that a slider moves: how its pictures are made, what captions leave out, how it is read."""

    name: str
    high: tuple[float, float]
    low: tuple[float, float]
    place: Callable[[world.Scene, float], world.Scene]
    """(scene, value) -> the scene with that value of the attribute."""
    words: frozenset[str] = frozenset()
    """Tags that tell of the attribute, which captions and prompts leave out."""
    ends: tuple[str, str] | None = None
    """Texts of the positive and the negative end, where words tell of the attribute."""

    def caption(self, scene: world.Scene, words: str = "") -> str:
        """The scene's tags without those of the attribute; ``words`` stand in their place."""
        kept = [tag for tag in world.tags(scene) if not self.tells(tag)]
        return ", ".join([*kept, words] if words else kept)

    def tells(self, tag: str) -> bool:
        """Whether a tag says something of the attribute."""
        return tag in self.words or (self.name == "brightness" and tag.endswith("background"))

    @property
    def asked(self) -> float:
        """Half the difference of the attribute's mean between the positive and the negative set."""
        return (sum(self.high) - sum(self.low)) / 4


def _hue_shift(scene: world.Scene, value: float) -> world.Scene:
    return replace(scene, hue=(world.HUES[world.colour_word(scene.hue)] + value) % 360)


ATTRIBUTES = {one.name: one for one in (
    Attribute("size", (0.56, 0.72), (0.32, 0.46), lambda scene, value: replace(scene, size=value),
              frozenset(world.SIZES), ("large", "small")),
    Attribute("brightness", (0.58, 0.88), (0.08, 0.38), lambda scene, value: replace(scene, brightness=value, tint=""),
              frozenset({"dark", "bright"}), ("white background, bright", "black background, dark")),
    Attribute("hue", (8.0, 22.0), (-22.0, -8.0), _hue_shift),
    Attribute("position", (0.55, 0.65), (0.34, 0.44), lambda scene, value: replace(scene, x=value),
              frozenset({"left", "right", "center", "top", "bottom"}), ("right", "left")),
)}


def reading(attribute: str, seen: world.Reading, prompt_hue: float) -> float:
    """An attribute's value as read from a picture; hue counts from the named colour of the prompt."""
    if attribute == "hue":
        return (seen.hue - prompt_hue + 180.0) % 360.0 - 180.0
    return {"size": seen.size, "brightness": seen.brightness, "position": seen.x}[attribute]


# ----------------------------------------------------------------------------------------------------------------- data


def base_scene(rng: random.Random, attribute: Attribute) -> world.Scene:
    """A scene with one shape that has room for every value of the attribute."""
    while True:
        scene = world.random_scene(rng)
        if scene.number != 1 or (attribute.name == "brightness" and scene.tint):
            continue
        if attribute.name == "size":
            scene = replace(scene, x=rng.uniform(0.42, 0.58), y=rng.uniform(0.42, 0.58))
        if attribute.name == "position":
            scene = replace(scene, size=rng.uniform(0.30, 0.58), y=rng.uniform(0.4, 0.6))
        return scene


def write_side(folder: Path, attribute: Attribute, band: tuple[float, float], count: int, seed: int) -> None:
    """Pictures of one side, the values spread evenly over their band; equal seeds give equal scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{attribute.name}/{seed}")
    places = list(range(count))
    random.Random(f"places/{seed}").shuffle(places)
    for number in range(count):
        value = band[0] + (band[1] - band[0]) * (places[number] + 0.5) / count
        scene = attribute.place(base_scene(rng, attribute), value)
        world.draw(scene).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(attribute.caption(scene), encoding="utf-8")


def write_sides(folder: Path, attribute: Attribute, count: int, paired: bool) -> Path:
    """Both sides and the file that describes them; paired sides show the same scenes."""
    write_side(folder / "positive", attribute, attribute.high, count, seed=1)
    write_side(folder / "negative", attribute, attribute.low, count, seed=1 if paired else 2)
    lines = ["[general]", "caption_extension = '.txt'", "[[datasets]]", "resolution = 64"]
    for side, strength in (("positive", 1.0), ("negative", -1.0)):
        lines += ["[[datasets.subsets]]", f"image_dir = '{folder / side}'", f"slider_strength = {strength}"]
    config = folder / "data.toml"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config


def write_texts(folder: Path, attribute: Attribute) -> Path:
    """The prompts file of a slider between the attribute's two texts."""
    assert attribute.ends is not None
    rng = random.Random(f"texts/{attribute.name}")
    before = [attribute.caption(base_scene(rng, attribute), "{}") for _ in range(TEXT_SCENES)]
    lines = ["resolution = 64", "[[targets]]", "target_class = ''", f"positive = '{attribute.ends[0]}'",
             f"negative = '{attribute.ends[1]}'", f"attributes = {before!r}"]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "texts.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


# -------------------------------------------------------------------------------------------------------------- schemes


@dataclass(frozen=True)
class Scheme:
    """A way to train a slider, as flags of this trainer."""

    title: str
    pictures: int = 24
    """Pictures of each side; 0 = none."""
    paired: bool = False
    texts: bool = False
    """Learned from the attribute's two words."""
    flags: dict[str, Any] = field(default_factory=dict)


COMMON = {"network_module": "networks.lora", "network_dim": 8, "network_alpha": 8, "slider_lora_target": "auto",
          "train_batch_size": 8, "learning_rate": 1e-3, "lr_scheduler": "cosine", "lr_warmup_steps": 0.05,
          "max_train_steps": 300, "seed": 1, "console_log_level": "WARNING"}
PICTURES = {"resolution": 64, "cache_latents": True}
HOT = {"learning_rate": 3e-3}
"""At 1e-3 buckets of brightness are trained by half after 300 steps, and go further to one end than to the other."""
SCHEMES = {
    "page": Scheme("plain scheme of the page: alternating buckets, plain loss, not calibrated", flags=PICTURES | HOT | {
        "slider_calibrate": "false", "slider_loss": "plain"}),
    "buckets": Scheme("buckets", flags=PICTURES | HOT),
    "pairs": Scheme("pairs", 12, True, flags=PICTURES | {"slider_pairing": "filename", "train_batch_size": 4,
                                                         "max_train_steps": 100}),
    "text": Scheme("two words", 0, texts=True),
    "LECO": Scheme("two words as LECO learns them: the positive end alone, states denoised anew, batch 1", 0, texts=True,
                   flags={"text_slider_states": "leco", "train_batch_size": 1, "slider_calibrate": "false"}),
}
TEXT_SCENES = 16
"""Scenes whose tags stand before the two words in the prompts file."""


GUIDANCE = 4.0
"""With which people are supposed to draw; the trainer reads it from the sample prompts."""


def trained(attribute: Attribute, scheme: Scheme, folder: Path, more: Sequence[str]) -> tuple[Path, float]:
    """Train a slider with the trainer's command line; the file and the seconds of processor time it took (0 on Windows)."""
    settings = COMMON | scheme.flags
    folder.mkdir(parents=True, exist_ok=True)
    if scheme.pictures:
        settings["dataset_config"] = write_sides(folder / "data", attribute, scheme.pictures, scheme.paired)
    if scheme.texts:
        settings["prompts_file"] = write_texts(folder, attribute)
    settings["sample_prompts"] = folder / "samples.txt"
    scenes = [base_scene(random.Random(f"samples/{number}"), attribute) for number in range(24)]
    settings["sample_prompts"].write_text("".join(f"{attribute.caption(scene)} --l {GUIDANCE:g}\n" for scene in scenes),
                                          encoding="utf-8")
    argv = [f"--{name}" if value is True else f"--{name}={value}" for name, value in settings.items()]
    before = os.times()
    subprocess.run([sys.executable, str(ROOT / "train_network.py"), f"--pretrained_model_name_or_path={ROOT / 'examples/tiny-sd'}",
                    f"--output_dir={folder}", "--output_name=slider", *argv, *more], cwd=ROOT, check=True,
                   stdout=sys.stderr)
    after = os.times()
    return folder / "slider.safetensors", sum(after[2:4]) - sum(before[2:4])


# ------------------------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Drawing:
    """What is drawn to measure a slider."""

    prompts: int = 100
    steps: int = 20
    guidance: float = GUIDANCE
    seed: int = 7
    strengths: tuple[float, ...] = STRENGTHS


def loaded() -> Any:
    """The shipped model in diffusers."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(ROOT / "examples" / "tiny-sd")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline: Any, prompts: Sequence[str], drawing: Drawing) -> list[world.Reading]:
    """What the pictures of the prompts show; each prompt has noise of its own, the same at every strength."""
    import torch

    readings = []
    for start in range(0, len(prompts), 25):
        some = list(prompts[start:start + 25])
        own = [torch.Generator().manual_seed(1000 * drawing.seed + start + place) for place in range(len(some))]
        pictures = pipeline(some, height=world.SIDE, width=world.SIDE, num_inference_steps=drawing.steps,
                            guidance_scale=drawing.guidance, generator=own, output_type="np").images
        readings += [world.measure(picture) for picture in pictures]
    return readings


def asked_by_words(attribute: Attribute, drawing: Drawing) -> float:
    """Half the difference of the attribute's mean between the base model's pictures with one and with the other text."""
    assert attribute.ends is not None
    scenes = [scene for _, scene in held_out(attribute, drawing)]
    means = []
    for words in attribute.ends:
        seen = drawn(loaded(), [attribute.caption(scene, words) for scene in scenes], drawing)
        means.append(np.mean([reading(attribute.name, one, 0.0) for one in seen]))
    return float(means[0] - means[1]) / 2


def held_out(attribute: Attribute, drawing: Drawing) -> list[tuple[str, world.Scene]]:
    """Prompts that say nothing of the attribute, with the scenes they describe."""
    rng = random.Random(f"held out/{drawing.seed}")
    scenes = [base_scene(rng, attribute) for _ in range(drawing.prompts)]
    return [(attribute.caption(scene), scene) for scene in scenes]


def swept(file: Path, attribute: Attribute, drawing: Drawing) -> dict[float, list[world.Reading]]:
    """Strength -> readings of the same prompts."""
    pipeline = loaded()
    pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name="slider")
    prompts = [prompt for prompt, _ in held_out(attribute, drawing)]
    found = {}
    for strength in drawing.strengths:
        pipeline.set_adapters(["slider"], [strength])
        found[strength] = drawn(pipeline, prompts, drawing)
    return found


def figures(attribute: Attribute, drawing: Drawing, seen: dict[float, list[world.Reading]], asked: float) -> dict[str, Any]:
    """Everything that is wanted of a slider, as figures; ``asked`` is the effect that it should have at 1."""
    scenes = [scene for _, scene in held_out(attribute, drawing)]
    hues = [world.HUES[world.colour_word(scene.hue)] for scene in scenes]
    strengths = np.array(sorted(seen))
    values = {name: np.array([[reading(name, one, hue) for one, hue in zip(seen[s], hues, strict=True)] for s in strengths])
              for name in RANGES}
    own = values[attribute.name]
    means = own.mean(1)
    half = (means[-1] - means[0]) / 2
    rest = [name for name in RANGES if name != attribute.name]
    middle = int(np.flatnonzero(strengths == 0)[0])
    moved = {name: float(max(abs(np.median(values[name][end] - values[name][middle])) for end in (0, -1)) / RANGES[name])
             for name in rest}
    ends = [(one, scene) for s in (strengths[0], strengths[-1]) for one, scene in zip(seen[s], scenes, strict=True)]
    return {
        "means": [round(float(mean), 4) for mean in means],
        "monotonic": float((np.diff(own, axis=0) > -STEP_BACK * RANGES[attribute.name]).all(0).mean()),
        "R2": r_squared(strengths, means),
        "gain": float(half / asked),
        "asymmetry": float(abs(means[-1] + means[0] - 2 * means[middle]) / abs(2 * half)),
        "shape and colour": float(np.mean([one.shape == scene.shape and one.colour == world.colour_word(scene.hue)
                                           for one, scene in ends])),
        "others moved": max(moved.values()),
        "moved": {name: round(value, 4) for name, value in moved.items()},
        "base": float(np.mean([one.shape == scene.shape and one.colour == world.colour_word(scene.hue)
                               for one, scene in zip(seen[strengths[middle]], scenes, strict=True)])),
    }


def r_squared(x: np.ndarray, y: np.ndarray) -> float:
    """How much of y's spread a straight line over x explains."""
    line = np.polyval(np.polyfit(x, y, 1), x)
    return float(1 - ((y - line) ** 2).sum() / ((y - y.mean()) ** 2).sum())


HEAD = ("attribute", "scheme", "monotonic", "R2", "gain", "asymmetry", "shape and colour (base)", "others moved", "trained, s")


def as_row(result: dict[str, Any]) -> str:
    """A result as a line of a Markdown table."""
    cells = [result["attribute"], SCHEMES[result["scheme"]].title.partition(":")[0],
             *(f"{result[key]:.{digits}f}" for key, digits in (("monotonic", 2), ("R2", 3), ("gain", 2), ("asymmetry", 2))),
             f"{result['shape and colour']:.2f} ({result['base']:.2f})", f"{result['others moved']:.3f}", str(result["seconds"])]
    return f"| {' | '.join(cells)} |"


def as_table(results: Sequence[dict[str, Any]]) -> str:
    """All results as a Markdown table."""
    return "\n".join([f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *map(as_row, results)])


def kept_together(files: dict[str, Path], drawing: Drawing) -> dict[str, Any]:
    """What each of two sliders keeps of its effect where the other is at an end, 1 = all of it."""
    (one, first), (other, second) = ((ATTRIBUTES[name], file) for name, file in files.items())
    scenes = [base_scene(random.Random(f"together/{drawing.seed}/{number}"), one) for number in range(drawing.prompts)]
    prompts = [", ".join(tag for tag in world.tags(scene) if not one.tells(tag) and not other.tells(tag)) for scene in scenes]
    hues = [world.HUES[world.colour_word(scene.hue)] for scene in scenes]
    pipeline = loaded()
    for name, file in (("one", first), ("other", second)):
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
    seen = {}
    for ends in [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]:
        pipeline.set_adapters(["one", "other"], [float(end) for end in ends])
        seen[ends] = drawn(pipeline, prompts, drawing)

    def mean(attribute: Attribute, *ends: tuple[int, int]) -> float:
        return float(np.mean([reading(attribute.name, picture, hue)
                              for end in ends for picture, hue in zip(seen[end], hues, strict=True)]))

    alone = [mean(one, (1, 0)) - mean(one, (-1, 0)), mean(other, (0, 1)) - mean(other, (0, -1))]
    beside = [mean(one, (1, 1), (1, -1)) - mean(one, (-1, 1), (-1, -1)),
              mean(other, (1, 1), (-1, 1)) - mean(other, (1, -1), (-1, -1))]
    right = [picture.shape == scene.shape and picture.colour == world.colour_word(scene.hue)
             for ends in seen if 0 not in ends for picture, scene in zip(seen[ends], scenes, strict=True)]
    return {f"{name} kept": both / single for name, both, single in zip(files, beside, alone, strict=True)} | {
        "shape and colour": float(np.mean(right))}


def main(argv: list[str]) -> int:
    """Train (unless a file is given), measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--attribute", choices=ATTRIBUTES)
    parser.add_argument("--scheme", choices=SCHEMES)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--together", nargs=2, metavar="ATTRIBUTE=FILE")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "sliders")
    parser.add_argument("more", nargs="*")
    args = parser.parse_args(argv)
    drawing = Drawing(args.prompts, args.steps)
    if args.together:
        files = {name: Path(file) for name, _, file in (given.partition("=") for given in args.together)}
        print(json.dumps({"together": list(files)} | kept_together(files, drawing)), flush=True)
        return 0
    results = []
    for name, attribute in ATTRIBUTES.items():
        if args.attribute not in (None, name):
            continue
        for key, scheme in SCHEMES.items():
            if args.scheme not in (None, key) or (scheme.texts and attribute.ends is None):
                continue
            file, seconds = (args.file, 0.0) if args.file else trained(attribute, scheme, args.output / f"{name}-{key}", args.more)
            asked = asked_by_words(attribute, drawing) if scheme.texts else attribute.asked
            found = figures(attribute, drawing, swept(file, attribute, drawing), asked)
            results.append({"attribute": name, "scheme": key, "seconds": round(seconds)} | found)
            print(json.dumps(results[-1]), flush=True)
    print(as_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
