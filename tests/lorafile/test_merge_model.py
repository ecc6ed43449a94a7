"""Merging into a model's files: the merged weights are what the adapters add at run time, for every form of a model."""

import pytest
import torch

from library.lorafile import kinds, merge
from library.lorafile.merge_model import merge_into
from library.lorafile.modelfile import open_model
from library.util.header import read_header
from library.util.records import UserError
from library.util.tensorfile import read_tensors
from networks import loha, lokr, lora, oft
from tests.lorafile import models

KINDS = {"lora": lora, "loha": loha, "lokr": lokr}


def merged(source, file, ratio, target, precision=None):
    model = open_model(str(source))
    done = merge_into(model, merge.shares([str(file)], [ratio]), target, precision)
    return done, {name: slot.read() for name, slot in open_model(str(target)).slots.items()}


@pytest.mark.parametrize(("kind", "form"), [*(("lora", form) for form in models.FORMS), ("loha", "sd1 file"), ("lokr", "sd1 file")])
def test_merging_into_files_equals_applying(tmp_path, monkeypatch, form, kind):
    models.with_tiny_sizes(monkeypatch)
    family = form.split()[0]
    parts = models.tiny(family)
    network = models.adapted(KINDS[kind], family, parts, conv_dim="3")
    network.save_weights(tmp_path / "lora.safetensors", None, {})
    source = models.written(form, parts, tmp_path)
    target = tmp_path / ("out" if form.endswith("folder") else "out.safetensors")
    _, weights = merged(source, tmp_path / "lora.safetensors", 0.7, target)
    compared = 0
    for adapter in network.adapters:
        if adapter.lora_name in weights:
            expected = adapter.layer.weight + 0.7 * adapter.delta_weight()
            torch.testing.assert_close(weights[adapter.lora_name], expected.detach(), rtol=1e-4, atol=1e-4)
            compared += 1
    assert compared >= len(network.unet_loras)


@pytest.mark.parametrize("form", ["sd1 folder", "sd1 file"])
def test_merging_leaves_everything_else_as_it_was(tmp_path, monkeypatch, form):
    models.with_tiny_sizes(monkeypatch)
    parts = models.tiny("sd1")
    network = models.adapted(lora, "sd1", parts)
    network.save_weights(tmp_path / "lora.safetensors", None, {})
    source = models.written(form, parts, tmp_path)
    is_folder = form.endswith("folder")
    target = tmp_path / ("out" if is_folder else "out.safetensors")
    done, _ = merged(source, tmp_path / "lora.safetensors", 1.0, target)
    assert done.changed == len(network.adapters) and not done.unknown
    if is_folder:
        assert {p.relative_to(source) for p in source.rglob("*")} == {p.relative_to(target) for p in target.rglob("*")}
        vae = "vae/diffusion_pytorch_model.safetensors"
        assert (source / vae).read_bytes() == (target / vae).read_bytes()
        return
    before, after = read_tensors(source), read_tensors(target)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == len(network.adapters)
    assert read_header(target).metadata["modelspec.title"] == "tiny"
    assert read_header(target).metadata["modelspec.merged_from"] == "model, lora"


EVERY = [
    ("networks.lora", {}), ("networks.lora", {"conv_dim": "2"}), ("networks.lora", {"dora_wd": "true", "conv_dim": "2"}),
    ("networks.lora", {"init": "pissa"}), ("networks.lora", {"use_rslora": "true"}), ("networks.lora_fa", {}),
    ("networks.dylora", {}), ("networks.loha", {"conv_dim": "2", "use_tucker": "true"}), ("networks.ia3", {}),
    ("networks.lokr", {"conv_dim": "2", "use_tucker": "true"}), ("networks.oft", {}), ("networks.oft_flux", {})]
ON_FLUX = ("networks.loha", "networks.lokr", "networks.ia3", "networks.oft_flux")


@pytest.mark.parametrize(("form", "word", "args"), [*(("sd1 folder", *one) for one in EVERY),
                                                    *(("flux1 file", *one) for one in EVERY[:3]),
                                                    *(("flux1 file", *one) for one in EVERY if one[0] in ON_FLUX)])
def test_a_merged_model_predicts_as_the_adapter_does_at_run_time(tmp_path, monkeypatch, form, word, args):
    """The denoiser's own output, of which latents are made step by step."""
    from library.families import registry
    from library.families.interface import LoadRequest
    from networks import registry as adapters
    from networks.request import NetworkRequest

    models.with_tiny_sizes(monkeypatch)
    name = form.split()[0]
    family, parts = registry.get(name), models.tiny(name)
    source = models.written(form, parts, tmp_path)
    plain = predicted(family, parts)
    network = adapters.create(word, NetworkRequest(family.adapter_targets(parts), 2, 2.0, args=args,
                                                   text_encoders=parts.text_encoders, denoiser=parts.denoiser))
    network.apply_to(parts.text_encoders, parts.denoiser, False, True)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    network.eval().set_multiplier(0.7)
    network.save_weights(tmp_path / "a.safetensors", None, {})
    applied = predicted(family, parts)
    target = tmp_path / ("out" if form.endswith("folder") else "out.safetensors")
    done = merge_into(open_model(str(source)), merge.shares([str(tmp_path / "a.safetensors")], [0.7]), target, None)
    assert not done.unknown and done.changed == len(network.adapters)
    loaded = family.load(LoadRequest(str(target), parts.options, parts=frozenset({"denoiser"})))
    parts.denoiser = loaded.denoiser
    merged_output = predicted(family, parts)
    assert (applied - plain).abs().max() > 1e-3
    torch.testing.assert_close(merged_output, applied, rtol=1e-4, atol=1e-4)


def predicted(family, parts):
    """What a family's denoiser makes of fixed latents and a caption."""
    from library.diffusion.schedule import Noised

    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, family.SPEC.latent_channels, 8, 8, generator=generator)
    with torch.no_grad():
        cond = family.encode_text(parts, ["a red circle", "a blue square"])
        return family.predict(parts, Noised(x, x, torch.tensor([100, 700])), cond)


def test_merging_a_rotation_equals_applying_it(tmp_path, monkeypatch):
    models.with_tiny_sizes(monkeypatch)
    parts = models.tiny("sd1")
    network = oft.create_network(1.0, 2, 10.0, None, parts.text_encoders, parts.denoiser)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    network.save_weights(tmp_path / "oft.safetensors", None, {})
    _, weights = merged(models.written("sd1 file", parts, tmp_path), tmp_path / "oft.safetensors", 0.5, tmp_path / "o.safetensors")
    for adapter in network.adapters:
        expected = adapter.layer.weight + 0.5 * adapter.delta_weight()
        torch.testing.assert_close(weights[adapter.lora_name.replace("oft_", "lora_")], expected.detach(), rtol=1e-4, atol=1e-5)


def test_dora_is_merged_to_its_learned_norms():
    g = torch.Generator().manual_seed(0)
    weight, down, up = torch.randn(6, 5, generator=g), torch.randn(2, 5, generator=g), torch.randn(6, 2, generator=g)
    magnitude = torch.rand(6, 1, generator=g) + 0.5
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0), "dora_scale": magnitude}
    merged_weight = weight + kinds.change("x", parts, weight)
    torch.testing.assert_close(merged_weight.norm(dim=1, keepdim=True), magnitude)
    direction = weight + up @ down
    torch.testing.assert_close(merged_weight, direction / direction.norm(dim=1, keepdim=True) * magnitude)


def test_precision_of_the_merged_model_is_as_asked(tmp_path, monkeypatch):
    models.with_tiny_sizes(monkeypatch)
    parts = models.tiny("sd1")
    models.adapted(lora, "sd1", parts).save_weights(tmp_path / "lora.safetensors", None, {})
    source = models.written("sd1 file", parts, tmp_path)
    merged(source, tmp_path / "lora.safetensors", 1.0, tmp_path / "half.safetensors", "fp16")
    kinds = {t.dtype for t in read_tensors(tmp_path / "half.safetensors").values() if t.is_floating_point()}
    assert kinds == {torch.float16}


def test_a_lora_of_another_architecture_is_refused(tmp_path, monkeypatch):
    models.with_tiny_sizes(monkeypatch)
    models.adapted(lora, "flux1", models.tiny("flux1")).save_weights(tmp_path / "lora.safetensors", None, {})
    tensors = {k: t for k, t in read_tensors(tmp_path / "lora.safetensors").items() if "_te" not in k}
    from tests.lorafile import lora_files

    file = lora_files.saved(tmp_path / "denoiser.safetensors", tensors)
    source = models.written("sd1 file", models.tiny("sd1"), tmp_path)
    with pytest.raises(UserError, match="None of its modules is in this model"):
        merged(source, file, 1.0, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_lora_file_is_no_model(tmp_path):
    from tests.lorafile import lora_files

    with pytest.raises(UserError, match="a LoRA file"):
        open_model(str(lora_files.saved(tmp_path / "a.safetensors", lora_files.lora())))
