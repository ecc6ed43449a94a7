"""networks.lora: names, numbers and effect."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from library.util.records import UserError
from networks import lora, ranks
from tests.networks.models import full_size, golden, output, tiny, tiny_network


def test_modules_are_named_shaped_and_ordered_as_kohyas():
    text, unet = full_size()
    network = lora.create_network(1.0, 4, 4.0, None, text, unet)
    assert [a.lora_name for a in network.adapters] == golden("lora_module_order.json")
    recorded = golden("lora_main.json")["tensors"]
    assert {k: [list(v.shape), str(v.dtype)] for k, v in network.state_dict().items()} == recorded


def test_a_file_of_dim_16_in_fp16_is_as_large_as_kohyas():
    text, unet = full_size()
    network = lora.create_network(1.0, 16, 16.0, None, text, unet)
    size = sum(2 * t.numel() for t in network.state_dict().values())
    factors = [math.prod(shape) for shape, _ in golden("lora_main.json")["tensors"].values()]  # recorded at dim 4
    assert size == sum(2 * 4 * n for n in factors if n > 1) + 2 * factors.count(1)
    assert round(size / 1e6, 1) == 18.9


def test_convolutions_are_named_shaped_and_ordered_as_kohyas():
    text, unet = full_size()
    network = lora.create_network(1.0, 4, 4.0, None, text, unet, conv_dim="4", conv_alpha="1")
    assert [a.lora_name for a in network.adapters] == golden("locon_module_order.json")
    wide = network.get_submodule("lora_unet_down_blocks_0_resnets_0_conv1")
    assert wide.lora_down.weight.shape == (4, 320, 3, 3) and wide.lora_up.weight.shape == (320, 4, 1, 1)
    assert float(wide.alpha) == 1.0
    narrow = network.get_submodule("lora_unet_down_blocks_0_resnets_0_time_emb_proj")
    assert float(narrow.alpha) == 4.0
    recorded = golden("network_keys.json")["lora conv_dim=4"]
    assert sum(t.numel() for t in network.state_dict().values()) == recorded["params"]


def test_fresh_network_changes_nothing():
    text, unet = tiny()
    before = output(text, unet)
    network = lora.create_network(1.0, 4, 4.0, None, text, unet)
    network.apply_to(text, unet)
    assert torch.equal(output(text, unet), before)


def test_first_weights_are_drawn_as_kohya_draws_them():
    """Per module: the down layer's default weights, the up layer's, then down again, which is kept."""
    text, unet = tiny()
    torch.manual_seed(7)
    network = lora.create_network(1.0, 4, 4.0, None, text, unet)
    torch.manual_seed(7)
    for adapter in network.adapters:
        down, up = adapter.lora_down.weight, adapter.lora_up.weight
        torch.empty(down.shape).uniform_()
        torch.empty(up.shape).uniform_()
        bound = 1 / down[0].numel() ** 0.5
        assert torch.allclose(down, torch.empty(down.shape).uniform_(-bound, bound), atol=1e-7)
        assert not up.any()


@pytest.mark.parametrize("args", [{}, {"conv_dim": "2", "conv_alpha": "1"}])
def test_output_is_layer_plus_scaled_up_of_down(args):
    text, unet = tiny()
    network = tiny_network(lora, text, unet, **args)
    network.set_multiplier(0.7)
    generator = torch.Generator().manual_seed(0)
    for adapter in network.adapters:
        layer, down, up = adapter.layer, adapter.lora_down.weight, adapter.lora_up.weight
        scale = 0.7 * float(adapter.alpha) / adapter.lora_dim
        if isinstance(layer, torch.nn.Conv2d):
            x = torch.randn(2, layer.in_channels, 6, 6, generator=generator)
            plain = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
            change = F.conv2d(F.conv2d(x, down, None, layer.stride, layer.padding), up)
        else:
            x = torch.randn(2, 5, layer.in_features, generator=generator)
            plain, change = F.linear(x, layer.weight, layer.bias), x @ down.T @ up.T
        assert torch.allclose(layer(x), plain + scale * change, atol=1e-5), adapter.lora_name


def test_merging_equals_applying():
    text, unet = tiny()
    network = tiny_network(lora, text, unet, conv_dim="2", conv_alpha="1")
    applied = output(text, unet)
    network.remove()
    plain = output(text, unet)
    network.merge_to(text, unet)
    merged = output(text, unet)
    assert (applied - plain).abs().max() > 1e-3
    assert torch.allclose(merged, applied, atol=1e-5)


def test_gradients_equal_those_of_the_plain_formula():
    layer = torch.nn.Linear(6, 5)
    layer.requires_grad_(False)
    model = torch.nn.Module()
    model.to_q = layer
    from library.util.records import Target
    target = Target("lora_unet_to_q", "to_q", "denoiser", layer, "self-attention")
    network = lora.create_network(0.5, 2, 1.0, None, None, model, targets=[target])
    network.apply_to(None, model)
    torch.nn.init.normal_(network.adapters[0].lora_up.weight)
    x = torch.randn(3, 4, 6, requires_grad=True)
    layer(x).square().sum().backward()
    adapter = network.adapters[0]
    got = [x.grad, adapter.lora_down.weight.grad, adapter.lora_up.weight.grad]
    down, up = (p.detach().clone().requires_grad_() for p in (adapter.lora_down.weight, adapter.lora_up.weight))
    x2 = x.detach().clone().requires_grad_()
    (F.linear(x2, layer.weight, layer.bias) + x2 @ down.T @ up.T * 0.25).square().sum().backward()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, [x2.grad, down.grad, up.grad], strict=True))


def test_multiplier_is_read_at_every_call_as_number_or_tensor():
    text, unet = tiny()
    network = tiny_network(lora, text, unet)
    network.set_multiplier(0.5)
    half = output(text, unet)
    network.set_multiplier(torch.tensor(0.5))
    assert torch.allclose(output(text, unet), half, atol=1e-6)
    with network.at(0.0), torch.no_grad():
        off = output(text, unet)
    network.remove()
    assert torch.equal(off, output(text, unet))
    assert float(network.multiplier) == 0.5


def test_multiplier_zero_still_lets_a_loss_go_backward():
    text, unet = tiny()
    network = tiny_network(lora, text, unet)
    network.set_multiplier(0.0)
    output(text, unet).sum().backward()
    assert all(not p.grad.any() for p in network.parameters())


def test_disabled_network_leaves_the_model_alone():
    text, unet = tiny()
    plain = output(text, unet)
    network = tiny_network(lora, text, unet)
    network.set_enabled(False)
    assert torch.equal(output(text, unet), plain)


def test_unwanted_parts_are_dropped_when_applied():
    text, unet = tiny()
    network = lora.create_network(1.0, 4, 1.0, None, text, unet)
    network.apply_to(text, unet, apply_text_encoder=False)
    assert not network.text_encoder_loras and network.unet_loras
    assert all(k.startswith("lora_unet_") for k in network.state_dict())


def test_checkpointed_forward_recomputes_with_the_same_result():
    from torch.utils.checkpoint import checkpoint

    text, unet = tiny()
    network = tiny_network(lora, text, unet)
    unet.enable_gradient_checkpointing(lambda m, *a, **k: checkpoint(m.__call__, *a, use_reentrant=False, **k))
    output(text, unet).square().sum().backward()
    recomputed = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    unet.disable_gradient_checkpointing()
    output(text, unet).square().sum().backward()
    assert all(torch.allclose(a, p.grad, atol=1e-4) for a, p in zip(recomputed, network.parameters(), strict=True))


def test_trains_under_autocast_and_with_half_precision_layers():
    text, unet = tiny()
    network = tiny_network(lora, text, unet)
    with torch.autocast("cpu", torch.bfloat16):
        output(text, unet).float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    layer = torch.nn.Linear(4, 4).bfloat16().requires_grad_(False)
    from library.util.records import Target
    target = Target("lora_unet_x", "x", "denoiser", layer, "conv")
    small = lora.create_network(1.0, 2, 2.0, None, None, None, targets=[target])
    small.apply_to()
    y = layer(torch.ones(1, 4, dtype=torch.bfloat16))
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and small.adapters[0].lora_up.weight.grad.dtype == torch.float32


def test_layer_of_another_class_is_called_and_its_weight_never_read():
    class Quantised(torch.nn.Module):
        in_features, out_features = 4, 3

        def forward(self, x):
            return x[..., :3] * 2

    from library.util.records import Target
    layer = Quantised()
    network = lora.create_network(1.0, 2, 2.0, None, None, None,
                                  targets=[Target("lora_unet_q", "q", "denoiser", layer, "self-attention")])
    network.apply_to()
    x = torch.randn(2, 5, 4)
    assert torch.equal(layer(x), x[..., :3] * 2)
    assert not network.is_mergeable()
    with pytest.raises(UserError, match="quantised"):
        network.merge_to()


# ------------------------------------------------------------------------------------------------------- dropouts


def _one_layer(**args):
    from library.util.records import Target
    layer = torch.nn.Linear(4, 4, bias=False).requires_grad_(False)
    torch.nn.init.zeros_(layer.weight)
    target = Target("lora_unet_x", "x", "denoiser", layer, "conv")
    dropout = args.pop("neuron", None)
    network = lora.create_network(1.0, 8, 8.0, None, None, None, dropout, targets=[target], **args)
    network.apply_to()
    torch.nn.init.ones_(network.adapters[0].lora_up.weight)
    torch.nn.init.ones_(network.adapters[0].lora_down.weight)
    return layer, network.train()


def test_neuron_dropout_keeps_the_mean_and_acts_only_in_training():
    layer, network = _one_layer(neuron=0.5)
    torch.manual_seed(0)
    y = layer(torch.ones(4000, 1, 4))
    assert abs(float(y.mean()) - 32.0) < 0.6 and float(y.std()) > 1
    network.eval()
    assert torch.equal(layer(torch.ones(2, 1, 4)), torch.full((2, 1, 4), 32.0))


def test_rank_dropout_leaves_out_whole_ranks_per_item():
    layer, _ = _one_layer(rank_dropout="0.5")
    torch.manual_seed(0)
    y = layer(torch.ones(2000, 3, 4))
    assert torch.equal(y[:, 0], y[:, 2]), "all tokens of an item share one mask"
    assert abs(float(y.mean()) - 32.0) < 0.6
    assert set((y[:, 0, 0] / 8).tolist()) <= set(range(9)), "multiples of one rank's share, scaled by 1 / (1 - p)"


def test_rank_dropout_draws_the_numbers_kohya_draws():
    layer, _ = _one_layer(rank_dropout="0.25")
    torch.manual_seed(5)
    y = layer(torch.ones(3, 2, 4))
    torch.manual_seed(5)
    kept = (torch.rand(3, 8) > 0.25).sum(1)
    assert torch.allclose(y[:, 0, 0], kept * 4 / 0.75)


def test_module_dropout_leaves_out_the_whole_adapter():
    layer, _ = _one_layer(module_dropout="0.5")
    torch.manual_seed(0)
    seen = {float(layer(torch.ones(1, 4))[0, 0]) for _ in range(30)}
    assert seen == {0.0, 32.0}


@pytest.mark.parametrize("args", [{"rank_dropout": "1.5"}, {"module_dropout": "-0.1"}])
def test_impossible_probability_is_refused_by_name(args):
    with pytest.raises(UserError, match=next(iter(args))):
        _one_layer(**args)


# ------------------------------------------------------------------------------------------------------- arguments


def test_unknown_argument_stops_with_the_near_name():
    text, unet = tiny()
    with pytest.raises(UserError) as error:
        lora.create_network(1.0, 4, 1.0, None, text, unet, conv_dimm="4", rank_dropuot="0.1")
    assert [p.where.split()[1] for p in error.value.problems] == ["conv_dimm=4", "rank_dropuot=0.1"]
    assert "conv_dim" in error.value.problems[0].remedy and "rank_dropout" in error.value.problems[1].remedy


def test_wrong_type_of_argument_is_named_with_its_value():
    text, unet = tiny()
    with pytest.raises(UserError, match="conv_dim must be a whole number; 'four' is not"):
        lora.create_network(1.0, 4, 1.0, None, text, unet, conv_dim="four")


def test_dim_defaults_to_4_and_alpha_zero_means_dim():
    text, unet = tiny()
    network = lora.create_network(1.0, None, 0, None, text, unet)
    assert {a.lora_dim for a in network.adapters} == {4} and {a.scale for a in network.adapters} == {1.0}
    network = lora.create_network(1.0, 8, None, None, text, unet)
    assert {a.scale for a in network.adapters} == {1 / 8}


def test_dim_zero_is_refused():
    text, unet = tiny()
    with pytest.raises(UserError, match="No module"):
        lora.create_network(1.0, 0, 1.0, None, text, unet)


def test_rslora_scales_by_the_root_of_dim():
    text, unet = tiny()
    network = lora.create_network(1.0, 16, 8.0, None, text, unet, use_rslora="True")
    assert network.adapters[0].scale == pytest.approx(8 / 16**0.5)
    assert float(network.adapters[0].alpha) / 16 == pytest.approx(8 / 16**0.5), "readers of the file divide by dim"


def test_patterns_choose_modules_and_ranks():
    text, unet = tiny()
    network = lora.create_network(1.0, 4, 1.0, None, text, unet, exclude_patterns="['.*']", include_patterns="['.*attn1.*']",
                                  network_reg_dims=r".*to_q=8,.*to_k=0")
    names = {a.lora_name.split("attn1_")[1]: a.lora_dim for a in network.adapters}
    assert names == {"to_q": 8, "to_v": 4, "to_out_0": 4}


def adapted(unet, **args):
    return {adapter.lora_name for adapter in lora.create_network(1.0, 4, 1.0, None, [], unet, **args).adapters}


def test_included_modules_join_the_others_and_win_over_excluded_ones_as_in_kohya():
    _, unet = tiny()
    usual = adapted(unet)
    assert adapted(unet, exclude_patterns="['.*attn2.*', '.*ff.*']") == {n for n in usual if "attn2" not in n and "_ff_" not in n}
    assert adapted(unet, exclude_patterns=".*attn.*", include_patterns=".*attn2.to_q,.*time_emb_proj") - usual
    kept = adapted(unet, exclude_patterns=".*attn.*", include_patterns=".*attn2.to_q")
    assert kept == {name for name in usual if ("_attn1_" not in name and "_attn2_" not in name) or name.endswith("attn2_to_q")}


@pytest.mark.parametrize(("typed", "words"), [("['.*a{1,2}.*', 'b']", [".*a{1,2}.*", "b"]), ("'a,b'", ["a,b"]), (None, []),
                                              ("a, b", ["a", "b"]),
                                              ("[.*mlp.*,c]", [".*mlp.*", "c"]), ('["a"]', ["a"])])
def test_patterns_are_kohyas_list_or_words_with_commas(typed, words):
    assert [pattern.pattern for pattern in ranks.patterns("include_patterns", typed)] == words


def test_patterns_that_match_nothing_are_warned_about(caplog):
    _, unet = tiny()
    adapted(unet, exclude_patterns="attn2")
    assert "exclude_patterns: attn2 matches no module" in caplog.text


# ------------------------------------------------------------------------------------------------------- max norm


def test_max_norm_shrinks_only_what_is_too_large_and_says_so():
    text, unet = tiny()
    network = tiny_network(lora, text, unet, conv_dim="2")
    before = torch.stack([a.delta_weight().norm() for a in network.adapters])
    limit = float(before.median())
    scaled, mean, largest = network.apply_max_norm_regularization(limit, "cpu")
    after = torch.stack([a.delta_weight().norm() for a in network.adapters])
    assert scaled == int((before > limit).sum()) and 0 < scaled < len(before)
    assert torch.allclose(after, before.clamp(max=limit), rtol=1e-4)
    assert mean == pytest.approx(float(after.mean()), rel=1e-4) and largest == pytest.approx(limit, rel=1e-4)
