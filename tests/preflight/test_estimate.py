"""The sum of GPU memory knows what saves it, and follows measured figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from library.families import registry, released
from library.preflight import estimate
from library.preflight.estimate import GIB, Load, Size, gpu_bytes
from library.preflight.guards import out_of_memory
from library.preflight.machine import Machine
from library.preflight.machine_checks import savers_left
from library.preflight.registry import Context

FLUX = Load(Size(11.9e9, 0, 57), adapter=15e6, units=4)
SD = Load(Size(0.86e9, 0.207e9), adapter=estimate.adapter_size(16, 0.86e9), checkpointing=False)


def context(**flags) -> Context:
    defaults = {"pretrained_model_name_or_path": "owner/model", "mixed_precision": "bf16", "gradient_checkpointing": True,
                "cache_latents": True, "cache_text_encoder_outputs": True, "network_train_unet_only": True, "network_dim": 16,
                "resolution": "512"}  # fmt: skip
    return Context(flags=defaults | flags, machine=Machine.fake(), script="flux_train_network.py")


def test_smaller_weights_and_waiting_blocks_take_less_memory() -> None:
    kept = [gpu_bytes(replace(FLUX, kept=kind)) for kind in (None, "int8", "fp8", "nf4")]
    assert kept == sorted(kept, reverse=True)
    assert gpu_bytes(FLUX) - gpu_bytes(replace(FLUX, kept="fp8")) == pytest.approx(11.9e9 * (1 - 2 / 57))
    waiting = [gpu_bytes(replace(FLUX, swapped=count)) for count in (0, 10, 30, 55)]
    assert waiting == sorted(waiting, reverse=True)


def test_weights_kept_small_save_little_without_checkpointing() -> None:
    """Their widened copies live until the gradient is done."""
    plain, small = (gpu_bytes(replace(FLUX, checkpointing=False, kept=kept)) for kept in (None, "fp8"))
    assert small > plain


def test_the_marks_for_consumer_cards_hold_for_sd() -> None:
    assert gpu_bytes(SD) < 6 * GIB * 1.1
    assert gpu_bytes(replace(SD, adapter=estimate.adapter_size(128, 0.86e9))) < 8 * GIB


def test_flags_reach_the_sum() -> None:
    full, half, nf4, swapped, texts = (estimate.gpu_memory(context(**flags)) for flags in (
        {}, {"fp8_base": True}, {"base_quantization": "nf4"}, {"blocks_to_swap": 40}, {"cache_text_encoder_outputs": False}))
    assert nf4 < half < full < texts and swapped < half
    assert estimate.gpu_memory(context(fp8_scaled=True)) == half


def test_a_model_that_is_not_here_is_counted_as_its_scripts_first_one() -> None:
    size = estimate.model_size(context())
    assert (size.denoiser, size.blocks) == (released.of("flux1")[0].denoiser * 1e9, 57)


def test_advice_names_the_savers_of_a_large_model_that_are_not_in_use() -> None:
    left = savers_left(context())
    assert left[0] == "--fp8_base" and left[1].startswith("--blocks_to_swap ")
    count = int(left[1].split()[1])
    assert estimate.gpu_memory(context(), count) <= 0.9 * 12 * GIB < estimate.gpu_memory(context(), count - 1)
    assert "--base_quantization nf4" in savers_left(context(fp8_base=True))
    assert savers_left(context(base_quantization="nf4", blocks_to_swap=20)) == []
    told = out_of_memory(context().flags | {"pretrained_model_name_or_path": "owner/sd"}, 0)
    assert "--fp8_base" not in told.remedy, "a small model has little to gain"


@pytest.mark.parametrize("name", registry.names())
def test_the_first_script_of_a_family_counts_its_own_model(name: str) -> None:
    script = registry.get(name).SPEC.scripts[0]
    size = estimate.model_size(Context(flags={"pretrained_model_name_or_path": "a/b"}, machine=Machine.fake(), script=script))
    assert size.denoiser == released.of(name)[0].denoiser * 1e9
