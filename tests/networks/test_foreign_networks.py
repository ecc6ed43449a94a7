"""Network modules of other packages: a stand-in with the oldest signatures, and lycoris itself."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch

from library.util.records import UserError
from networks import lycoris_fixes, registry
from networks.registry import NetworkRequest
from networks.targets import derive_targets
from tests.networks.models import full_size, golden, output, tiny


def _request(text, unet, **more) -> NetworkRequest:
    return NetworkRequest(derive_targets(text, unet), more.pop("dim", 4), more.pop("alpha", 2.0), text_encoders=[text],
                          denoiser=unet, **more)


# ---------------------------------------------------------------------------------------------------------- ours


def test_every_word_of_ours_resolves_to_kohyas_two_functions():
    for name in registry.names():
        module = registry.load_module(name)
        assert callable(module.create_network) and callable(module.create_network_from_weights)


@pytest.mark.parametrize(("word", "text"), [("networks.lroa", "Did you mean networks.lora"),
                                            ("nopackage.kohya", "pip install nopackage")])
def test_unknown_module_is_answered_with_what_to_do(word, text):
    with pytest.raises(UserError) as error:
        registry.load_module(word)
    assert text in error.value.problems[0].remedy


def test_attach_goes_on_from_a_file(tmp_path):
    text, unet = tiny()
    network = registry.attach("networks.lora", _request(text, unet, dim=8))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    network.save_weights(tmp_path / "a.safetensors", None, None)
    want = output(text, unet)
    for more in ({"dim": 8}, {"dim": None, "dim_from_weights": True}):
        text2, unet2 = tiny()
        registry.attach("networks.lora", _request(text2, unet2, weights=tmp_path / "a.safetensors", **more))
        assert torch.equal(output(text2, unet2), want)


def test_base_weights_are_merged_each_at_its_strength(tmp_path):
    text, unet = tiny()
    network = registry.attach("networks.lora", _request(text, unet))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    network.save_weights(tmp_path / "a.safetensors", None, None)
    network.set_multiplier(0.75)
    want = output(text, unet)
    text2, unet2 = tiny()
    file = tmp_path / "a.safetensors"
    registry.merge_base("networks.lora", _request(text2, unet2), [(file, 0.5), (file, 0.25)])
    assert torch.allclose(output(text2, unet2), want, atol=1e-5)


def test_dim_from_weights_without_a_file_is_refused():
    text, unet = tiny()
    with pytest.raises(UserError, match="no file"):
        registry.attach("networks.lora", _request(text, unet, dim_from_weights=True))


# --------------------------------------------------------------------------------------------------- a stand-in


class _Scale(torch.nn.Module):
    def __init__(self, name, layer):
        super().__init__()
        self.lora_name, self.layer, self.multiplier = name, (layer,), 1.0
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def hang(self):
        self.original = self.layer[0].forward
        self.layer[0].forward = lambda x: self.original(x) * (1 + self.weight * self.multiplier)


class _OldNetwork(torch.nn.Module):
    """What the oldest modules offered: two-argument groups without descriptions, nothing optional."""

    def __init__(self, text_encoder, unet):
        super().__init__()
        assert not isinstance(text_encoder, list)
        self.text_encoder_loras = [_Scale("lora_te_encoder_layers_0_mlp_fc1", text_encoder.encoder.layers[0].mlp.fc1)]
        self.unet_loras = [_Scale("lora_unet_conv_out", unet.conv_out)]

    def apply_to(self, text_encoder, unet, apply_text_encoder=True, apply_unet=True):
        for adapter in self.text_encoder_loras + self.unet_loras:
            adapter.hang()
            self.add_module(adapter.lora_name, adapter)

    def prepare_optimizer_params(self, text_encoder_lr, unet_lr):
        return [{"params": [p for m in loras for p in m.parameters()], "lr": lr}
                for loras, lr in ((self.text_encoder_loras, text_encoder_lr), (self.unet_loras, unet_lr))]


@pytest.fixture
def old_module(monkeypatch):
    module = types.ModuleType("someones.network")
    module.create_network = lambda multiplier, dim, alpha, vae, te, unet, **args: _OldNetwork(te, unet)
    package = types.ModuleType("someones")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "someones", package)
    monkeypatch.setitem(sys.modules, "someones.network", module)


def test_old_module_gets_the_whole_contract(old_module, tmp_path):
    text, unet = tiny()
    plain = output(text, unet)
    network = registry.attach("someones.network", _request(text, unet))
    names = ["lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_unet_conv_out"]
    assert sorted(network.state_dict()) == [f"{n}.weight" for n in names]
    groups, words = network.prepare_optimizer_params([1e-5], None, 1e-4)
    assert [(w, g["lr"], len(g["params"])) for w, g in zip(words, groups, strict=True)] == [
        ("textencoder", 1e-5, 1), ("unet", 1e-4, 1)]
    with torch.no_grad():
        for p in network.get_trainable_params():
            p.fill_(0.5)
    full = output(text, unet)
    assert not torch.allclose(full, plain)
    with network.at(0.0):
        assert torch.allclose(output(text, unet), plain)
    network.set_enabled(False)
    assert torch.allclose(output(text, unet), plain)
    network.set_enabled(True)
    assert torch.equal(output(text, unet), full)
    network.save_weights(tmp_path / "a.safetensors", None, None)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    assert network.load_weights(tmp_path / "a.safetensors").loaded == 2
    assert torch.equal(output(text, unet), full)
    with pytest.raises(UserError, match="cannot scale"):
        network.apply_max_norm_regularization(1.0, "cpu")


def test_module_that_refuses_its_arguments_is_named(monkeypatch, old_module):
    def refuse(*args, **kwargs):
        raise ValueError("unknown algo foo")

    monkeypatch.setattr(sys.modules["someones.network"], "create_network", refuse)
    text, unet = tiny()
    with pytest.raises(UserError, match=r"someones.network.*unknown algo foo"):
        registry.attach("someones.network", _request(text, unet))


def test_example_of_the_documentation_trains(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "network-modules.md").read_text(encoding="utf-8")
    module = types.ModuleType("my_adapter")
    exec(page.split("```python\n")[1].split("```")[0], vars(module))
    monkeypatch.setitem(sys.modules, "my_adapter", module)
    text, unet = tiny()
    plain = output(text, unet)
    network = registry.attach("my_adapter", _request(text, unet))
    groups, _ = network.prepare_optimizer_params(None, 0.1, 1e-4)
    optimizer = torch.optim.SGD(groups)
    output(text, unet).square().sum().backward()
    optimizer.step()
    assert not torch.equal(output(text, unet), plain)
    assert all(k.startswith("lora_unet_") for k in network.file_tensors())


# -------------------------------------------------------------------------------------------------------- lycoris


@pytest.fixture(autouse=True)
def plain_kernels(monkeypatch):
    """lycoris compiles its formulas where it can, which takes longer than a whole test."""
    monkeypatch.setenv("LYCORIS_KERNEL_BACKEND", "torch")


@pytest.mark.parametrize(("recorded", "args"), [("loha", {"algo": "loha"}), ("lokr", {"algo": "lokr"}),
                                                ("locon (lycoris)", {"algo": "locon"})])
def test_lycoris_modules_are_named_and_shaped_as_under_kohya(recorded, args):
    pytest.importorskip("lycoris")
    text, unet = full_size()
    network = registry.create("lycoris.kohya", _request(text, unet, args=args))
    network.apply_to([text], unet)
    try:
        shapes = {k: list(v.shape) for k, v in network.state_dict().items()}
        want = golden("network_keys.json")[recorded]
        assert len(shapes) == want["keys"]
        for pattern in want["patterns"].values():
            assert shapes[pattern["example"]] == pattern["shape"]
        assert sum(k.startswith("lora_te_text_model_") for k in shapes) == sum(k.startswith("lora_te") for k in shapes)
    finally:
        network.remove()


ALGORITHMS = ["lora", "locon", "loha", "lokr", "ia3", "dylora", "glora", "diag-oft", "boft", "full"]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_lycoris_algorithm_trains_saves_and_goes_on(algo, tmp_path):
    pytest.importorskip("lycoris")
    text, unet = tiny()
    args = {"algo": algo} | ({"preset": "attn-only"} if algo == "full" else {})
    network = registry.attach("lycoris.kohya", _request(text, unet, args=args))
    network.on_epoch_start(text, unet)
    plain = output(text, unet)
    groups, words = network.prepare_optimizer_params([1e-2], 1e-2, 1e-2)
    assert words == ["textencoder", "unet"]
    network.prepare_grad_etc([text], unet)
    assert network.largest_change() == 0.0
    optimizer = torch.optim.AdamW(groups)
    for _ in range(2):
        output(text, unet).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert network.largest_change() > 0.0
    network.eval()
    trained = output(text, unet)
    assert not torch.allclose(trained, plain, atol=1e-5)
    network.save_weights(tmp_path / "a.safetensors", None, None)

    text2, unet2 = tiny()
    again = registry.attach("lycoris.kohya", _request(text2, unet2, args=args, weights=tmp_path / "a.safetensors"))
    again.eval()
    saved = again.state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in network.state_dict().items())
    if algo != "dylora":  # it draws its rank at every call, in evaluation too
        assert torch.allclose(output(text2, unet2), trained, atol=1e-5)
        with torch.no_grad():
            again.remove()
            again.merge_to([text2], unet2)
        assert torch.allclose(output(text2, unet2), trained, atol=1e-4), "merged equals applied"


def test_lycoris_network_from_a_file_has_its_modules(tmp_path):
    pytest.importorskip("lycoris")
    text, unet = tiny()
    network = registry.attach("lycoris.kohya", _request(text, unet, args={"algo": "loha"}))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    network.eval()
    want = output(text, unet)
    network.save_weights(tmp_path / "a.safetensors", None, None)
    text2, unet2 = tiny()
    other = registry.attach("lycoris.kohya", _request(text2, unet2, dim=None, dim_from_weights=True,
                                                      weights=tmp_path / "a.safetensors")).eval()
    assert sorted(other.state_dict()) == sorted(network.state_dict())
    assert torch.allclose(output(text2, unet2), want, atol=1e-5)
    text3, unet3 = tiny()
    registry.merge_base("lycoris.kohya", _request(text3, unet3), [(tmp_path / "a.safetensors", 1.0)])
    assert torch.allclose(output(text3, unet3), want, atol=1e-4)


def test_slider_configuration_file_adapts_the_paths_it_names(tmp_path, caplog):
    pytest.importorskip("lycoris")
    config = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 1,
              "apply_preset": {"target_module": ["attn1.to_q", "attn1.to_k", "conv_in", "time_embedding.linear_1"]}}
    file = tmp_path / "lycoris_config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    text, unet = tiny()
    network = registry.attach("lycoris.kohya", _request(text, unet, args={"config": str(file)}))
    names = {a.lora_name for a in network.adapters}
    blocks = sum(type(m).__name__ == "BasicTransformerBlock" for m in unet.modules())
    assert len(names) == 2 * blocks + 2 and not network.text_encoder_loras
    assert {"lora_unet_conv_in", "lora_unet_time_embedding_linear_1"} <= names
    assert "module paths, not classes" in caplog.text


@pytest.mark.parametrize("algo", ["lokr", "loha", "full"])
def test_configuration_file_on_a_transformer_holds_saves_and_goes_on(algo, tmp_path, caplog):
    pytest.importorskip("lycoris")
    from library.families import registry as families

    config = {"algo": algo, "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 1,
              "apply_preset": {"target_module": ["to_q", "to_k", "to_v", "to_out.0", "to_qkv"]}}
    file = tmp_path / "lycoris_config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    args = {"config": str(file)}

    def attached(**more):
        parts = families.get("flux1").tiny(0)
        targets = [t for t in families.get("flux1").adapter_targets(parts) if t.root == "denoiser"]
        request = NetworkRequest(targets, 16, 8.0, args=args, denoiser=parts.denoiser, **more)
        return registry.attach("lycoris.kohya", request), targets

    with caplog.at_level("INFO"):
        network, targets = attached()
    assert "not from --network_dim" in caplog.text
    assert {a.lora_name for a in network.adapters} == {t.name for t in targets if ".attn.to_" in t.path and "add" not in t.path}
    assert {a.lora_dim for a in network.adapters if algo != "full"} <= {4}
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    network.save_weights(tmp_path / "a.safetensors", None, None)
    again, _ = attached(weights=tmp_path / "a.safetensors")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in network.state_dict().items())
    told = lycoris_fixes.facts_of_config("lycoris.kohya", args)
    assert (told["ss_network_dim"], told["ss_network_alpha"], told["ss_lycoris_config"]) == (4, 1, config)
    assert lycoris_fixes.facts_of_config("networks.lora", args) == {}


def test_unknown_lycoris_preset_is_answered_with_the_known_ones():
    pytest.importorskip("lycoris")
    text, unet = tiny()
    with pytest.raises(UserError) as error:
        registry.create("lycoris.kohya", _request(text, unet, args={"preset": "fulll"}))
    assert "full-lin" in error.value.problems[0].remedy


@pytest.mark.parametrize("algo", ["lokr", "loha"])
@pytest.mark.parametrize("family", ["flux1", "sd3"])
def test_lycoris_trains_and_goes_on_on_transformers(family, algo, tmp_path):
    pytest.importorskip("lycoris")
    from library.families import registry as families

    module = families.get(family)

    def attached(**more):
        parts = module.tiny(0)
        targets = [t for t in module.adapter_targets(parts) if t.root == "denoiser"]
        request = NetworkRequest(targets, 4, 2.0, args={"algo": algo}, denoiser=parts.denoiser, text_encoders=[], **more)
        return registry.attach("lycoris.kohya", request), targets

    network, targets = attached()
    groups, _ = network.prepare_optimizer_params(None, 1e-2, 1e-2)
    assert {a.lora_name for a in network.adapters} >= {t.name for t in targets}
    with torch.no_grad():
        for group in groups:
            for p in group["params"]:
                p.add_(torch.randn_like(p) * 0.1)
    network.save_weights(tmp_path / "a.safetensors", None, None)
    again, _ = attached(weights=tmp_path / "a.safetensors")
    change = [torch.stack([a.get_diff_weight(1)[0].norm() for a in n.adapters]) for n in (network, again)]
    torch.testing.assert_close(*change, rtol=1e-4, atol=1e-5)


def test_lycoris_norms_train_and_go_on(tmp_path):
    pytest.importorskip("lycoris")
    text, unet = tiny()
    args = {"algo": "lora", "train_norm": "True"}
    network = registry.attach("lycoris.kohya", _request(text, unet, args=args)).eval()
    assert any(key.endswith(".w_norm") for key in network.state_dict())
    with torch.no_grad():
        for key, p in network.named_parameters():
            if key.endswith("_norm"):
                p.add_(torch.randn_like(p) * 0.1)
    changed = output(text, unet)
    network.save_weights(tmp_path / "a.safetensors", None, None)
    text2, unet2 = tiny()
    registry.attach("lycoris.kohya", _request(text2, unet2, args=args, weights=tmp_path / "a.safetensors")).eval()
    torch.testing.assert_close(output(text2, unet2), changed, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(output(*tiny()), changed, atol=1e-4)
