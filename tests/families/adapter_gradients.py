"""Gradients of an adapter on a tiny model, for tests of what is done to the base model behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from test_contract import cond_of, noised_latents

from library.families import registry
from library.train import checkpointing
from networks import registry as networks
from networks.request import NetworkRequest


def adapter_gradients(name: str, change: Callable[[torch.nn.Module], Any]) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """(gradients by name, the denoiser) of one checkpointed step; ``change`` is done to the denoiser before it."""
    family = registry.get(name)
    parts = family.tiny(0)
    torch.manual_seed(0)
    targets = [t for t in family.adapter_targets(parts) if t.root == "denoiser"]
    network = networks.attach("networks.lora", NetworkRequest(
        targets=targets, dim=2, alpha=2, vae=parts.vae, text_encoders=[], denoiser=parts.denoiser, train_text_encoder=False))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.prepare_grad_etc([], parts.denoiser)
    checkpointing.enable(parts.denoiser, [], checkpointing.checkpoint_function(network))
    change(parts.denoiser)
    noised, cond = noised_latents(family, parts), cond_of(family, parts)
    family.predict(parts, noised, cond).square().mean().backward()
    return {key: p.grad for key, p in network.named_parameters() if p.grad is not None}, parts.denoiser
