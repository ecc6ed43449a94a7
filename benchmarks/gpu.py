"""What a graphics card needs for a run: seconds of a step and peak memory, case by case, as one markdown table.

    python benchmarks/gpu.py MODELS                  # full-size SD 1.5 and SDXL with random weights are made in MODELS once
    python benchmarks/gpu.py MODELS --only sd1 --cases fp16 "fp16, dim 128"
    python benchmarks/gpu.py MODELS --tiny           # the same program on tiny models, also without a graphics card

Every case is a process of its own that runs the real ``train_network.py``: batch 1, 512x512 (``--side``), dim 16, gradient
checkpointing, cached latents, text encoders trained as by default. Memory is what torch had reserved on the card at most; the
driver's own share (some 0.3 to 0.6 GB) comes on top. Seconds are the median of the steps behind the first three. The marks: SD
1.5 in fp16 within 6 GB at dim 16 and within 8 GB at dim 128. 10 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure

sys.path.insert(0, str(measure.ROOT))
TOLD = "measured: "
WARM_UP = 3
SCRIPTS = {"sd1": "train_network.py", "sdxl": "sdxl_train_network.py"}
PIPELINES = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
MARKS = {("sd1", "fp16"): 6.0, ("sd1", "fp16, dim 128"): 8.0}
"""(model, case) -> GB that it must stay within."""
LEAN = ("--cache_text_encoder_outputs", "--network_train_unet_only")
CASES: dict[str, tuple[str, ...]] = {
    "fp16": (),
    "fp16, dim 128": ("--network_dim=128", "--network_alpha=128"),
    "bf16": ("--mixed_precision=bf16",),
    "fp32": ("--mixed_precision=no",),
    "no checkpointing": ("--gradient_checkpointing=false",),
    "AdamW8bit": ("--optimizer_type=AdamW8bit",),
    "AdamW8bit, dim 128": ("--optimizer_type=AdamW8bit", "--network_dim=128", "--network_alpha=128"),
    "PagedAdamW8bit": ("--optimizer_type=PagedAdamW8bit",),
    "xformers": ("--xformers",),
    "captions cached": LEAN,
    "fp8_base": (*LEAN, "--fp8_base"),
    "fp8 with scales": (*LEAN, "--base_quantization=fp8"),
    "int8": (*LEAN, "--base_quantization=int8"),
    "nf4": (*LEAN, "--base_quantization=nf4"),
    "half of the blocks swapped": (*LEAN, "--blocks_to_swap=HALF"),
    "nf4, half swapped": (*LEAN, "--base_quantization=nf4", "--blocks_to_swap=HALF"),
    "CPU keeps checkpoints": ("--cpu_offload_checkpointing",),
    "torch_compile": ("--torch_compile",),
}
"""Case -> what differs from the first one; HALF is half of the model's blocks."""


@dataclass(frozen=True)
class Result:
    """One case as measured; None where it could not run or there is no graphics card."""

    seconds: float | None = None
    allocated: float | None = None
    reserved: float | None = None
    """GB on the graphics card at most: in tensors, and held by torch."""
    main: float | None = None
    """GB of main memory at most."""
    loss: float | None = None
    fault: str = ""


def model(name: str, folder: Path, tiny: bool) -> Path:
    """A model of random weights as a diffusers folder (fp16, where it is of full size), made where it is not there yet."""
    place = folder / f"{name}-{'tiny' if tiny else 'random'}"
    if place.is_dir():
        return place
    half = place.with_name(f"{place.name}.half")
    index: dict[str, Any] = {"_class_name": PIPELINES[name], "scheduler": ["diffusers", "DDIMScheduler"]}
    for part, library, made in parts_of(name, tiny):
        print(f"making {name}: {part}", file=sys.stderr, flush=True)
        made.save_pretrained(half / part)
        index[part] = [library, type(made).__name__]
    from library.families import source

    (half / "scheduler").mkdir(exist_ok=True)
    scheduler = source.asset(f"{name}.json")["scheduler"]
    (half / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler), encoding="utf-8")
    (half / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    half.rename(place)
    return place


def parts_of(name: str, tiny: bool) -> Iterator[tuple[str, str, Any]]:
    """(folder, library, part) of a model, one after the other, so that only one is in memory at full size."""
    import diffusers
    import torch
    import transformers
    from full_sdxl import random_model

    from library.families import clip, registry, source

    configs, texts = source.asset(f"{name}.json"), ("text_encoder", "text_encoder_2")[: 1 if name == "sd1" else 2]
    parts = registry.get(name).tiny(0)
    classes = [type(encoder).__name__ for encoder in parts.text_encoders]
    for number, text in enumerate(texts):
        kind = getattr(transformers, classes[number])
        made = parts.text_encoders[number] if tiny else random_model(
            lambda kind=kind, text=text: kind(transformers.CLIPTextConfig(**configs[text]))).to(torch.float16)
        yield text, "transformers", made
        tokenizer = parts.tokenizers[number] if tiny else clip.shipped_tokenizer("!" if number else "<|endoftext|>")
        yield text.replace("text_encoder", "tokenizer"), "transformers", tokenizer
    for part, kind, here in (("vae", diffusers.AutoencoderKL, parts.vae), ("unet", diffusers.UNet2DConditionModel, parts.denoiser)):
        made = here if tiny else random_model(lambda kind=kind, part=part: kind(**configs[part])).to(torch.float16)
        yield part, "diffusers", made


def arguments(name: str, place: Path, folder: Path, case: str, asked: argparse.Namespace) -> list[str]:
    """The whole command line of one case."""
    from library.families import released

    side = 64 if asked.tiny else asked.side
    half = 2 if asked.tiny else released.of(name)[0].blocks // 2
    flags = {"pretrained_model_name_or_path": place, "train_data_dir": measure.pictures(folder, side), "output_dir": folder / "out",
             "output_name": "bench", "caption_extension": ".txt", "network_module": "networks.lora", "network_dim": 16,
             "network_alpha": 16, "learning_rate": "1e-4", "optimizer_type": "AdamW", "mixed_precision": "fp16", "seed": 1,
             "resolution": f"{side},{side}", "max_train_steps": asked.steps, "gradient_checkpointing": "true",
             "cache_latents": "true", "save_precision": "fp16"}  # fmt: skip
    words = [word.removeprefix("--").partition("=") for word in CASES[case]]
    flags |= {flag: value.replace("HALF", str(half)) or "true" for flag, _, value in words}
    return [SCRIPTS[name], *(f"--{flag}={value}" for flag, value in flags.items())]


def measured(argv: Sequence[str]) -> int:
    """In the case's own process: run the entry script with a watcher that takes the time, and tell what it took."""
    import torch

    from library.train import stages
    from library.train.watchers import Idle

    ends, losses = [time.perf_counter()], []

    class Clock(Idle):
        def on_step(self, session: Any, log: Any) -> None:
            losses.append(float(log.loss))
            ends.append(time.perf_counter())

    makes = stages.watchers
    stages.watchers = lambda *given: (*makes(*given), Clock())
    sys.argv = [str(measure.ROOT / argv[0]), *argv[1:]]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            return int(end.code)
    steps = [b - a for a, b in zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False)]
    on_card = torch.cuda.is_available()
    told = {"seconds": statistics.median(steps) if steps else None, "loss": losses[-1], "main": measure.peak_of_this_process(),
            "allocated": torch.cuda.max_memory_allocated() / 1e9 if on_card else None,
            "reserved": torch.cuda.max_memory_reserved() / 1e9 if on_card else None}  # fmt: skip
    print(TOLD + json.dumps(told), flush=True)
    return 0


def run(argv: Sequence[str]) -> Result:
    """One case in a process of its own."""
    done = subprocess.run([sys.executable, str(Path(__file__).resolve()), "--one", *argv], cwd=measure.ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", check=False,
                          env=os.environ | {"PYTHONIOENCODING": "utf-8"})  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith(TOLD):
            return Result(**json.loads(line.removeprefix(TOLD)))
    return Result(fault=lines[-1] if lines else f"ended with code {done.returncode}")


def row(name: str, case: str, result: Result) -> str:
    """One line of the table."""
    def shown(value: float | None, form: str = ".2f") -> str:
        return "-" if value is None else f"{value:{form}}"

    limit = MARKS.get((name, case))
    mark = "" if limit is None or result.reserved is None else f"{'within' if result.reserved <= limit else 'OVER'} {limit:g} GB"
    cells = (name, case, shown(result.seconds, ".3f"), shown(result.allocated), shown(result.reserved), shown(result.main),
             shown(result.loss, ".4f"), result.fault[:160] or mark)
    return f"| {' | '.join(cells)} |"


HEAD = ("| model | case | s a step | GB in tensors | GB reserved | GB main memory | last loss | |\n"
        "|---|---|---|---|---|---|---|---|")  # fmt: skip


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        return measured(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="folder in which the models lie, or are made")
    parser.add_argument("--only", nargs="+", choices=tuple(SCRIPTS), default=tuple(SCRIPTS), help="models (default both)")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES), metavar="CASE",
                        help="cases (default all): " + "; ".join(CASES))  # fmt: skip
    parser.add_argument("--side", type=int, default=512, help="pixels of a picture's side (default 512)")
    parser.add_argument("--steps", type=int, default=20, help="steps of each case (default 20)")
    parser.add_argument("--tiny", action="store_true", help="tiny models and pictures, to try this program anywhere")
    asked = parser.parse_args()
    import torch

    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no graphics card: everything runs in fp32 on the CPU"
    print(f"{measure.machine()}; {card}\n\n{HEAD}", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        for which in asked.only:
            place = model(which, asked.models.resolve(), asked.tiny)
            for case in asked.cases:
                print(row(which, case, run(arguments(which, place, Path(name), case, asked))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
