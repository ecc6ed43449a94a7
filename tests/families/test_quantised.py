"""A base in 4 or 8 bits: adapters are trained on exactly the model that the kept numbers stand for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from adapter_gradients import adapter_gradients
from test_contract import cond_of, noised_latents

from library.config.run_config import MachineConfig
from library.families import registry
from library.train import eight_bit, prepare, quantised
from library.train.prepare import settle
from library.train.session import decide_precision
from library.util.records import UserError

CPU = torch.device("cpu")


def widened(model: torch.nn.Module, kind: str) -> None:
    """Put what quantised weights stand for into plain layers."""
    way = quantised.WAYS[kind]
    for block in quantised.swapping.blocks(model):
        for layer in (m for m in block.modules() if isinstance(m, torch.nn.Linear)):
            layer.weight.data = way.widen(*way.store(layer.weight.data), layer.weight.shape, layer.weight.dtype)


@pytest.mark.parametrize("swapped", [0, 2])
@pytest.mark.parametrize("kind", quantised.WAYS)
@pytest.mark.parametrize("name", ["zimage"])
def test_adapters_see_the_quantised_model_and_its_gradients(name: str, kind: str, swapped: int) -> None:
    machine = MachineConfig(base_quantization=kind, blocks_to_swap=swapped)
    found, model = adapter_gradients(name, lambda denoiser: settle(machine, denoiser, CPU))
    expected, plain = adapter_gradients(name, lambda denoiser: widened(denoiser, kind))
    exact, _ = adapter_gradients(name, lambda denoiser: None)
    assert found.keys() == expected.keys() and expected
    assert all(torch.allclose(found[key], expected[key], rtol=1e-4, atol=1e-6) for key in expected)
    assert not all(torch.allclose(found[key], exact[key], rtol=1e-4, atol=1e-6) for key in exact)
    assert held(model) < held(plain)


def held(model: torch.nn.Module) -> int:
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize(("kind", "bits", "error"), [("nf4", 4.5, 0.1), ("int8", 8.125, 0.01), ("fp8", 8.125, 0.03)])
def test_a_weight_takes_as_many_bits_as_promised(kind: str, bits: float, error: float) -> None:
    layer = torch.nn.Linear(256, 64, bias=False).requires_grad_(False)
    exact, model = layer.weight.clone(), torch.nn.Module()
    model._repeated_blocks, model.block = ["Linear"], layer
    assert quantised.quantise(model, kind, CPU) == 1
    assert held(layer) * 8 / exact.numel() == pytest.approx(bits, abs=0.05)
    assert (layer.weight - exact).norm() / exact.norm() < error


@pytest.mark.parametrize("name", registry.names())
def test_a_model_kept_in_8_bits_answers_nearly_as_before(name: str) -> None:
    family = registry.get(name)
    parts = family.tiny(0)
    torch.manual_seed(0)
    noised, cond = noised_latents(family, parts), cond_of(family, parts)
    with torch.no_grad():
        before = family.predict(parts, noised, cond)
        eight_bit.keep_in_8_bits(parts.denoiser)
        after = family.predict(parts, noised, cond)
    assert after.dtype == before.dtype and 0 < (after - before).norm() / before.norm() < 0.3
    assert parts.denoiser.dtype == torch.float32, "diffusers' pipelines cast to it"


def test_weights_of_fp8_base_are_8_bits_wide_before_they_reach_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    family, device, asked = registry.get("flux1"), torch.device("meta"), []
    machine = MachineConfig(fp8_base=True)
    model = SimpleNamespace(options={}, clip_skip=None, max_token_length=None, weighted_captions=False, source="", vae=None)
    config = SimpleNamespace(model=model, machine=machine, data=SimpleNamespace(parts=()), network=SimpleNamespace(args={}),
                             denoiser_waits=machine.denoiser_changes)  # fmt: skip
    monkeypatch.setattr(family, "load", lambda request: asked.append(request) or family.tiny(0))
    parts = prepare.load(config, family, device, decide_precision(machine, False))
    assert asked[0].device == "cpu" and parts.vae.device == device and parts.denoiser.device.type == "cpu"
    eight_bit.apply(machine, parts)
    prepare.settle(machine, parts.denoiser, device)
    layers = [m for m in parts.denoiser.modules() if isinstance(m, torch.nn.Linear)]
    assert layers and all(m.parametrizations.weight.original0.dtype == eight_bit.STORED for m in layers)
    assert all(p.device == device for p in parts.denoiser.parameters())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "installed", lambda name: False)
    with pytest.raises(UserError) as refused:
        quantised.quantise(registry.get("sd1").tiny(0).denoiser, "nf4", CPU)
    assert "pip install bitsandbytes" in refused.value.problems[0].remedy
