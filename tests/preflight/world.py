"""A small world for the checks: a model that is all header, a data set, a command line, an invented machine."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from library.config.resolve import Detected, resolve
from library.data.plan import ScanRules
from library.data.scan import scan
from library.flags import flags_of, parse
from library.preflight.machine import Machine
from library.preflight.registry import Context, context_of, later, registered, run_check
from library.util.records import Problem

SD1 = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "model.diffusion_model.time_embed.0.weight": (8, 8),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (8, 768),
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
}
"""Names and shapes that make a file a Stable Diffusion 1.x checkpoint."""
LORA = {"lora_unet_x.lora_down.weight": (4, 32), "lora_unet_x.lora_up.weight": (32, 4), "lora_unet_x.alpha": ()}
VAE = {"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], missing: int = 0, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a .safetensors of zeros in fp16; ``missing`` bytes are left out at its end."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, shape in shapes.items():
        size = 2
        for n in shape:
            size *= n
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(entries).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(offset - missing))
    return path


def write_picture(path: Path, size: tuple[int, int] = (64, 64), number: int = 0) -> Path:
    """Write a small picture in one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number * 37 % 256, number * 91 % 256, 80)).save(path)
    return path


def write_folder(root: Path, name: str, count: int = 12, captions: bool = True, first: str = "zob") -> Path:
    """A folder of pictures with captions ``zob, tag N, red``."""
    for n in range(count):
        picture = write_picture(root / name / f"{n:03}.png", number=n)
        if captions:
            picture.with_suffix(".txt").write_text(f"{first}, tag {n}, red, big", encoding="utf-8")
    return root / name


def write_diffusers(root: Path) -> Path:
    """A diffusers folder of Stable Diffusion 1.x with all its parts, each a file with a header."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    root.mkdir(parents=True)
    (root / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    configs = {"unet": {"cross_attention_dim": 768, "in_channels": 4}, "vae": {}, "text_encoder": {"hidden_size": 768}}
    for part, config in configs.items():
        write_safetensors(root / part / "diffusion_pytorch_model.safetensors", {"a": (2, 2)})
        (root / part / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for part, name in (("tokenizer", "vocab.json"), ("scheduler", "scheduler_config.json")):
        (root / part).mkdir()
        (root / part / name).write_text("{}", encoding="utf-8")
    return root


@dataclass(frozen=True)
class World:
    """A folder in which a run could be started, and how to make contexts of it."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "models" / "base.safetensors"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def good(self) -> dict[str, Any]:
        """Flags of a run with which nothing is wrong."""
        return {
            "pretrained_model_name_or_path": str(self.model),
            "train_data_dir": str(self.data),
            "output_dir": str(self.root / "out"),
            "output_name": "mine",
            "network_module": "networks.lora",
            "network_dim": 8,
            "network_alpha": 4.0,
            "resolution": "64,64",
            "learning_rate": 1e-4,
            "text_encoder_lr": [5e-5],
            "max_train_steps": 1000,
            "mixed_precision": "fp16",
            "caption_extension": ".txt",
            "enable_bucket": True,
            "min_bucket_reso": 64,
            "max_bucket_reso": 128,
            "shuffle_caption": True,
            "keep_tokens": 1,
            "seed": 1,
            "gradient_checkpointing": True,
            "cache_latents": True,
        }

    def context(self, script: str = "train_network.py", machine: dict[str, Any] | None = None, **flags: Any) -> Context:
        """A context of flags alone, without parsing; a value of None means "not given"."""
        wanted = {**self.good(), **flags}
        values = {name: flag.default for name, flag in flags_of(script).items()}
        values.update({name: value for name, value in wanted.items() if value is not None})
        values.update(
            {
                name: flags_of(script)[name].default
                for name, value in wanted.items()
                if value is None and name in flags_of(script)
            }
        )
        origins = {name: "command line" for name, value in wanted.items() if value is not None}
        return Context(values, Machine.fake(**(machine or {})), origins, script, cwd=self.root)

    def full(
        self,
        script: str = "train_network.py",
        machine: dict[str, Any] | None = None,
        family: str = "sd1",
        plan: bool = True,
        **flags: Any,
    ) -> Context:
        """A context that went through parse, resolve and scan."""
        made = parse(self.argv(**flags), script)
        config = resolve(made, lambda source, flags: Detected(family))
        context = context_of(made, Machine.fake(**(machine or {})))
        found = scan(config.data, ScanRules(bucket_step=64)) if plan else None
        return later(replace(context, cwd=self.root), config, found)

    def argv(self, **flags: Any) -> list[str]:
        """A command line of the good flags with changes; None leaves a flag out."""
        words: list[str] = []
        for name, value in {**self.good(), **flags}.items():
            if value is None or value is False:
                continue
            if value is True:
                words.append(f"--{name}")
            elif isinstance(value, list):
                words += [f"--{name}", *map(str, value)]
            else:
                words.append(f"--{name}={value}")
        return words


def fire(name: str, context: Context) -> list[Problem]:
    """What one check says of a context; a fault inside the check is an error here."""
    one = next(c for c in registered() if c.name == name)
    found = run_check(one, context)
    assert not [p for p in found if p.check == "check_failed"], found
    return found
