"""kohya's ranks by role and by block reach the layers they name."""

import pytest

from library.families import registry as families
from library.util.records import UserError
from networks import registry
from networks.request import NetworkRequest


@pytest.fixture(scope="module", params=["flux1", "sd3"])
def model(request):
    family = families.get(request.param)
    parts = family.tiny(0)
    return request.param, [t for t in family.adapter_targets(parts) if t.root == "denoiser"]


def ranks(targets, **args):
    network = registry.create("networks.lora_flux", NetworkRequest(targets, 4, 4.0, args=args))
    names = {t.name: t.path for t in targets}
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
                        ({"split_qkv": "True"}, "adapters of their own"), ({"in_dims": "[4,4,4,4,4]"}, "layers of the blocks"),
                        ({"train_block_indices": "3-1"}, "0-3,7"), ({"refiner_dim": "4"}, "network_reg_dims")):
        with pytest.raises(UserError) as error:
            ranks(targets, **args)
        assert words in error.value.problems[0].remedy
    if name == "sd3":
        with pytest.raises(UserError, match="no such layers"):
            ranks(targets, single_dim="4")
