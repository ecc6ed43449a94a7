"""Optimizer groups, block ranks and block learning rates: kohya's rules."""

from __future__ import annotations

import math

import pytest

from library.util.records import UserError
from networks import blocks, lora
from tests.networks.models import full_size, golden, tiny


def _groups(text_lr, unet_lr, default=1e-4, **args):
    text, unet = full_size()
    network = lora.create_network(1.0, 4, 4.0, None, text, unet, **args)
    groups, words = network.prepare_optimizer_params(text_lr, unet_lr, default)
    return [(w, len(g["params"]), g["lr"]) for w, g in zip(words, groups, strict=True)]


def test_text_encoder_comes_first_and_rates_fall_back_to_learning_rate():
    assert _groups(5e-5, None) == [("textencoder", 144, 5e-5), ("unet", 384, 1e-4)]
    assert _groups(None, 3e-4) == [("textencoder", 144, 1e-4), ("unet", 384, 3e-4)]
    assert _groups([], 3e-4) == [("textencoder", 144, 1e-4), ("unet", 384, 3e-4)]


def test_groups_with_rate_zero_are_left_out():
    assert _groups([0.0], 1e-4) == [("unet", 384, 1e-4)]
    assert _groups(5e-5, 0.0) == [("textencoder", 144, 5e-5)]


def test_loraplus_gives_up_weights_a_multiple_of_the_rate():
    assert _groups(5e-5, 1e-4, loraplus_lr_ratio="16") == [
        ("textencoder", 72, 5e-5), ("textencoder plus", 72, pytest.approx(8e-4)),
        ("unet", 192, 1e-4), ("unet plus", 192, pytest.approx(1.6e-3))]
    assert _groups(5e-5, 1e-4, loraplus_unet_lr_ratio="4") == [
        ("textencoder", 144, 5e-5), ("unet", 192, 1e-4), ("unet plus", 192, pytest.approx(4e-4))]


def test_more_rates_than_text_encoders_are_refused():
    with pytest.raises(UserError, match="2 rates"):
        _groups([1e-5, 2e-5], 1e-4)


def test_two_text_encoders_get_names_rates_and_groups_of_their_own():
    (text, unet), (second, _) = tiny(), tiny()
    network = lora.create_network(1.0, 4, 4.0, None, [text, second], unet)
    assert {a.lora_name.split("_")[1] for a in network.text_encoder_loras} == {"te1", "te2"}
    groups, words = network.prepare_optimizer_params([1e-5, 2e-5], 1e-4, 1e-4)
    assert list(zip(words, [g["lr"] for g in groups], strict=True)) == [
        ("textencoder 1", 1e-5), ("textencoder 2", 2e-5), ("unet", 1e-4)]
    _, words = network.prepare_optimizer_params([1e-5], 1e-4, 1e-4)
    assert words == ["textencoder", "unet"]


def test_pattern_rates_make_groups_of_their_own():
    assert _groups(0, 1e-4, network_reg_lrs=r".*attn1.*=5e-4") == [("unet reg_lr_0", 128, 5e-4), ("unet", 256, 1e-4)]


# --------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize(("name", "index"), [
    ("lora_unet_down_blocks_0_attentions_0_proj_in", 1), ("lora_unet_down_blocks_0_downsamplers_0_conv", 3),
    ("lora_unet_down_blocks_2_attentions_1_proj_in", 8), ("lora_unet_mid_block_attentions_0_proj_in", 12),
    ("lora_unet_up_blocks_1_attentions_0_proj_in", 16), ("lora_unet_up_blocks_3_attentions_2_proj_out", 24),
    ("lora_unet_input_blocks_4_1_proj_in", 5), ("lora_unet_middle_block_1_proj_in", 11),
    ("lora_unet_output_blocks_8_0_skip_connection", 21), ("lora_unet_time_embed_0", 0), ("lora_unet_out_2", 22),
    ("lora_unet_conv_in", None)])
def test_blocks_are_numbered_as_kohya_numbers_them(name, index):
    assert blocks.index_of_name(name) == index


def test_block_dims_set_rank_and_alpha_by_block_and_zero_leaves_blocks_out():
    text, unet = full_size()
    dims = [0] * 25
    dims[1], dims[12] = 8, 2
    network = lora.create_network(1.0, 4, 4.0, None, text, unet, block_dims=",".join(map(str, dims)),
                                  block_alphas=",".join(["1"] * 25))
    seen = {(blocks.index_of(a.target), a.lora_dim, float(a.alpha)) for a in network.unet_loras}
    assert seen == {(1, 8, 1.0), (12, 2, 1.0)}
    assert {(a.lora_dim, float(a.alpha)) for a in network.text_encoder_loras} == {(4, 4.0)}


def test_wrong_number_of_block_dims_is_refused_with_the_right_one():
    with pytest.raises(UserError, match="25 blocks, 3 values"):
        _groups(None, None, block_dims="4,4,4")


def test_block_alphas_alone_are_refused_since_they_would_do_nothing():
    with pytest.raises(UserError, match="without block_dims"):
        _groups(None, None, block_alphas="1,1")


def test_conv_block_dims_adapt_convolutions_of_their_blocks():
    text, unet = full_size()
    network = lora.create_network(1.0, 4, 4.0, None, text, unet, block_dims=",".join(["4"] * 25),
                                  conv_block_dims=",".join(["2"] + ["0"] * 12 + ["2"] * 12))
    wide = [a for a in network.unet_loras if a.lora_down.weight.shape[2:] == (3, 3)]
    assert wide and {a.lora_dim for a in wide} == {2}
    assert all(blocks.index_of(a.target) > 12 for a in wide)


def test_block_learning_rates_make_one_group_a_block():
    down = ",".join(["0", "0", "0", "0", "0.5"] + ["1"] * 7)
    groups = _groups(0, 1e-4, down_lr_weight=down, mid_lr_weight="2", up_lr_weight="zeros+0.25")
    rates = {w: lr for w, _, lr in groups}
    assert rates["unet_block4"] == pytest.approx(5e-5) and rates["unet_block12"] == pytest.approx(2e-4)
    assert rates["unet_block16"] == pytest.approx(2.5e-5)
    assert "unet_block1" not in rates, "a block with weight 0 gets no adapter"


@pytest.mark.parametrize(("curve", "value"), [
    ("sine", lambda i: math.sin(math.pi * i / 22)), ("cosine", lambda i: math.sin(math.pi * (11 - i) / 22)),
    ("linear", lambda i: i / 11), ("reverse_linear", lambda i: (11 - i) / 11), ("zeros", lambda i: 0.0)])
def test_named_curves_have_kohyas_values(curve, value):
    weights = blocks.lr_weights(blocks.DIFFUSERS_LAYOUT, f"{curve}+0.1", None, None, 0.0)
    assert weights[:12] == pytest.approx([value(i) + 0.1 for i in range(12)])
    assert weights[12:] == (1.0,) * 13


def test_weights_not_above_the_threshold_are_zero():
    weights = blocks.lr_weights(blocks.SGM_LAYOUT, None, "0.1,0.2,0.3", "linear", 0.2)
    assert weights[0] == weights[22] == 1.0 and weights[10:13] == (0.0, 0.0, 0.3)
    assert weights[13:15] == (0.0, 0.0) and weights[15] == pytest.approx(2 / 8)


def test_unknown_curve_is_refused():
    with pytest.raises(UserError, match="sinus"):
        _groups(None, None, down_lr_weight="sinus")


def test_goldens_and_module_counts_agree():
    assert len(golden("lora_module_order.json")) == 264 and len(golden("locon_module_order.json")) == 350
