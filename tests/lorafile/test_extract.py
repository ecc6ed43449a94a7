"""Extraction: the LoRA is the best of its rank for the difference of two models."""

import math

import pytest
import torch

from library.lorafile import extract, factors
from library.lorafile.modelfile import open_model
from library.util.records import UserError
from networks import keys, lora
from tests.lorafile import models


def decaying(rows, columns, power=0.7, seed=0):
    """A matrix whose singular values fall like those of a fine-tuned model's difference."""
    g = torch.Generator().manual_seed(seed)
    size = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, size, generator=g)).Q
    right = torch.linalg.qr(torch.randn(columns, size, generator=g)).Q
    return left * torch.arange(1, size + 1).float() ** -power @ right.T


def test_randomised_decomposition_is_within_one_percent_of_the_best():
    matrix = decaying(300, 260)
    found = factors.random_svd(matrix, 16)
    values = torch.linalg.svdvals(matrix)
    best = math.sqrt(float((values[16:] ** 2).sum()))
    error = math.sqrt(factors.lost(matrix, *found.factors())[0])
    assert best <= error * (1 + 1e-6) and error < best * 1.01
    torch.testing.assert_close(found.values, values[:16], rtol=1e-2, atol=0)


@pytest.mark.parametrize("form", ["sd1 file", "flux1 file", "sd3 file"])
def test_extraction_gives_back_what_was_merged(tmp_path, monkeypatch, form):
    from library.lorafile import merge
    from library.lorafile.merge_model import merge_into

    models.with_tiny_sizes(monkeypatch)
    family = form.split()[0]
    parts = models.tiny(family)
    network = models.adapted(lora, family, parts, conv_dim="3")
    network.save_weights(tmp_path / "lora.safetensors", None, {})
    source = models.written(form, parts, tmp_path)
    original = open_model(str(source))
    merge_into(original, merge.shares([str(tmp_path / "lora.safetensors")], [1.0]), tmp_path / "tuned.safetensors", None)
    # Fused layers have the ranks of all their parts.
    request = extract.ExtractRequest(12, 12, clamp_quantile=1.0, min_diff=0.0)
    modules, reports = extract.extract(original, open_model(str(tmp_path / "tuned.safetensors")), request)
    assert extract.error_of(reports) < 1e-3
    assert all(parts[keys.UP].shape[1] == float(parts[keys.ALPHA]) for parts in modules.values())
    if family == "flux1":
        assert "lora_unet_double_blocks_0_img_attn_qkv" in modules


def test_text_encoders_that_do_not_differ_are_left_out(tmp_path, monkeypatch):
    models.with_tiny_sizes(monkeypatch)
    before, after = models.tiny("sd1"), models.tiny("sd1")
    with torch.no_grad():
        for parameter in after.denoiser.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    files = [models.written("sd1 file", parts, tmp_path, name) for parts, name in ((before, "a"), (after, "b"))]
    first, second = (open_model(str(path)) for path in files)
    modules, reports = extract.extract(first, second, extract.ExtractRequest(4))
    assert modules and all(stem.startswith("lora_unet_") for stem in modules)
    assert not any("resnets" in stem for stem in modules)  # without conv_dim
    assert not any("time_embedding" in stem for stem in modules)  # outside the blocks
    assert 0 < extract.error_of(reports) < 1
    with pytest.raises(UserError, match="do not differ"):
        extract.extract(first, first, extract.ExtractRequest(4))


def test_clamping_limits_values_to_kohyas_quantile():
    g = torch.Generator().manual_seed(0)
    up, down = torch.randn(50, 4, generator=g), torch.randn(4, 60, generator=g)
    limit = float(torch.quantile(torch.cat((up.flatten(), down.flatten())), 0.9))
    clamped = factors.clamped(up, down, 0.9)
    torch.testing.assert_close(clamped[0], up.clamp(-limit, limit))
    torch.testing.assert_close(clamped[1], down.clamp(-limit, limit))
    assert factors.clamped(up, down, 1.0)[0] is up


def test_models_of_different_architectures_are_refused(tmp_path, monkeypatch):
    models.with_tiny_sizes(monkeypatch)
    files = [models.written(f"{family} file", models.tiny(family), tmp_path, family) for family in ("sd1", "flux1")]
    with pytest.raises(UserError, match="different architectures"):
        extract.extract(*(open_model(str(path)) for path in files), extract.ExtractRequest(4))
