"""Flags of single architectures: each changes what is learned, and does exactly what it says."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_contract import cond_of, noised_latents
from test_training import pictures, trained  # noqa: F401  (a fixture)

from library.families import anima, cond_dropout, flux1, flux2, sd3, sd3_positions
from library.families.interface import Share
from library.util.records import UserError
from networks import registry as networks
from networks.request import NetworkRequest

CHANGES = {
    "sd3": ("--clip_l_dropout_rate=1", "--clip_g_dropout_rate=1", "--t5_dropout_rate=1", "--pos_emb_random_crop_rate=1",
            "--enable_scaled_pos_embed"),
    "flux1": ("--apply_t5_attn_mask",),
    "hunyuanimage": ("--fp8_vl", "--fp8_scaled"),
    "anima": ("--self_attn_lr=1e-3", "--cross_attn_lr=0", "--mlp_lr=1e-3"),
    "flux2": ("--timestep_sampling=empirical_shift",),
    "wan": ("--expert=high_noise",),
}  # fmt: skip
"""Family -> flags that change what is learned."""


@pytest.mark.parametrize("name", CHANGES)
def test_flags_of_one_architecture_change_what_is_learned(name: str, tmp_path: Path, pictures: Path,  # noqa: F811
                                                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    plain = trained(name, "train_network.py", tmp_path, pictures)
    for flag in CHANGES[name]:
        other = trained(name, "train_network.py", tmp_path, pictures, flag)
        assert other.keys() == plain.keys()
        assert any(not torch.equal(other[key], plain[key]) for key in plain), flag


def test_dropout_zeroes_its_encoders_share_of_the_captions_it_hits() -> None:
    parts = sd3.tiny(0)
    cond = sd3.encode_text(parts, ["a cat", "two dogs"])
    first = parts.text_encoders[0].config.hidden_size
    l_part, g_part = slice(0, first), slice(first, None)
    for option, key, zero in (("clip_l_dropout_rate", "lg_out", l_part), ("clip_g_dropout_rate", "lg_out", g_part),
                              ("clip_g_dropout_rate", "lg_pooled", g_part), ("t5_dropout_rate", "t5_out", slice(None))):
        found = cond_dropout.at_random(sd3.SPEC, replace(parts.options, **{option: 1.0}), cond)
        expected = cond[key].clone()
        expected[..., zero] = 0
        assert torch.equal(found[key], expected) and not torch.equal(found[key], cond[key])
        touched = {share.key for share in sd3.SPEC.cond_dropout[option]}
        assert all(found[other] is cond[other] for other in cond.keys() - touched)
    assert cond_dropout.at_random(sd3.SPEC, parts.options, cond) is cond


def test_dropout_hits_captions_at_its_rate_and_gradients_pass_what_is_kept() -> None:
    random.seed(0)
    spec = replace(sd3.SPEC, cond_dropout={"t5_dropout_rate": (Share("t5_out"),)})
    states = torch.ones(400, 3, 2, requires_grad=True)
    found = cond_dropout.at_random(spec, replace(sd3.Options(), t5_dropout_rate=0.25), {"t5_out": states})["t5_out"]
    kept = found.detach()[:, 0, 0]
    assert 0.68 < kept.mean() < 0.82 and torch.equal(found.detach(), kept[:, None, None].expand_as(found))
    found.sum().backward()
    assert torch.equal(states.grad, found.detach())


def test_positions_are_the_tables_middle_or_any_place_of_it() -> None:
    table = torch.arange(36.0).view(1, 36, 1)
    assert sd3_positions.cut(table, 6, (2, 4), at_random=False).flatten().tolist() == [13, 14, 15, 16, 19, 20, 21, 22]
    torch.manual_seed(0)
    corners = {sd3_positions.cut(table, 6, (2, 4), at_random=True)[0, 0].item() for _ in range(200)}
    assert corners == {6 * row + column for row in range(5) for column in range(3)}


def test_scaled_positions_span_the_same_range_at_every_resolution() -> None:
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    for side in (8, 32):
        grid = int(sd3_positions.MARGIN * side)
        middle = sd3_positions.cut(sd3_positions.scaled_table(12, grid, side), grid, (side, side), at_random=False)[0]
        known = get_2d_sincos_pos_embed(12, side, base_size=sd3_positions.BASE, output_type="pt")
        assert torch.allclose(middle, known.float(), atol=1e-5)


@pytest.mark.parametrize(("size", "sides", "expected"), [
    ((32, 32), [32, 64], 32), ((48, 48), [32, 64], 32), ((50, 50), [32, 64], 50), ((51, 51), [32, 64], 64),
    ((90, 90), [32, 64], 64), ((8, 49), [32, 64], 49), ((40, 60), [], 49), ((64, 64), [64, 64], 64)])
def test_a_picture_belongs_to_the_trained_resolution_of_nearest_area(size: tuple, sides: list[int], expected: int) -> None:
    assert sd3_positions.trained_side(*size, sides) == expected


def test_positions_return_to_the_middle_after_a_training_step() -> None:
    parts = sd3.tiny(0)
    noised, cond = noised_latents(sd3, parts), cond_of(sd3, parts)
    plain = sd3.predict(parts, noised, cond)
    asked = replace(parts, options=replace(parts.options, enable_scaled_pos_embed=True, resolutions=((64, 64),)))
    assert not torch.allclose(sd3.predict(asked, noised, cond), plain, atol=1e-4)
    assert torch.equal(sd3.predict(parts, noised, cond), plain)


def test_a_masked_flux_answers_as_if_there_were_no_padding() -> None:
    """What T5 would say to the caption alone, and nothing behind it: the mask's claim, against a shorter padding."""
    parts = flux1.tiny(0)
    noised = noised_latents(flux1, parts)
    answers = []
    for length in (16, 32):
        masked = replace(parts, options=replace(parts.options, apply_t5_attn_mask=True, t5xxl_max_token_length=length))
        answers.append(flux1.predict(masked, noised, flux1.encode_text(masked, ["a cat", "a dog"])))
        open_ = replace(masked, options=replace(masked.options, apply_t5_attn_mask=False))
        answers.append(flux1.predict(open_, noised, flux1.encode_text(open_, ["a cat", "a dog"])))
    assert torch.allclose(answers[0], answers[2], atol=1e-5)
    assert not torch.allclose(answers[1], answers[3], atol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (96, 64)])
def test_flux2s_own_curve_is_that_of_diffusers_pipeline(size: tuple[int, int]) -> None:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    assert flux2.empirical_mu(size) == pytest.approx(compute_empirical_mu(size[0] * size[1], 50))


def anima_network(trains: bool = False, **args: Any) -> Any:
    parts = anima.tiny(0)
    parts.options = replace(parts.options, train_llm_adapter=trains)
    targets = [t for t in anima.adapter_targets(parts) if t.root == "denoiser"]
    return networks.create("networks.lora", NetworkRequest(targets=targets, dim=2, alpha=2, denoiser=parts.denoiser, args=args))


def test_rates_of_parts_are_those_of_their_layers() -> None:
    args = {"self_attn_lr": "1e-3", "cross_attn_lr": "0", "mlp_lr": "2e-3", "llm_adapter_lr": "3e-3", "train_llm_adapter": "True"}
    network = anima_network(True, **args)
    groups, _ = network.prepare_optimizer_params(None, 1e-4, 1e-4)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    seen: dict[str, set[float | None]] = {}
    for adapter in network.adapters:
        part = adapter.target.role
        seen.setdefault(part, set()).update(rate.get(id(p)) for p in adapter.parameters() if p.requires_grad)
    assert seen == {"self-attention": {1e-3}, "cross-attention": set(), "feed-forward": {2e-3}, "text-stream": {3e-3}}


def test_the_text_adapters_layers_have_kohyas_names_where_it_is_trained() -> None:
    without, trained_ = ({a.lora_name for a in anima_network(trains).adapters} for trains in (False, True))
    assert not any("llm_adapter" in name for name in without)
    more = trained_ - without
    assert "lora_unet_llm_adapter_blocks_0_self_attn_q_proj" in more
    assert all(name.startswith("lora_unet_llm_adapter_blocks_") for name in more)


@pytest.mark.parametrize(("args", "way_out"), [
    ({"mod_lr": "1e-4"}, "--slider_lora_target=full"), ({"llm_adapter_lr": "1e-4"}, "train_llm_adapter=True"),
    ({"mlp_lr": "fast"}, "Give a learning rate"), ({"train_llm_adapter": "True"}, "Leave it out")])
def test_a_rate_of_layers_without_adapters_names_the_way_out(args: dict[str, str], way_out: str) -> None:
    with pytest.raises(UserError) as error:
        anima_network(**args)
    assert way_out in error.value.problems[0].remedy


def test_other_projects_networks_refuse_rates_of_parts() -> None:
    with pytest.raises(UserError) as error:
        networks.create("lycoris.kohya", NetworkRequest(targets=[], args={"mlp_lr": "1e-4"}))
    assert "networks.lora" in error.value.problems[0].remedy
