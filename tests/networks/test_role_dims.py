"""kohya's ranks by role and by block reach the layers they name."""

import pytest

from library.families import registry as families
from library.util.records import UserError
from networks import registry
from networks.request import NetworkRequest


def tiny(name):
    family = families.get(name)
    parts = family.tiny(0)
    return family.adapter_targets(parts), family.extra_targets(parts)


@pytest.fixture(scope="module", params=["flux1", "sd3"])
def model(request):
    return request.param, [t for t in tiny(request.param)[0] if t.root == "denoiser"]


@pytest.fixture(scope="module")
def lumina():
    return tiny("lumina2")


def ranks(targets, outside=(), **args):
    network = registry.create("networks.lora_flux", NetworkRequest(targets, 4, 4.0, args=args, extra_targets=outside))
    names = {t.name: t.path for t in [*targets, *outside]}
    return {names[a.lora_name]: a.lora_dim for a in network.adapters}


def test_a_role_has_its_own_rank_and_the_others_the_networks(model):
    name, targets = model
    image, text = ("img", "txt") if name == "flux1" else ("x", "context")
    found = ranks(targets, **{f"{image}_attn_dim": "8", f"{text}_attn_dim": "2", f"{image}_mlp_dim": "6", f"{text}_mod_dim": "0"})
    block = "transformer_blocks.0."
    assert [found[block + p] for p in ("attn.to_q", "attn.to_out.0", "attn.add_k_proj", "attn.to_add_out", "ff.net.2")] == [
        8, 8, 2, 2, 6]
    assert found[block + "norm1.linear"] == found[block + "ff_context.net.2"] == 4
    assert block + "norm1_context.linear" not in found
    if name == "flux1":
        assert found["single_transformer_blocks.0.attn.to_q"] == 4
        single = ranks(targets, single_dim="3", single_mod_dim="5")
        assert [single["single_transformer_blocks.0." + p] for p in ("attn.to_q", "proj_out", "norm.linear")] == [3, 3, 5]
        assert single[block + "attn.to_q"] == 4


def test_only_the_blocks_asked_for_are_trained(model):
    name, targets = model
    if name == "flux1":
        found = ranks(targets, train_double_block_indices="none", train_single_block_indices="1", single_dim="7")
        assert {p.rsplit(".")[0] + p.split(".")[1] for p in found} == {"single_transformer_blocks1"}
        assert {r for p, r in found.items() if "norm" not in p} == {7}
        assert {p.split(".")[0] for p in ranks(targets, train_blocks="double")} == {"transformer_blocks"}
    else:
        assert {p.split(".")[1] for p in ranks(targets, train_block_indices="0,2-3")} == {"0"}
        assert len(ranks(targets, train_block_indices="all")) == len(targets)


def test_what_cannot_be_done_gets_a_sentence_and_the_way_out(model):
    name, targets = model
    for args, words in (({"single_dim": "x"}, "whole number"), ({"train_blocks": "some"}, "all, double, single"),
                        ({"split_qkv": "some"}, "true or false"), ({"in_dims": "[4,4]"}, "5 whole numbers"),
                        ({"train_block_indices": "3-1"}, "0-3,7"), ({"refiner_dim": "4"}, "network_reg_dims")):
        with pytest.raises(UserError) as error:
            ranks(targets, **args)
        assert words in error.value.problems[0].remedy
    assert ranks(targets, train_t5xxl="False") == ranks(targets)
    for args, words in (({"train_t5xxl": "True"}, "T5 gets no adapter"), ({"ggpo_beta": "0.1"}, "leave both out")):
        with pytest.raises(UserError) as error:
            ranks(targets, **args)
        assert words in error.value.problems[0].remedy
    if name == "sd3":
        with pytest.raises(UserError, match="no such layers"):
            ranks(targets, single_dim="4")


OUTSIDE = {
    "flux1": ("in_dims", "[1,2,0,3,5]", {"lora_unet_img_in": 1, "lora_unet_time_in_in_layer": 2, "lora_unet_time_in_out_layer": 2,
              "lora_unet_guidance_in_in_layer": 3, "lora_unet_guidance_in_out_layer": 3, "lora_unet_txt_in": 5}),
    "sd3": ("emb_dims", "1, 2, 3, 0, 5, 6", {"lora_unet_context_embedder": 1, "lora_unet_t_embedder_mlp_0": 2,
            "lora_unet_t_embedder_mlp_2": 2, "lora_unet_x_embedder_proj": 3, "lora_unet_final_layer_adaLN_modulation_1": 5,
            "lora_unet_final_layer_linear": 6}),
    "lumina2": ("embedder_dims", "[0,2,3]", {"lora_unet_t_embedder_mlp_0": 2, "lora_unet_t_embedder_mlp_2": 2,
                "lora_unet_cap_embedder_1": 3}),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_layers_outside_the_blocks_get_the_ranks_asked_for_and_come_back_from_a_file(name, tmp_path):
    argument, value, wanted = OUTSIDE[name]
    targets, outside = tiny(name)
    request = NetworkRequest(targets, 4, 4.0, args={argument: value}, extra_targets=outside)
    network = registry.create("networks.lora", request)
    own = {t.name for t in targets}
    assert {a.lora_name: a.lora_dim for a in network.adapters if a.lora_name not in own} == wanted
    assert len(network.adapters) == len(own) + len(wanted)
    network.save_weights(tmp_path / "a.safetensors", None, {})
    again, _ = registry.create_from_weights("networks.lora", NetworkRequest(targets, extra_targets=outside),
                                            tmp_path / "a.safetensors")
    assert {a.lora_name: a.lora_dim for a in again.adapters} == {a.lora_name: a.lora_dim for a in network.adapters}


def test_luminas_roles_and_parts_reach_their_layers(lumina):
    targets, _ = lumina
    found = ranks(targets, attn_dim="8", mlp_dim="2", mod_dim="0", refiner_dim="3")
    assert [found[f"layers.0.{p}"] for p in ("attn.to_q", "attn.to_out.0", "feed_forward.linear_2")] == [8, 8, 2]
    assert found["noise_refiner.0.attn.to_k"] == 8 and found["norm_out.linear_2"] == 4
    assert not any("norm1" in path or path == "norm_out.linear_1" for path in found)
    only = ranks(targets, refiner_dim="3")
    assert only["context_refiner.0.feed_forward.linear_1"] == only["noise_refiner.0.norm1.linear"] == 3
    assert only["layers.0.attn.to_q"] == only["norm_out.linear_1"] == 4
    denoiser = {t.path for t in targets if t.root == "denoiser"}
    heads = {word: {path.split(".")[0] for path in ranks(targets, train_blocks=word) if path in denoiser}
             for word in ("transformer", "refiners", "noise_refiner", "context_refiner")}
    assert heads == {"transformer": {"layers"}, "refiners": {"noise_refiner", "context_refiner"},
                     "noise_refiner": {"noise_refiner"}, "context_refiner": {"context_refiner"}}


def test_included_layers_outside_the_blocks_get_an_adapter(lumina):
    """kohya's example for Anima: ``include_patterns=['.*final_layer.*']``; native and diffusers' names both count."""
    targets, outside = lumina
    further = ranks(targets, outside, include_patterns="['x_embedder']", exclude_patterns="['.*_embedder.*', '.*mlp.*']")
    assert set(further) - set(ranks(targets)) == {"x_embedder"}


def test_split_qkv_is_what_happens_and_its_absence_is_told(model, caplog):
    _, targets = model
    with caplog.at_level("INFO"):
        assert ranks(targets, split_qkv="True") == ranks(targets)
        assert "split_qkv" not in caplog.text
        assert ranks(targets, split_qkv="False") == ranks(targets)
    assert "adapters of their own here all the same" in caplog.text
