"""Formats: what one program wrote, another reads, and nothing is lost on the way there and back."""

import pytest
import torch

from library.families import registry
from library.lorafile import convert, file, kinds
from networks import keys, lora
from tests.lorafile import lora_files, models


@pytest.fixture
def tiny_targets(monkeypatch):
    """Let conversion know the tiny models instead of the released ones."""
    made = {}

    def targets_of(family):
        if family not in made:
            parts = models.tiny(family)
            made[family] = tuple(registry.get(family).adapter_targets(parts))
        return made[family]

    monkeypatch.setattr(convert, "targets_of", targets_of)
    return targets_of


def amounts(tensors, targets):
    """Module -> what it adds to its weight, whatever format the tensors are in."""
    found, unknown = keys.to_kohya(tensors, keys.Names.of(targets))
    assert not unknown
    return {name: kinds.product(name, parts).weight() for name, parts in found.items()}


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux1", "sd3"])
@pytest.mark.parametrize("fmt", ["diffusers", "comfy"])
def test_converting_there_and_back_keeps_every_module(tmp_path, tiny_targets, family, fmt):
    network = models.adapted(lora, family, models.tiny(family))
    network.save_weights(tmp_path / "a.safetensors", None, {})
    first = file.read(tmp_path / "a.safetensors")
    tensors, unknown = convert.convert(first, fmt, family)
    assert not unknown
    second = file.read(lora_files.saved(tmp_path / "b.safetensors", tensors, {}))
    # ComfyUI has kohya's names for text encoders.
    assert {keys.format_of(stem) for stem in second.modules} - {"kohya"} == {fmt}
    back, _ = convert.convert(second, "kohya", family)
    before, after = (amounts(t, tiny_targets(family)) for t in (keys.flatten(first.modules), back))
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-5)


def test_the_family_is_told_by_metadata_or_by_names_and_sizes(tmp_path, tiny_targets, monkeypatch):
    network = models.adapted(lora, "sdxl", models.tiny("sdxl"))
    network.save_weights(tmp_path / "a.safetensors", None, {})
    monkeypatch.setattr(registry, "names", lambda: ("sd1", "sdxl", "flux1"))
    assert convert.family_of(file.read(tmp_path / "a.safetensors")) == "sdxl"
    for version, family in (("sd_v2_v", "sd1"), ("sdxl_base_v1-0", "sdxl"), ("flux1", "flux1")):
        told = file.read(lora_files.saved(tmp_path / "b.safetensors", lora_files.lora(), {"ss_base_model_version": version}))
        assert convert.family_of(told) == family


def test_released_models_have_kohyas_names_without_their_weights():
    names = {t.name for t in convert.targets_of("sd1")}
    assert len([n for n in names if n.startswith("lora_te_")]) == 72
    assert "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0" in names


def test_what_peft_wrote_is_read_resized_and_read_back_by_peft(tmp_path):
    peft = pytest.importorskip("peft")
    from library.lorafile import resize

    parts = models.tiny("sd1")
    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k"], init_lora_weights=False)
    theirs = peft.get_peft_model(parts.denoiser, config)
    tensors = {"unet." + k.removeprefix("base_model.model."): t.contiguous()
               for k, t in peft.get_peft_model_state_dict(theirs).items()}
    x = torch.randn(1, 4, 8, 8)
    cond = torch.randn(1, 7, parts.denoiser.config.cross_attention_dim)

    def output():
        with torch.no_grad():
            return theirs(x, torch.tensor([3]), cond).sample

    before = output()
    source = file.read(lora_files.saved(tmp_path / "peft.safetensors", tensors, {}))
    modules, _ = resize.resize(source, resize.ResizeRequest.of(8))
    back = {"base_model.model." + k.removeprefix("unet."): t for k, t in file.spelled(modules, "diffusers").items()}
    peft.set_peft_model_state_dict(theirs, back)
    torch.testing.assert_close(output(), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr"])
def test_what_lycoris_wrote_amounts_to_what_lycoris_computes(algorithm, monkeypatch):
    pytest.importorskip("lycoris")
    monkeypatch.setenv("LYCORIS_KERNEL_BACKEND", "torch")
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    layer = torch.nn.Linear(24, 36)
    module = {"lora": LoConModule, "loha": LohaModule, "lokr": LokrModule}[algorithm]("lora_unet_x", layer, 1.0, 3, 2.0)
    x = torch.eye(24)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        before = layer(x)
        module.apply_to()
        module.eval()
        expected = (layer(x) - before).T
    parts = {k: t.detach() for k, t in module.state_dict().items()}
    torch.testing.assert_close(kinds.product("x", parts).weight(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kinds.change("x", parts, layer.weight.detach()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", ["linear", "conv"])
@pytest.mark.parametrize(("algorithm", "more"), [("diag_oft", {}), ("diag_oft", {"rescaled": True}), ("boft", {}),
                                                 ("diag_oft", {"constraint": 0.01}), ("boft", {"rescaled": True}), ("glora", {}),
                                                 ("ia3", {}), ("loha", {"use_tucker": True}), ("lokr", {"use_tucker": True}),
                                                 ("locon", {"use_tucker": True}), ("locon", {"weight_decompose": True})])
def test_lycoris_modules_merge_to_what_lycoris_computes_at_any_strength(algorithm, more, shape, monkeypatch):
    lycoris = pytest.importorskip("lycoris.modules")
    monkeypatch.setenv("LYCORIS_KERNEL_BACKEND", "torch")
    module_of = {"diag_oft": lycoris.DiagOFTModule, "boft": lycoris.ButterflyOFTModule, "glora": lycoris.GLoRAModule,
                 "ia3": lycoris.IA3Module, "loha": lycoris.LohaModule, "lokr": lycoris.LokrModule, "locon": lycoris.LoConModule}
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 32) if shape == "linear" else torch.nn.Conv2d(24, 32, 3, padding=1)
    strength = 1.0 if "weight_decompose" in more else 0.6  # lycoris moves DoRA in another way, UIs as here
    module = module_of[algorithm]("lora_unet_x", layer, strength, 4, 2.0, **more)
    x = torch.randn(2, 24) if shape == "linear" else torch.randn(1, 24, 5, 5)
    weight = layer.weight.detach().clone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        module.apply_to()
        module.eval()
        expected = layer(x)
    parts = {k: t.detach() for k, t in module.custom_state_dict().items()} if algorithm == "glora" else {
        k: t.detach() for k, t in module.state_dict().items()}
    changed = weight + kinds.change("lora_unet_x", parts, weight, strength)
    found = torch.nn.functional.linear(x, changed, layer.bias) if shape == "linear" else torch.nn.functional.conv2d(
        x, changed, layer.bias, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
