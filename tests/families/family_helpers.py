"""Files and models that the tests of the families make: single files in the original spelling, small folders."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from library.families import native, unet, vae
from library.families.interface import Parts


def ldm_tensors(parts: Parts, text_prefix: str = "cond_stage_model.transformer.") -> dict[str, Any]:
    """The tensors of an SD 1.x model as an original checkpoint spells them."""
    spelling = unet.Spelling(parts.denoiser.config)
    levels = len(parts.vae.config.block_out_channels)
    found = {f"model.diffusion_model.{spelling.original(n)}": t for n, t in parts.denoiser.state_dict().items()}
    found |= {f"first_stage_model.{vae.original_name(n, levels)}": t for n, t in parts.vae.state_dict().items()}
    found |= {f"{text_prefix}text_model.{n}": t for n, t in parts.text_encoders[0].state_dict().items()}
    return {n: t.contiguous() for n, t in found.items()}


def native_tensors(denoiser: Any, table: native.Table) -> dict[str, Any]:
    """A transformer's tensors as an original file spells them: renamed, fused, halves swapped."""
    import torch

    pieces: dict[str, dict[int, Any]] = {}
    for name, tensor in denoiser.state_dict().items():
        spot, original = native.find(table, name)
        whole = torch.cat(tensor.chunk(2)[::-1]) if spot.swapped else tensor
        pieces.setdefault(original, {})[(spot.rows or (0, 0))[0]] = whole
    return {n: torch.cat([p[k] for k in sorted(p)]).contiguous() for n, p in pieces.items()}


def save_folder(
    parts: Parts, folder: Path, class_name: str = "StableDiffusionPipeline", denoiser: str = "unet"
) -> Path:
    """A diffusers folder of a tiny model, without its tokenizer."""
    index: dict[str, Any] = {
        "_class_name": class_name,
        denoiser: ["diffusers", type(parts.denoiser).__name__],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    inside = dict(parts.denoiser.named_children()).get("text_conditioner")
    if inside is not None:  # a part of its own in folders, a part of the denoiser here
        index["text_conditioner"] = ["diffusers", type(inside).__name__]
        inside.save_pretrained(folder / "text_conditioner")
        parts.tokenizers[-1].save_pretrained(folder / "t5_tokenizer")
        del parts.denoiser.text_conditioner
    parts.denoiser.save_pretrained(folder / denoiser)
    if inside is not None:
        parts.denoiser.add_module("text_conditioner", inside)
    parts.vae.save_pretrained(folder / "vae")
    for i, (encoder, tokenizer) in enumerate(zip(parts.text_encoders, parts.tokenizers, strict=False)):
        suffix = "" if i == 0 else f"_{i + 1}"
        encoder.save_pretrained(folder / f"text_encoder{suffix}")
        tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
        index[f"text_encoder{suffix}"] = ["transformers", type(encoder).__name__]
        index[f"tokenizer{suffix}"] = ["transformers", type(tokenizer).__name__]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(dict(parts.scheduler_config)), encoding="utf-8"
    )
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


class Bomb:
    """Unpickling this writes a file: what a malicious checkpoint does."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.target)!r}, 'w').write('boom')",))


def malicious_checkpoint(path: Path, target: Path) -> Path:
    """A checkpoint that runs code when it is unpickled."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": {"weight": Bomb(target)}}, protocol=2))
        archive.writestr("archive/version", "3")
    return path


def assert_same_weights(a: Any, b: Any) -> None:
    import torch

    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[n], right[n]) for n in left)


def unpacked(tokens: Any, size: tuple[int, int]) -> Any:
    """Tokens of 2x2 latents back in rows and columns."""
    from library.families import flow

    return flow.unpacked(tokens, size)


def tiny_recipe(recipe: Any, parts: Parts, **more: Any) -> Any:
    """A family's recipe with the tokenizers of a tiny model, which are here already."""
    from dataclasses import replace

    texts = [replace(text, tokenizer=lambda folder, one=one: one)
             for text, one in zip(recipe.texts, parts.tokenizers, strict=False)]  # fmt: skip
    return replace(recipe, texts=tuple(texts), **more)


def wan_stage_name(name: str, depth: dict[str, int]) -> str:
    """A tensor in a stage of Wan 2.2's VAE: its block's place in the stage's one list, the resampling behind the others."""
    name = re.sub(r"(down|up)_blocks\.(\d)\.resnets\.(\d)", r"\1samples.\2.\1samples.\3", name)
    return re.sub(r"^(en|de)coder\.(down|up)_blocks\.(\d)\.(?:down|up)sampler",
                  lambda m: f"{m[1]}coder.{m[2]}samples.{m[3]}.{m[2]}samples.{depth[m[1]]}", name)  # fmt: skip


def wan_vae_name(name: str) -> str:
    """A tensor of Wan's VAE in diffusers' spelling -> in the original one."""
    inner = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
             "conv_shortcut": "shortcut"}  # fmt: skip
    name = re.sub(r"\.(norm1|conv1|norm2|conv2|conv_shortcut)\.", lambda m: f".{inner[m[1]]}.", name)
    name = name.replace("encoder.down_blocks.", "encoder.downsamples.")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle.{2 * int(m[1])}", name)
    name = name.replace("mid_block.attentions.0", "middle.1")
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}", name)
    name = name.replace("post_quant_conv.", "conv2.").replace("quant_conv.", "conv1.").replace(".conv_in.", ".conv1.")
    return name.replace(".norm_out.", ".head.0.").replace(".conv_out.", ".head.2.")
