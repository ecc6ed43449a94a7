"""Trains the small flow-matching model that ships with the project, `examples/tiny-flow`, on the pictures of `examples/world.py`.

It has Lumina Image 2.0's architecture in diffusers' layout: a transformer of 2.7 million parameters, the VAE of
`examples/tiny-sd` and a small frozen Gemma of random weights, whose states tell all words apart. A third of the pictures
show invented shapes with invented names, so that the model learns what large ones know: a word may stand for any outline,
and the outline is the same wherever it lies. About two hours on one CPU core; goes on from its checkpoint in the work folder.

    python tools/make_tiny_flow.py                                  # train, then save
    python tools/make_tiny_flow.py --steps 20000 --lr 1e-3          # longer
    python tools/make_tiny_flow.py --stage score                    # read 100 pictures of the saved model back
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import make_tiny_model as shared
import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import world  # noqa: E402  (needs the path above)

FOLDER = ROOT / "examples" / "tiny-flow"
SYSTEM = ("You are an assistant designed to generate superior images with the superior degree of image-text alignment based on "
          "textual prompts or user prompts.")  # fmt: skip
"""What diffusers' pipeline puts in front of prompts by default; seen in some batches, so that it does no harm."""

MARK = "<Prompt Start>"
PREFIXES = (("", 0.8), (f" {MARK} ", 0.08), (f"{SYSTEM} {MARK} ", 0.12))
"""What may stand in front of a batch's captions, and how often."""

SPACE = "\u2581"
BATCH, CAPTIONS = 32, 6
INVENTED, SHARE = 60, 0.35
"""Shapes with names of their own beside the world's six, and the part of pictures that show one."""


# -- the model ------------------------------------------------------------------------------------


def write_tokenizer(folder: Path) -> GemmaTokenizer:
    """A Gemma tokenizer with one token for each word of the world; all else falls back to letters and bytes."""
    words = [*world.WORDS, f",{SPACE}", *dict.fromkeys(SYSTEM.replace(".", "").split()), *MARK.split()]
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = shared.merged(list(word), ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = shared.merged(pieces, ranks)
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", SPACE, *(f"<0x{i:02X}>" for i in range(256)),
              *(chr(c) for c in range(33, 127)), *("".join(pair) for pair in ranks)]  # fmt: skip
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    made = GemmaTokenizer(vocab=vocabulary, merges=list(ranks), model_max_length=512, padding_side="right",
                         add_bos_token=True)
    made.save_pretrained(folder)
    return made


def build_transformer() -> Lumina2Transformer2DModel:
    """Lumina 2's transformer, 160 wide, over 8 x 8 patches of one latent; its blocks begin as identities."""
    model = Lumina2Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, hidden_size=160, num_layers=5, num_refiner_layers=1,
        num_attention_heads=4, num_kv_heads=2, multiple_of=16, ffn_dim_multiplier=2 / 3, axes_dim_rope=[16, 12, 12],
        axes_lens=[300, 64, 64], cap_feat_dim=64)  # fmt: skip
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            zero = name.endswith("norm1.linear") or name.startswith("norm_out.linear")
            (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def build_text_encoder(tokenizer: GemmaTokenizer) -> Gemma2Model:
    """Two layers of Gemma 2, 64 wide, as they are drawn: nothing of it is trained."""
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16, max_position_embeddings=512, sliding_window=512,
        pad_token_id=0, eos_token_id=1, bos_token_id=2)  # fmt: skip
    model = Gemma2Model(config)
    with torch.no_grad():
        model.embed_tokens.weight.normal_(0, 0.4)
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.normal_(0, 0.1)
    return model.requires_grad_(False).eval()


@dataclass
class Parts:
    """The modules of the model."""

    transformer: Lumina2Transformer2DModel
    vae: AutoencoderKL
    text_encoder: Gemma2Model
    tokenizer: GemmaTokenizer

    def pipeline(self) -> Lumina2Pipeline:
        """The parts in diffusers' pipeline."""
        return Lumina2Pipeline(transformer=self.transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
                               vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer)  # fmt: skip


def new_parts(work: Path, seed: int) -> Parts:
    """The frozen parts and a transformer that knows nothing; the same ones for a seed."""
    vae = AutoencoderKL.from_pretrained(ROOT / "examples" / "tiny-sd" / "vae").float().eval().requires_grad_(False)
    vae.register_to_config(shift_factor=0.0)  # Lumina's pipeline adds it
    tokenizer = write_tokenizer(work / "tokenizer")
    torch.manual_seed(seed)
    text_encoder = build_text_encoder(tokenizer)
    return Parts(build_transformer(), vae, text_encoder, tokenizer)


# -- pictures -------------------------------------------------------------------------------------


def invented_shapes(seed: int) -> dict[str, world.Layers]:
    """Outlines of five to eleven corners, near the middle or far off, each with a name of two syllables."""
    rng, shapes = random.Random(seed), {}
    while len(shapes) < INVENTED:
        name = "".join(rng.choice(letters) for letters in ("bdfgklmnprstvz", "aeiou") * 2)
        if name == world.SUBJECT:
            continue
        corners = rng.randint(5, 11)
        turns = [2 * math.pi * (i + rng.uniform(-0.3, 0.3)) / corners for i in range(corners)]
        radii = [rng.choice([rng.uniform(0.25, 0.55), rng.uniform(0.8, 1.0)]) for _ in turns]
        across = world.stretched([radius * math.sin(turn) for radius, turn in zip(radii, turns, strict=True)])
        down = world.stretched([-radius * math.cos(turn) for radius, turn in zip(radii, turns, strict=True)])
        shapes[name] = [(list(zip(across, down, strict=True)), True)]
    return shapes


def scene_of(rng: random.Random, names: list[str]) -> world.Scene:
    """A scene of the world, in some of which one of the named shapes stands instead."""
    scene = world.random_scene(rng)
    return replace(scene, shape=rng.choice(names)) if rng.random() < SHARE else scene


# -- training -------------------------------------------------------------------------------------


@torch.no_grad()
def examples(work: Path, parts: Parts, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scenes of the world as latents N,4,8,8 and captions' tokens N,6,L (0 = padding); kept in a file."""
    path = work / "latents.pt"
    if not path.exists():
        rng = random.Random(seed + 1)
        more = invented_shapes(seed)
        scenes, latents = [scene_of(rng, list(more)) for _ in range(count)], []
        for start in range(0, count, 200):
            drawn = np.stack([np.asarray(world.draw(scene, world.SHAPES | more)) for scene in scenes[start : start + 200]])
            pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.autocast("cpu", torch.bfloat16):
                latents.append(parts.vae.encode(pixels).latent_dist.mean.float() * parts.vae.config.scaling_factor)
        texts = [world.caption(scene, rng) for scene in scenes for _ in range(CAPTIONS)]
        found = [parts.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        longest = max(map(len, found))
        ids = torch.tensor([one + [0] * (longest - len(one)) for one in found], dtype=torch.int16)
        torch.save({"latents": torch.cat(latents), "ids": ids.view(count, CAPTIONS, longest)}, path)
    kept = torch.load(path, weights_only=True)
    return kept["latents"], kept["ids"]


def captions_of(ids_NCL: Tensor, index: Tensor, prefixes: list[Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One caption of each picture behind one prefix, tokens B,L and mask B,L; every tenth caption is empty."""
    choice = torch.randint(0, CAPTIONS, index.shape, generator=generator)
    tokens = ids_NCL[index, choice].long()
    tokens[torch.rand(len(index), generator=generator) < 0.1] = 0
    shares = torch.tensor([share for _, share in PREFIXES]).cumsum(0)
    prefix = prefixes[int((torch.rand((), generator=generator) >= shares).sum().clamp(max=len(prefixes) - 1))]
    start = torch.full((len(index), 1), 2)
    tokens = torch.cat([start, prefix.expand(len(index), -1), tokens], 1)
    mask = tokens != 0
    longest = int(mask.sum(1).max())
    return tokens[:, :longest], mask[:, :longest]


def flow_loss(parts: Parts, x0: Tensor, tokens: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Mean square error of the velocity noise - x0 at logit-normal noise levels (Esser et al. 2024)."""
    with torch.no_grad():
        found = parts.text_encoder(input_ids=tokens, attention_mask=mask.long(), output_hidden_states=True)
        states = found.hidden_states[-2] * mask[..., None]
    noise = torch.randn(x0.shape, generator=generator)
    sigma_B = torch.sigmoid(torch.randn(len(x0), generator=generator) + 0.3)
    sigma = sigma_B[:, None, None, None]
    answer = parts.transformer((1 - sigma) * x0 + sigma * noise, 1 - sigma_B, states, mask, return_dict=False)[0]
    return (-answer - (noise - x0)).square().mean()


def train(parts: Parts, flags: argparse.Namespace) -> Lumina2Transformer2DModel:
    """Train to the last step; the moving average."""
    latents, ids = examples(flags.work, parts, flags.scenes, flags.seed)
    prefixes = [torch.tensor(parts.tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.long) for text, _ in PREFIXES]
    training = shared.Training({"dit": parts.transformer.train()}, lr=flags.lr, steps=flags.steps, warmup=200)
    checkpoint = flags.work / "dit.pt"
    training.resume(checkpoint)
    rotary = parts.transformer.rope_embedder  # in double precision it takes as long as all the rest
    rotary.freqs_cis = [one.to(torch.complex64) for one in rotary.freqs_cis]
    started, losses = time.time(), []
    for index in shared.picks(len(latents), BATCH, flags.seed, training.step):
        if training.step >= training.steps:
            break
        generator = torch.Generator().manual_seed(flags.seed + 7 * training.step)
        tokens, mask = captions_of(ids, index, prefixes, generator)
        loss = flow_loss(parts, latents[index], tokens, mask, generator)
        training.update(loss)
        losses.append(loss.item())
        if training.step % 200 == 0 or training.step == training.steps:
            shared.say("flow", training, started, loss=float(np.mean(losses[-200:])))
            training.save(checkpoint)
    return training.averages["dit"].eval()


# -- reading back and saving ----------------------------------------------------------------------


def score(pipeline: Lumina2Pipeline, count: int = 100, seed: int = 0) -> dict[str, float]:
    """Part of the generated pictures in which each attribute reads as the prompt asked."""
    pipeline.set_progress_bar_config(disable=True)
    asked = world.batch_of_prompts(count, seed)
    generator, pictures = torch.Generator().manual_seed(seed), []
    for start in range(0, count, 50):
        pictures += list(pipeline(
            [prompt for prompt, _ in asked[start : start + 50]], system_prompt="", height=world.SIDE, width=world.SIDE,
            num_inference_steps=20, guidance_scale=4.0, cfg_normalization=False, max_sequence_length=48,
            generator=generator, output_type="np").images)  # fmt: skip
    return world.agreement([scene for _, scene in asked], [world.measure(picture) for picture in pictures])


def save_model(parts: Parts) -> None:
    """Write the model as a diffusers folder in float16, each file replaced in one go."""
    swap = FOLDER.with_name(FOLDER.name + ".part")
    shutil.rmtree(swap, ignore_errors=True)
    for module in (parts.transformer, parts.vae, parts.text_encoder):
        module.half()
    parts.pipeline().save_pretrained(swap)
    shared.set_config(swap / "text_encoder" / "config.json", torch_dtype="float32", dtype=None)
    shared.set_config(swap / "vae" / "config.json", _name_or_path=None)
    for file in sorted(path for path in swap.rglob("*") if path.is_file()):
        target = FOLDER / file.relative_to(swap)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
    shutil.rmtree(swap)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stage", choices=["train", "score"], default="train", help="train and save, or read pictures back")
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "tiny_flow", help="folder for checkpoint and caches")
    parser.add_argument("--steps", type=int, default=12_500, help=f"steps of {BATCH} pictures")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--scenes", type=int, default=24_000, help="pictures that are encoded for it")
    parser.add_argument("--seed", type=int, default=1, help="seed of pictures, weights and noise")
    return parser.parse_args()


def main() -> None:
    """Run the chosen stage."""
    flags = parse()
    if flags.stage == "train":
        flags.work.mkdir(parents=True, exist_ok=True)
        parts = new_parts(flags.work, flags.seed)
        parts.transformer = train(parts, flags)
        save_model(parts)
    print(score(Lumina2Pipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)))


if __name__ == "__main__":
    main()
