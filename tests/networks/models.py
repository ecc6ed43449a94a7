"""Models the network tests hang adapters on: full-size SD 1.5 without memory, and a tiny one that runs."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import torch

# Tiny products gain nothing from threads, and on a busy machine threads that wait for each other cost seconds.
torch.set_num_threads(1)

DATA = Path(__file__).parents[1] / "data"


def golden(name: str):
    """A recorded table of kohya's."""
    return json.loads((DATA / name).read_text(encoding="utf-8"))


@functools.cache
def full_size():
    """(text encoder, U-Net) of SD 1.5 on the meta device: names and shapes without weights."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                            num_attention_heads=12))
    return text, unet


@functools.cache
def _tiny():
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=32, norm_num_groups=4,
            attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
        text = CLIPTextModel(CLIPTextConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                            num_attention_heads=2, max_position_embeddings=16))
    return text.eval().requires_grad_(False), unet.eval().requires_grad_(False)


def tiny():
    """(text encoder, U-Net): small enough to run, frozen; a fresh copy each time."""
    return copy.deepcopy(_tiny())


def tiny_network(module, text, unet, dim=4, alpha=2.0, seed=1, **args):
    """A network of ours on the tiny model, its zero weights filled so that it has an effect."""
    torch.manual_seed(seed)
    network = module.create_network(1.0, dim, alpha, None, text, unet, **args)
    network.apply_to(text, unet)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def output(text, unet, seed=3, length=8):
    """What the two models make of fixed random inputs."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 60, (2, length), generator=generator)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    return unet(x, torch.tensor([10, 500]), text(ids).last_hidden_state).sample
