"""DoRA, PiSSA, the start in main directions, (IA)^3: each by its paper's formula."""

import pytest
import torch

from library.util.records import UserError
from networks import ia3, lora
from tests.networks.models import full_size, output, tiny, tiny_network

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def test_dora_has_the_lengths_it_learned_and_the_direction_of_its_product():
    text, unet = tiny()
    network = tiny_network(lora, text, unet, dora_wd="true", conv_dim="2")
    for adapter in network.adapters:
        weight = adapter.layer.weight.detach()
        up, down = adapter.lora_up.weight.detach(), adapter.lora_down.weight.detach()
        turned = weight.flatten(1) + adapter.scale * up.flatten(1) @ down.flatten(1)
        want = turned / turned.norm(dim=1, keepdim=True) * adapter.dora_scale.detach().flatten()[:, None]
        torch.testing.assert_close((weight + adapter.delta_weight()).flatten(1), want, rtol=1e-4, atol=1e-5)


def test_the_norm_is_a_constant_for_doras_gradient():
    """Section 4.3 of the paper: the gradient of the direction is that of the product, times magnitude over norm."""
    text, unet = tiny()
    network = tiny_network(lora, text, unet, dora_wd="true")
    adapter = network.get_submodule(LAYER)
    x = torch.randn(3, adapter.layer.in_features)
    adapter.layer(x).sum().backward()
    gain = (adapter.dora_scale.flatten() / adapter._row_norms()).detach().float()
    want = (gain[:, None] * torch.ones(len(gain), 3)) @ (x @ adapter.lora_down.weight.detach().T) * adapter.scale
    torch.testing.assert_close(adapter.lora_up.weight.grad, want, rtol=1e-4, atol=1e-5)


def test_pissa_starts_as_the_weights_largest_singular_parts():
    text, unet = tiny()
    torch.manual_seed(0)
    adapter = lora.create_network(1.0, 3, 2.0, None, text, unet, init="pissa").get_submodule(LAYER)
    left, values, right = torch.linalg.svd(adapter.layer.weight, full_matrices=False)
    best = left[:, :3] * values[:3] @ right[:3]
    torch.testing.assert_close(adapter.lora_up.weight @ adapter.lora_down.weight * adapter.scale, best, rtol=1e-3, atol=1e-4)
    assert adapter.delta_weight().abs().max() < 1e-6


def test_pissas_file_is_an_ordinary_lora_of_twice_the_rank_and_goes_on(tmp_path):
    text, unet = tiny()
    network = tiny_network(lora, text, unet, dim=2, init="pissa")
    applied = output(text, unet)
    network.save_weights(tmp_path / "a.safetensors", None, None)
    tensors = network.file_tensors()
    assert tensors[f"{LAYER}.lora_down.weight"].shape[0] == 4 and set(network.file_tensors()) == {
        f"{a.lora_name}.{part}" for a in network.adapters for part in ("alpha", "lora_down.weight", "lora_up.weight")}
    text2, unet2 = tiny()
    other = tiny_network(lora, text2, unet2, dim=2, init="pissa", seed=5)
    other.load_weights(tmp_path / "a.safetensors")
    torch.testing.assert_close(output(text2, unet2), applied, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in network.state_dict().items())


def test_svd_start_lies_in_the_weights_main_directions():
    text, unet = tiny()
    adapter = lora.create_network(1.0, 2, 1.0, None, text, unet, init="svd").get_submodule(LAYER)
    right = torch.linalg.svd(adapter.layer.weight, full_matrices=False)[2][:2]
    down = adapter.lora_down.weight.detach()
    torch.testing.assert_close(down @ right.T @ right, down, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(down.norm(dim=1), torch.full((2,), 3 ** -0.5))


def test_factors_are_on_keys_values_and_the_feed_forwards_inner_values():
    """Which layers, and inputs or outputs, as lycoris' preset for it."""
    with torch.device("meta"):
        network = ia3.create_network(1.0, None, None, None, *full_size())
    inner = {a.lora_name for a in network.adapters if a.takes_inputs}
    assert {name.rpartition("_")[2] for name in inner} == {"fc2", "2"}
    assert all(name.endswith(("to_k", "to_v", "k_proj", "v_proj")) for a in network.adapters
               if (name := a.lora_name) not in inner)
    assert len(network.adapters) == 12 * 3 + 16 * 5


@pytest.mark.parametrize(("module", "args", "words"), [
    (lora, {"init": "pissa", "dora_wd": "true"}, "start of its own"), (lora, {"init": "piss"}, "cannot be"),
    (lora, {"init": "pissa", "rank_dropout": "0.1"}, "Dropout"), (lora, {"init": "pissa", "network_reg_dims": ".*=900"}, "only"),
    (ia3, {"conv_dim": "4"}, "no argument")])
def test_arguments_that_do_not_go_together_get_a_sentence(module, args, words):
    with pytest.raises(UserError, match=words):
        module.create_network(1.0, 4, 4.0, None, *tiny(), **args)


@pytest.mark.parametrize(("made", "read"), [({"dora_wd": "true"}, {}), ({}, {"dora_wd": "true"}), ({}, {"init": "pissa"})])
def test_a_file_of_another_kind_of_lora_is_not_half_loaded(tmp_path, made, read):
    text, unet = tiny()
    tiny_network(lora, text, unet, **made).save_weights(tmp_path / "a.safetensors", None, None)
    other = lora.create_network(1.0, 4, 2.0, None, *tiny(), **read)
    with pytest.raises(UserError, match="another kind of adapter"):
        other.load_weights(tmp_path / "a.safetensors")


def test_dora_computes_as_pefts():
    """The library that diffusers computes with; here from kohya's names."""
    peft = pytest.importorskip("peft")

    layer = torch.nn.Sequential(torch.nn.Linear(12, 20))
    config = peft.LoraConfig(r=3, lora_alpha=2, target_modules=["0"], use_dora=True, init_lora_weights=False)
    torch.manual_seed(0)
    theirs = peft.get_peft_model(layer, config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1.3)
    found = {name.split(".")[-2] if "lora_A" in name or "lora_B" in name else "m": value
             for name, value in peft.get_peft_model_state_dict(theirs).items()}
    parts = {"lora_down.weight": found["lora_A"], "lora_up.weight": found["lora_B"], "alpha": torch.tensor(2.0),
             "dora_scale": found["m"][:, None]}
    from library.lorafile import kinds

    base = theirs.base_model.model[0].base_layer
    x = torch.randn(4, 12)
    weight = base.weight + kinds.change("x", parts, base.weight.detach())
    torch.testing.assert_close(x @ weight.T + base.bias, theirs(x), rtol=1e-4, atol=1e-5)
