"""Trains the small model that ships with the project, `examples/tiny-sd`, on the pictures of `examples/world.py`.

It has Stable Diffusion 1.x's architecture in diffusers' layout and about six million parameters: minutes
on a GPU, some hours on a CPU. Every stage resumes from its checkpoint in the work folder.

    python tools/make_tiny_model.py                                     # both stages, then save
    python tools/make_tiny_model.py --stage unet --unet_steps 30000     # more of the second stage
    python tools/make_tiny_model.py --continue_from examples/tiny-sd    # go on from the saved model
    python tools/make_tiny_model.py --stage score                       # read 100 pictures back
    python tools/make_tiny_model.py --stage dataset                     # write examples/dataset
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import world  # noqa: E402  (needs the path above)

SCALING_FACTOR = 0.18215
"""SD 1.x's own; the VAE's latents are scaled so that it gives them a standard deviation of one."""

TOKENS = 77
BYTES = 256


# -- the model ------------------------------------------------------------------------------------


@dataclass
class Parts:
    """The modules of one model."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer


@dataclass(frozen=True)
class Plan:
    """How one model of the world is built, what it learns, and how it is saved.

    denoise(parts, latents, tokens, generator) is the loss of a batch; a second architecture on the same
    pictures is a second row in MODELS.
    """

    folder: Path
    build_vae: Callable[[], AutoencoderKL]
    build_denoiser: Callable[[int], nn.Module]
    build_text_encoder: Callable[[CLIPTokenizer], CLIPTextModel]
    denoise: Callable[[nn.Module, CLIPTextModel, Tensor, Tensor, torch.Generator], Tensor]
    pipeline: Callable[[Parts], StableDiffusionPipeline]


def build_vae() -> AutoencoderKL:
    """SD 1.x's autoencoder with few channels: 64 x 64 pixels <-> 4 x 8 x 8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=world.SIDE,
        scaling_factor=SCALING_FACTOR,
    )


def build_unet(text_width: int) -> UNet2DConditionModel:
    """SD 1.x's denoiser: the same four levels and block types, one layer a block instead of two."""
    return UNet2DConditionModel(
        sample_size=world.SIDE // 8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(64, 96, 96, 64),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers' name notwithstanding: the number of heads, as in SD 1.x
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text transformer, two layers of width 64."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def epsilon_loss(
    unet: nn.Module, text_encoder: CLIPTextModel, latents: Tensor, tokens: Tensor, generator: torch.Generator
) -> Tensor:
    """The error of the predicted noise at uniformly drawn timesteps, SD 1.x's objective, weighted by 1 / sqrt(SNR).

    That is the geometric mean of the errors in the noise and in the picture. Unweighted, the last few steps
    make up most of the loss, while shape, size and place are settled at high noise (compare min-SNR
    weighting, Hang et al. 2023, and the loss balancing of EDM2, Karras et al. 2024).
    """
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    timesteps = torch.randint(0, 1000, (len(latents),), generator=generator)
    kept = NOISE.alphas_cumprod[timesteps]
    weights_B = ((1 - kept) / kept).sqrt().clamp(max=6.0).to(latents.device)
    noised = NOISE.add_noise(latents, noise, timesteps.to(latents.device))
    cond = text_encoder(tokens).last_hidden_state
    error = unet(noised, timesteps.to(latents.device), cond).sample.float() - noise
    return (weights_B * error.square().mean(dim=(1, 2, 3))).mean()


def sd_pipeline(parts: Parts) -> StableDiffusionPipeline:
    """The parts in diffusers' pipeline with SD 1.5's scheduler."""
    scheduler = PNDMScheduler(**CURVE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


CURVE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NOISE = DDPMScheduler(**CURVE)
MODELS = {
    "tiny-sd": Plan(
        ROOT / "examples" / "tiny-sd", build_vae, build_unet, build_text_encoder, epsilon_loss, sd_pipeline
    ),
}


# -- the tokenizer --------------------------------------------------------------------------------


def byte_letters() -> list[str]:
    """The printable letters that stand for the 256 bytes in GPT-2's and CLIP's vocabularies, in their order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def merged(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: the pair of the lowest rank is joined until none is left."""
    while True:
        pairs = [pair for pair in pairwise(pieces) if pair in ranks]
        if not pairs:
            return pieces
        best, joined, i = min(pairs, key=ranks.__getitem__), [], 0
        while i < len(pieces):
            hit = tuple(pieces[i : i + 2]) == best
            joined.append("".join(best) if hit else pieces[i])
            i += 2 if hit else 1
        pieces = joined


def word_merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges that make one token of each word; a later word never splits an earlier one again."""
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = merged([*word[:-1], word[-1] + "</w>"], ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = merged(pieces, ranks)
    return list(ranks)


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer of the world's words; all else falls back to its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    letters, merges = byte_letters(), word_merges(world.WORDS)
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    special = {key: value for key, value in config.items() if key.endswith("_token")}
    files = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return CLIPTokenizer.from_pretrained(folder)


# -- training, shared by the stages ---------------------------------------------------------------


@dataclass
class Training:
    """Optimizer, learning-rate curve and moving average of some modules, as one object with a state."""

    modules: dict[str, nn.Module]
    lr: float
    steps: int
    warmup: int = 300
    decay: float = 0.999
    step: int = 0
    averages: dict[str, nn.Module] = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.averages = {name: copy.deepcopy(module).eval() for name, module in self.modules.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
        )

    def parameters(self) -> list[nn.Parameter]:
        """All parameters that are trained."""
        found = [parameter for module in self.modules.values() for parameter in module.parameters()]
        return [parameter for parameter in found if parameter.requires_grad]

    def update(self, loss: Tensor) -> None:
        """One optimizer step down the loss."""
        self.step += 1
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.steps)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, self.step / self.warmup) * (0.02 + 0.98 * cosine)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, module in self.modules.items():
                now = list(module.parameters())
                torch._foreach_lerp_(list(self.averages[name].parameters()), now, 1 - keep)

    def save(self, path: Path) -> None:
        """Writes all that is needed to go on."""
        states = {f"now.{name}": module.state_dict() for name, module in self.modules.items()}
        states |= {f"mean.{name}": module.state_dict() for name, module in self.averages.items()}
        swap = path.with_suffix(".part")
        torch.save(states | {"optimizer": self.optimizer.state_dict(), "step": self.step}, swap)
        os.replace(swap, path)

    def resume(self, path: Path) -> None:
        """Goes on from a file of `save`, where there is one."""
        if not path.exists():
            return
        states = torch.load(path, map_location=next(iter(self.modules.values())).device, weights_only=True)
        for name in self.modules:
            self.modules[name].load_state_dict(states[f"now.{name}"])
            self.averages[name].load_state_dict(states[f"mean.{name}"])
        self.optimizer.load_state_dict(states["optimizer"])
        self.step = states["step"]


@dataclass(frozen=True)
class Run:
    """Where and how to train."""

    work: Path
    device: torch.device
    seed: int
    batch: int = 64
    scenes: int = 40_000
    log_every: int = 200

    @property
    def half(self) -> torch.autocast:
        """bfloat16: faster on GPUs, and on CPUs for the VAE's large convolutions."""
        return torch.autocast(self.device.type, torch.bfloat16)

    @property
    def half_on_gpu(self) -> torch.autocast:
        """bfloat16 on a GPU alone; the denoiser's small matrices are slower in it on a CPU."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


def picks(count: int, batch: int, seed: int, start: int) -> Iterator[Tensor]:
    """Endless batches of indices; the same ones whether or not a run was interrupted."""
    step = start
    while True:
        yield torch.randint(0, count, (batch,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        step += 1


def say(name: str, training: Training, started: float, **figures: float) -> None:
    """One line of progress."""
    rest = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
    print(f"{name} {training.step}/{training.steps}  {rest}  {time.time() - started:.0f} s", flush=True)


# -- stage 1: the VAE -----------------------------------------------------------------------------


def vae_pictures(count: int, seed: int, path: Path) -> Tensor:
    """uint8 pictures, N x 3 x H x W, half of the world and half of a wider one; kept in a file."""
    if not path.exists():
        rng = random.Random(seed)
        drawn = [world.draw(world.random_scene(rng)) if i % 2 else world.random_picture(rng) for i in range(count)]
        np.save(path, np.stack([np.asarray(image) for image in drawn]).transpose(0, 3, 1, 2))
    return torch.from_numpy(np.load(path))


def varied(pixels_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Flips a batch, turns it, and exchanges its colour channels; uint8 -> floats in [-1, 1]."""
    flips = torch.rand(4, generator=generator)
    dims = [dim for dim, chance in zip((2, 3), flips) if chance < 0.5]
    pixels = pixels_BCHW.flip(dims) if dims else pixels_BCHW
    pixels = pixels.transpose(2, 3) if flips[2] < 0.5 else pixels
    if flips[3] < 0.5:
        pixels = pixels[:, torch.randperm(3, generator=generator)]
    return pixels.float() / 127.5 - 1


def encoded(vae: AutoencoderKL, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A draw of the latents, and how far their distribution lies from a normal one (mean of the divergence)."""
    mean, logvar = vae.quant_conv(vae.encoder(pixels)).float().chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    return mean + (0.5 * logvar).exp() * noise, 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def decoding_error(vae: AutoencoderKL, latents: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """L1 + 2 L2 between decoded and true pictures, and L1 alone."""
    error = vae.decoder(vae.post_quant_conv(latents)).float() - pixels
    return error.abs().mean() + 2 * error.square().mean(), error.abs().mean()


def vae_loss(vae: AutoencoderKL, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Reconstruction with a slight pull of the latents towards a normal distribution; the L1 error."""
    latents, divergence = encoded(vae, pixels, generator)
    loss, error = decoding_error(vae, latents, pixels)
    return loss + 2e-4 * divergence, error


def decoder_loss(vae: AutoencoderKL, pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Reconstruction alone, with an encoder that stays as it is; the L1 error."""
    with torch.no_grad():
        latents, _ = encoded(vae, pixels, generator)
    return decoding_error(vae, latents, pixels)


def fit_vae(run: Run, training: Training, name: str, loss_of: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Trains on pictures of the world and of a wider one, 16 a step, to the training's last step."""
    pictures = vae_pictures(30_000, run.seed, run.work / "pictures.npy")
    checkpoint = run.work / f"{name}.pt"
    training.resume(checkpoint)
    vae, started, errors = training.modules["vae"], time.time(), []
    for index in picks(len(pictures), 16, run.seed, training.step):
        if training.step >= training.steps:
            break
        generator = torch.Generator().manual_seed(run.seed + 7 * training.step)
        pixels = varied(pictures[index], generator).to(run.device)
        with run.half:
            loss, error = loss_of(vae, pixels, generator)
        training.update(loss)
        errors.append(error.item())
        if training.step % run.log_every == 0 or training.step == training.steps:
            say(name, training, started, error=float(np.mean(errors[-run.log_every :])))
            training.save(checkpoint)


def train_vae(run: Run, new: AutoencoderKL, steps: int) -> AutoencoderKL:
    """Trains a VAE; returns its moving average with latents of mean 0 and a known deviation."""
    training = Training({"vae": new.to(run.device)}, lr=2e-3, steps=steps)
    fit_vae(run, training, "vae", vae_loss)
    pictures = vae_pictures(30_000, run.seed, run.work / "pictures.npy")
    return normalised(training.averages["vae"], pictures[1:4000:2])


def train_decoder(run: Run, vae: AutoencoderKL, steps: int) -> AutoencoderKL:
    """Trains the decoder on; latents, and so the denoiser, stay as they are."""
    for module in (vae.encoder, vae.quant_conv):
        module.requires_grad_(False)
    training = Training({"vae": vae.to(run.device)}, lr=1e-3, steps=steps)
    fit_vae(run, training, "decoder", decoder_loss)
    return training.averages["vae"]


@torch.no_grad()
def normalised(vae: AutoencoderKL, pictures: Tensor) -> AutoencoderKL:
    """The same autoencoder whose latents have mean 0 and deviation 1 / SCALING_FACTOR in each channel.

    Both 1 x 1 convolutions around the latents take the change up, so pictures come out as before.
    """
    device = next(vae.parameters()).device
    found = [vae.encode(part.to(device).float() / 127.5 - 1).latent_dist.mean for part in pictures.split(100)]
    latents = torch.cat(found).transpose(0, 1).flatten(1)
    mean, scale = latents.mean(1), latents.std(1) * SCALING_FACTOR
    inner, outer = vae.quant_conv, vae.post_quant_conv
    outer.bias += outer.weight[:, :, 0, 0] @ mean
    outer.weight *= scale[None, :, None, None]
    inner.weight[:4] /= scale[:, None, None, None]
    inner.bias[:4] = (inner.bias[:4] - mean) / scale
    inner.bias[4:] -= 2 * scale.log()
    return vae


# -- stage 2: denoiser and text encoder -----------------------------------------------------------


@dataclass(frozen=True)
class Examples:
    """Encoded pictures and their captions: latents N x 4 x 8 x 8, tokens N x captions x 77, the empty caption's 77."""

    latents: Tensor
    tokens: Tensor
    empty: Tensor


@torch.no_grad()
def encoded_examples(run: Run, vae: AutoencoderKL, tokenizer: CLIPTokenizer, count: int, captions: int = 6) -> Examples:
    """Draws, encodes and describes scenes of the world; kept in a file."""
    path = run.work / f"examples_{count}_{fingerprint(vae.encoder)}.pt"
    if not path.exists():
        rng = random.Random(run.seed + 1)
        scenes = [world.random_scene(rng) for _ in range(count)]
        latents = []
        for start in range(0, count, 200):
            drawn = np.stack([np.asarray(world.draw(scene)) for scene in scenes[start : start + 200]])
            pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2).to(run.device).float() / 127.5 - 1
            latents.append(vae.encode(pixels).latent_dist.mean.cpu() * vae.config.scaling_factor)
        texts = [world.caption(scene, rng) for scene in scenes for _ in range(captions)]
        tokens = tokenized(tokenizer, texts).view(count, captions, TOKENS).short()
        torch.save({"latents": torch.cat(latents), "tokens": tokens, "empty": tokenized(tokenizer, [""])[0]}, path)
    return Examples(**torch.load(path, weights_only=True))


def fingerprint(module: nn.Module) -> str:
    """A short name of a module's weights, so that latents of another VAE are never taken for its own."""
    digest = hashlib.sha256()
    for weight in module.state_dict().values():
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def tokenized(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids N x 77, padded as SD 1.x pads them: with the end token."""
    found = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return found.input_ids


def train_denoiser(run: Run, plan: Plan, parts: Parts, steps: int, lr: float, score_every: int) -> Parts:
    """Trains denoiser and text encoder together; saves the best of the moving averages as it goes."""
    torch.manual_seed(run.seed)
    examples = encoded_examples(run, parts.vae, parts.tokenizer, run.scenes)
    modules = {"unet": parts.unet, "text": parts.text_encoder}
    training = Training({name: module.train() for name, module in modules.items()}, lr=lr, steps=steps)
    checkpoint = run.work / "unet.pt"
    training.resume(checkpoint)
    averaged = Parts(parts.vae, training.averages["unet"], training.averages["text"], parts.tokenizer)
    started, losses = time.time(), []
    for index in picks(len(examples.latents), run.batch, run.seed, training.step):
        if training.step >= steps:
            break
        generator = torch.Generator().manual_seed(run.seed + 7 * training.step)
        latents, tokens = drawn_batch(examples, index, training.step > 0.75 * steps, generator)
        with run.half_on_gpu:
            loss = plan.denoise(*modules.values(), latents.to(run.device), tokens.to(run.device), generator)
        training.update(loss)
        losses.append(loss.item())
        if training.step % run.log_every == 0:
            say("denoiser", training, started, loss=float(np.mean(losses[-run.log_every :])))
            training.save(checkpoint)
        if training.step % score_every == 0 or training.step == steps:
            save_if_better(plan, averaged, run.work / "best.txt")
    return averaged


def drawn_batch(examples: Examples, index: Tensor, padded: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents and one of each picture's captions; every tenth caption is empty, for classifier-free guidance.

    Tokens are padded to 77, as at inference, always (padded) or in every fifth batch; the other batches end
    with their longest caption: attention over padding is nearly half of this small model's work.
    """
    choice = torch.randint(0, examples.tokens.shape[1], index.shape, generator=generator)
    tokens = examples.tokens[index, choice].long()
    dropped = torch.rand(len(index), generator=generator) < 0.1
    tokens[dropped] = examples.empty
    if not padded and torch.rand((), generator=generator) < 0.8:
        longest = int((tokens != examples.empty[-1]).sum(1).max())
        tokens = tokens[:, : longest + 1]
    return examples.latents[index], tokens


# -- reading back and saving ----------------------------------------------------------------------


def generated(pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, steps: int = 20) -> list[np.ndarray]:
    """One picture a prompt (HWC in 0..1) by DDIM with guidance 4."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    generator, pictures = torch.Generator().manual_seed(seed), []
    for start in range(0, len(prompts), 50):
        called = pipeline(
            prompts[start : start + 50],
            height=world.SIDE,
            width=world.SIDE,
            num_inference_steps=steps,
            guidance_scale=4.0,
            generator=generator,
            output_type="np",
        )
        pictures += list(called.images)
    return pictures


def score(pipeline: StableDiffusionPipeline, count: int = 100, seed: int = 0) -> dict[str, float]:
    """Part of the generated pictures in which each attribute reads as the prompt asked."""
    asked = world.batch_of_prompts(count, seed)
    pictures = generated(pipeline, [prompt for prompt, _ in asked], seed)
    return world.agreement([scene for _, scene in asked], [world.measure(picture) for picture in pictures])


def save_if_better(plan: Plan, parts: Parts, record: Path) -> None:
    """Scores 200 pictures, and saves the model where their mean is the best on record."""
    figures = score(plan.pipeline(parts), 200, seed=1)
    mean = float(np.mean(list(figures.values())))
    told = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
    print(f"    {told}  mean {mean:.3f}", flush=True)
    if not record.exists() or mean >= float(record.read_text(encoding="utf-8")):
        record.write_text(f"{mean:.4f}", encoding="utf-8")
        save_model(plan, parts)


def save_model(plan: Plan, parts: Parts) -> None:
    """Writes the model as a diffusers folder in float16, each file replaced in one go."""
    swap = plan.folder.with_name(plan.folder.name + ".part")
    shutil.rmtree(swap, ignore_errors=True)
    halves = Parts(*(copy.deepcopy(m).half() for m in (parts.vae, parts.unet, parts.text_encoder)), parts.tokenizer)
    plan.pipeline(halves).save_pretrained(swap)
    shutil.rmtree(swap / "tokenizer")
    write_tokenizer(swap / "tokenizer")
    save_text_encoder(halves.text_encoder, swap / "text_encoder")
    # Not PNDM's, but SD 1.5's file has it: a DDIM scheduler made from this one would else clip the latents.
    set_config(swap / "scheduler" / "scheduler_config.json", clip_sample=False)
    for file in sorted(path for path in swap.rglob("*") if path.is_file()):
        target = plan.folder / file.relative_to(swap)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
    shutil.rmtree(swap)


def save_text_encoder(module: CLIPTextModel, folder: Path) -> None:
    """Weights under the names with the prefix `text_model.`, which every version of transformers reads."""
    bare = {name.removeprefix("text_model."): value for name, value in module.state_dict().items()}
    weights = {f"text_model.{name}": value.contiguous() for name, value in bare.items() if "position_ids" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # As in SD 1.5; without it transformers 5 leaves float16 weights as they are.
    set_config(folder / "config.json", torch_dtype="float32", dtype=None)


def set_config(path: Path, **entries: object) -> None:
    """Sets entries of a JSON file; None takes one out."""
    config = json.loads(path.read_text(encoding="utf-8")) | entries
    config = {name: value for name, value in config.items() if name not in entries or value is not None}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")


def load_parts(folder: Path, device: torch.device) -> Parts:
    """A saved model's modules in float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(device)
    return Parts(pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.tokenizer)


# -- the command ----------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=list(MODELS), default="tiny-sd", help="which model of the world")
    parser.add_argument(
        "--stage",
        choices=["all", "vae", "unet", "decoder", "score", "dataset"],
        default="all",
        help="what to do: train (all = vae and unet), train only the saved model's decoder on, "
        "read 100 pictures of the saved model back, or write examples/dataset",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "tiny_model", help="folder for checkpoints and caches")
    parser.add_argument(
        "--continue_from",
        type=Path,
        help="go on from this saved model instead of random weights, its VAE as it is; takes a --work of its own",
    )
    parser.add_argument("--vae_steps", type=int, default=16_000, help="steps of the VAE, 16 pictures each")
    parser.add_argument("--decoder_steps", type=int, default=6_000, help="steps of the stage decoder")
    parser.add_argument("--unet_steps", type=int, default=12_000, help="steps of the denoiser")
    parser.add_argument("--unet_batch", type=int, default=64, help="pictures in a step of the denoiser")
    parser.add_argument("--unet_lr", type=float, default=1e-3, help="highest learning rate of the denoiser")
    parser.add_argument("--scenes", type=int, default=40_000, help="pictures encoded for the denoiser")
    parser.add_argument("--score_every", type=int, default=1000, help="read pictures back every so many steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=1, help="seed of pictures, weights and noise")
    return parser.parse_args()


def starting_parts(flags: argparse.Namespace, run: Run, plan: Plan) -> Parts:
    """The saved model to go on from, or the trained VAE with a new denoiser and text encoder."""
    if flags.continue_from:
        return load_parts(flags.continue_from, run.device)
    tokenizer = write_tokenizer(run.work / "tokenizer")
    vae = train_vae(run, plan.build_vae(), flags.vae_steps)
    torch.manual_seed(flags.seed)
    text_encoder = plan.build_text_encoder(tokenizer).to(run.device)
    return Parts(vae, plan.build_denoiser(text_encoder.config.hidden_size).to(run.device), text_encoder, tokenizer)


def write_world_dataset() -> None:
    """The new subject's data set in kohya's folder form."""
    written = world.write_dataset(ROOT / "examples" / "dataset" / f"10_{world.SUBJECT}")
    written += world.write_regularisation(ROOT / "examples" / "regularisation" / "1_shapes")
    print(f"{len(written)} pictures in {ROOT / 'examples'}")


def improve_decoder(flags: argparse.Namespace, run: Run, plan: Plan) -> None:
    """Trains the saved model's decoder on and saves it with the denoiser that is saved by then."""
    vae = train_decoder(run, load_parts(flags.continue_from or plan.folder, run.device).vae, flags.decoder_steps)
    save_model(plan, replace(load_parts(plan.folder, run.device), vae=vae))


def main() -> None:
    """Runs the chosen stage."""
    flags = parse()
    plan = MODELS[flags.model]
    if flags.stage == "dataset":
        write_world_dataset()
        return
    if flags.stage == "score":
        print(score(plan.pipeline(load_parts(flags.continue_from or plan.folder, torch.device(flags.device)))))
        return
    run = Run(flags.work, torch.device(flags.device), flags.seed, flags.unet_batch, flags.scenes)
    run.work.mkdir(parents=True, exist_ok=True)
    if flags.stage == "decoder":
        improve_decoder(flags, run, plan)
        return
    parts = starting_parts(flags, run, plan)
    if flags.stage != "vae":
        train_denoiser(run, plan, parts, flags.unet_steps, flags.unet_lr, flags.score_every)


if __name__ == "__main__":
    main()
