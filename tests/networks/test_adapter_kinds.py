"""Adapters beside LoRA: each does what its formula says, trains, saves, loads, merges, and is read by lycoris."""

from __future__ import annotations

import pytest
import torch

from library.util.records import UserError
from networks import dylora, ia3, keys, loha, lokr, lora, lora_fa, registry
from networks.registry import NetworkRequest
from networks.targets import derive_targets
from tests.networks.models import full_size, golden, output, tiny, tiny_network

KINDS = {"lora": lora, "lora_fa": lora_fa, "dylora": dylora, "loha": loha, "lokr": lokr, "ia3": ia3}
ARGS = [("lora", {}), ("lora", {"dora_wd": "true"}), ("lora", {"init": "pissa"}), ("lora", {"init": "svd"}), ("ia3", {}),
        ("ia3", {"include_patterns": ".*conv1,.*to_q"}), ("loha", {"use_tucker": "true"}), ("lokr", {"use_tucker": "true"}),
        ("lora_fa", {}), ("dylora", {"unit": "2"}), ("loha", {}), ("lokr", {}), ("lokr", {"factor": "2"}),
        ("lokr", {"full_matrix": "true"}), ("lokr", {"decompose_both": "true", "factor": "8"})]


@pytest.mark.parametrize(("kind", "args"), ARGS)
def test_merging_equals_applying_and_the_file_loads_back(kind, args, tmp_path):
    text, unet = tiny()
    plain = output(text, unet)
    more = {} if kind == "ia3" else {"conv_dim": "2"}
    network = tiny_network(KINDS[kind], text, unet, dim=2 if kind == "lokr" else 4, **more, **args)
    network.set_multiplier(0.8)
    applied = output(text, unet)
    assert (applied - plain).abs().max() > 1e-3
    network.save_weights(tmp_path / "a.safetensors", None, None)
    assert keys.identify(network.file_tensors()).kind == ("lora" if kind in ("lora_fa", "dylora") else kind)
    text2, unet2 = tiny()
    other, tensors = KINDS[kind].create_network_from_weights(0.8, tmp_path / "a.safetensors", None, text2, unet2)
    other.apply_to(text2, unet2)
    other.load_tensors(tensors)
    other.eval()
    assert torch.allclose(output(text2, unet2), applied, atol=1e-6)
    network.remove()
    network.merge_to(text, unet)
    assert torch.allclose(output(text, unet), applied, atol=1e-4)


@pytest.mark.parametrize(("kind", "args"), [*ARGS[1:8], ("lora_fa", {}), ("dylora", {}), ("loha", {}), ("lokr", {})])
def test_fresh_network_changes_nothing_and_a_step_does(kind, args):
    text, unet = tiny()
    plain = output(text, unet)
    more = {} if kind == "ia3" else {"conv_dim": "2"}
    network = KINDS[kind].create_network(1.0, 4, 4.0, None, text, unet, **more, **args)
    network.apply_to(text, unet)
    network.on_epoch_start(text, unet)
    assert torch.allclose(output(text, unet), plain, atol=1e-6)
    groups, _ = network.prepare_optimizer_params(1e-2, 1e-2, 1e-2)
    optimizer = torch.optim.SGD(groups, lr=1.0)
    output(text, unet).square().sum().backward()
    optimizer.step()
    assert (output(text, unet) - plain).abs().max() > 1e-5


@pytest.mark.parametrize("kind", ["lora_fa", "dylora"])
def test_file_has_the_keys_and_shapes_of_a_lora(kind):
    text, unet = full_size()
    network = KINDS[kind].create_network(1.0, 4, 4.0, None, text, unet)
    recorded = golden("lora_main.json")["tensors"]
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == {k: v[0] for k, v in recorded.items()}


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_tensors_are_shaped_as_recorded(kind):
    text, unet = full_size()
    network = KINDS[kind].create_network(1.0, 4, 4.0, None, text, unet)
    shapes = {k: list(v.shape) for k, v in network.state_dict().items()}
    for pattern in golden("network_keys.json")[kind]["patterns"].values():
        if "conv_in" not in pattern["example"]:
            assert shapes[pattern["example"]] == pattern["shape"]


@pytest.mark.parametrize(("kind", "args"), [("loha", {}), ("lokr", {}), ("lokr", {"factor": "2"}),
                                            ("lokr", {"full_matrix": "true"}), ("loha", {"use_tucker": "true"}),
                                            ("lora", {"dora_wd": "true"}), ("lora", {"init": "pissa"})])
def test_lycoris_reads_the_file_with_the_same_effect(kind, args, monkeypatch):
    pytest.importorskip("lycoris")
    monkeypatch.setenv("LYCORIS_KERNEL_BACKEND", "torch")
    text, unet = tiny()
    network = tiny_network(KINDS[kind], text, unet, dim=2, **({} if kind == "ia3" else {"conv_dim": "2"}), **args)
    applied = output(text, unet)
    text2, unet2 = tiny()
    request = NetworkRequest(derive_targets(text2, unet2), text_encoders=[text2], denoiser=unet2)
    theirs, tensors = registry.create_from_weights("lycoris.kohya", request, network.file_tensors())
    theirs.apply_to([text2], unet2)
    theirs.load_tensors(tensors)
    theirs.eval()
    assert torch.allclose(output(text2, unet2), applied, atol=1e-4)


@pytest.mark.parametrize(("kind", "ours", "theirs"), [
    ("ia3", {}, {"algo": "ia3", "preset": "ia3"}),
    ("lokr", {"use_tucker": "true", "conv_dim": "2"}, {"algo": "lokr", "use_tucker": "True", "conv_dim": "2", "conv_alpha": "1"})])
def test_lycoris_goes_on_from_the_file_with_the_same_effect(kind, ours, theirs, monkeypatch):
    """lycoris 4.1.3 cannot make these two from a file by itself, but it loads them into a network of its own."""
    pytest.importorskip("lycoris")
    monkeypatch.setenv("LYCORIS_KERNEL_BACKEND", "torch")
    text, unet = tiny()
    network = tiny_network(KINDS[kind], text, unet, dim=2, **ours)
    applied = output(text, unet)
    text2, unet2 = tiny()
    request = NetworkRequest(derive_targets(text2, unet2), 2, 2.0, text_encoders=[text2], denoiser=unet2, args=theirs)
    other = registry.attach("lycoris.kohya", request)
    assert other.load_tensors(network.file_tensors()).loaded == len(network.adapters)
    other.eval()
    assert torch.allclose(output(text2, unet2), applied, atol=1e-4)


def test_fixed_down_weights_are_saved_but_not_trained():
    text, unet = tiny()
    network = lora_fa.create_network(1.0, 4, 4.0, None, text, unet)
    groups, _ = network.prepare_optimizer_params(1e-2, 1e-2, 1e-2)
    trained = {id(p) for g in groups for p in g["params"]}
    assert trained == {id(a.lora_up.weight) for a in network.adapters}
    assert {id(p) for p in network.get_trainable_params()} == trained
    spread = network.get_submodule("lora_te_text_model_encoder_layers_0_mlp_fc2").lora_down.weight.std()
    assert float(spread) == pytest.approx((2 / (64 + 4)) ** 0.5, rel=0.15)


def test_nested_ranks_train_one_block_and_leave_lower_ones_as_they_are():
    text, unet = tiny()
    network = tiny_network(dylora, text, unet, dim=4, unit="2").train()
    adapter = network.get_submodule("lora_unet_down_blocks_0_attentions_0_proj_in")
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        network.zero_grad()
        adapter.layer(torch.randn(1, adapter.layer.in_channels, 4, 4)).sum().backward()
        ranks = adapter.lora_up.weight.grad.flatten(1).abs().sum(0).nonzero().flatten().tolist()
        seen.add(tuple(ranks))
    assert seen == {(0, 1), (2, 3)}


def test_unit_that_does_not_divide_dim_is_refused():
    text, unet = tiny()
    with pytest.raises(UserError, match="dim 4 is not a multiple"):
        dylora.create_network(1.0, 4, 4.0, None, text, unet, unit="3")


@pytest.mark.parametrize(("size", "factor", "want"), [(768, -1, (24, 32)), (320, -1, (16, 20)), (4, -1, (2, 2)),
                                                      (768, 8, (8, 96)), (320, 6, (5, 64)), (7, -1, (1, 7)),
                                                      (16, 8, (2, 8))])
def test_sizes_are_split_as_lycoris_splits_them(size, factor, want):
    assert lokr.split(size, factor) == want


@pytest.mark.parametrize(("kind", "args"), [("loha", {"use_tucker": "true"}), ("lokr", {}), ("dylora", {}), ("ia3", {}),
                                            ("lora", {"dora_wd": "true"}), ("lora", {"init": "pissa"})])
def test_max_norm_holds_for_every_kind(kind, args):
    text, unet = tiny()
    network = tiny_network(KINDS[kind], text, unet, dim=2, **args)
    before = torch.stack([a.delta_weight().norm() for a in network.adapters]).detach()
    limit = float(before.median())
    network.apply_max_norm_regularization(limit, "cpu")
    after = torch.stack([a.delta_weight().norm() for a in network.adapters])
    assert torch.allclose(after, before.clamp(max=limit), rtol=1e-3)


def test_only_plain_loras_are_said_to_load_in_diffusers():
    from networks import registry

    programs = {"kohya": ("ComfyUI", "diffusers")}
    assert registry.readers("networks.lora", programs, "kohya") == programs["kohya"]
    for module in ("networks.lokr", "networks.loha", "lycoris.kohya"):
        assert registry.readers(module, programs, "kohya") == ("ComfyUI",)


def test_adapters_of_split_layers_are_said_to_load_only_where_their_names_are_known():
    from library.families import registry as families
    from networks import registry

    for name in families.names():
        family = families.get(name)
        fuses = any(target.fused for target in family.adapter_targets(family.tiny(0)))
        assert fuses == ("apart" in family.SPEC.loads_in), name
    loads_in = families.get("lumina2").SPEC.loads_in
    assert registry.readers("networks.loha", loads_in, "kohya") == ("ComfyUI",)
    assert registry.readers("networks.lokr", loads_in, "kohya") == registry.readers("lycoris.kohya", loads_in, "comfy") == ()
    assert registry.readers("networks.lokr", families.get("flux1").SPEC.loads_in, "kohya") == ("ComfyUI",)
