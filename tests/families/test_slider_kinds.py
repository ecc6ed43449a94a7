"""The Sliders column of docs/architectures.md: every kind of adapter it names works as a slider on that architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_contract import cond_of, noised_latents

from library.families import registry, targets
from library.families.interface import Family
from library.sample import loras
from networks import registry as networks
from networks.request import NetworkRequest
from tools import architectures


@pytest.fixture(scope="module", params=registry.names())
def family(request: pytest.FixtureRequest) -> Family:
    return registry.get(request.param)


@pytest.mark.parametrize("kind", architectures.SLIDERS)
def test_a_slider_goes_both_ways_learns_and_is_the_same_from_its_file(family: Family, kind: str, tmp_path: Path) -> None:
    module, args = architectures.SLIDERS[kind]
    if module.startswith("lycoris"):
        pytest.importorskip("lycoris")
    parts = family.tiny(0)
    chosen = targets.choose(family, parts, "auto")
    network = networks.attach(module, NetworkRequest(
        targets=chosen, exact=True, dim=2, alpha=1, args=dict(args), vae=parts.vae, text_encoders=[], denoiser=parts.denoiser,
        extra_targets=family.extra_targets(parts), train_text_encoder=False))
    assert {adapter.lora_name for adapter in network.adapters} == {target.name for target in chosen if not target.conv_only}
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.002 if kind == "full" else 0.05))
    noised, cond = noised_latents(family, parts), cond_of(family, parts)
    answers = {}
    for strength in (0.0, 1.0, 0.2, -0.2):
        network.set_multiplier(strength)
        answers[strength] = family.predict(parts, noised, cond)
    there, back = answers[0.2] - answers[0.0], answers[-0.2] - answers[0.0]
    along = torch.nn.functional.cosine_similarity(there.flatten(), back.flatten(), dim=0)
    assert there.abs().max() > 0 and along < -0.9, "the two ends lie on opposite sides"
    answers[-0.2].square().mean().backward()
    assert all(adapter_learns(adapter) for adapter in network.adapters)
    network.save_weights(tmp_path / "slider.safetensors", None, {})
    network.remove()
    with loras.hung(family, parts, [(tmp_path / "slider.safetensors", 1.0)]), torch.no_grad():
        assert torch.allclose(family.predict(parts, noised, cond), answers[1.0], atol=1e-4)


def adapter_learns(adapter: torch.nn.Module) -> bool:
    gradients = [p.grad for p in adapter.parameters() if p.requires_grad]
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)
