"""networks.oft: kohya's keys and shapes, its formula, merging, files."""

import pytest
import torch

from library.util.records import UserError
from networks import oft
from tests.networks.models import full_size, golden, output, tiny, tiny_network


@pytest.mark.parametrize(("recorded", "args"), [("oft", {}), ("oft enable_conv", {"enable_conv": "True"}),
                                                ("oft enable_all_linear", {"enable_all_linear": "True"})])
def test_tensors_are_named_shaped_and_counted_as_kohyas(recorded, args):
    with torch.device("meta"):
        tensors = oft.create_network(1.0, 4, 1e-3, None, *full_size(), **args).state_dict()
    want = golden("network_keys.json")[recorded]
    assert len(tensors) == want["keys"]
    for pattern in want["patterns"].values():
        assert list(tensors[pattern["example"]].shape) == pattern["shape"]


def kohyas_weight(adapter, multiplier):
    """The turned weight by kohya's formula, written from it: rotate the weight's rows, inverse and all."""
    skew = adapter.oft_blocks - adapter.oft_blocks.transpose(1, 2)
    bound = float(adapter.alpha) * adapter.layer.weight.shape[0]
    skew = skew * min(1.0, bound / float(skew.detach().norm()))
    one = torch.eye(skew.shape[1])
    rotation = multiplier * ((one + skew) @ (one - skew).inverse() - one) + one
    rows = adapter.layer.weight.reshape(*skew.shape[:2], -1)
    return torch.einsum("knm,knp->kmp", rotation, rows).reshape(adapter.layer.weight.shape)


@pytest.mark.parametrize("alpha", [10.0, 1e-3], ids=["free", "bounded"])
def test_outputs_are_those_of_kohyas_turned_weight(alpha):
    text, unet = tiny()
    network = tiny_network(oft, text, unet, dim=2, alpha=alpha, enable_conv="true", enable_all_linear="true")
    network.set_multiplier(0.7)
    applied = output(text, unet)
    weights = [kohyas_weight(a, 0.7).detach() for a in network.adapters]
    network.remove()
    plain = output(text, unet)
    for adapter, weight in zip(network.adapters, weights, strict=True):
        adapter.layer.weight.data.copy_(weight)
    torch.testing.assert_close(output(text, unet), applied, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, applied, atol=1e-6)


def test_merging_equals_applying_and_files_are_read_back(tmp_path):
    text, unet = tiny()
    network = tiny_network(oft, text, unet, dim=2, alpha=10.0)
    applied = output(text, unet)
    network.save_weights(tmp_path / "oft.safetensors", None, {})
    text2, unet2 = tiny()
    second, tensors = oft.create_network_from_weights(1.0, tmp_path / "oft.safetensors", None, text2, unet2)
    second.merge_to(text2, unet2, tensors)
    torch.testing.assert_close(output(text2, unet2), applied, rtol=1e-4, atol=1e-5)


def test_a_new_network_changes_nothing_and_trains():
    text, unet = tiny()
    plain = output(text, unet)
    network = oft.create_network(1.0, 2, 1e-3, None, text, unet)
    network.apply_to(text, unet)
    out = output(text, unet)
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-5)
    out.square().mean().backward()
    assert all(torch.isfinite(a.oft_blocks.grad).all() and a.oft_blocks.grad.any() for a in network.adapters)


def test_a_number_of_blocks_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="number of equal blocks"):
        oft.create_network(1.0, 3, 1e-3, None, *tiny())
