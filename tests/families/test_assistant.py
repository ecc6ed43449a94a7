"""The frozen LoRA that takes a Turbo model's distillation back while training: there it acts, and nowhere else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from test_contract import cond_of, noised_latents
from test_training import pictures, trained  # noqa: F401  (a fixture)

from library.config.resolve import _about_assistant
from library.config.sections import lora_with_strength
from library.families import registry
from library.flags import parse
from library.sample import loras
from library.train.session import Session
from networks import registry as networks
from networks.request import NetworkRequest

FAMILY = registry.get("zimage")


def network_of(parts, seed: int):
    torch.manual_seed(seed)
    targets = [t for t in FAMILY.adapter_targets(parts) if t.root == "denoiser"]
    return networks.create("networks.lora", NetworkRequest(targets=targets, dim=2, alpha=2, denoiser=parts.denoiser))


@pytest.fixture
def assistant(tmp_path: Path) -> Path:
    network = network_of(FAMILY.tiny(0), 5)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_file(network.file_tensors(), tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def test_the_assistant_acts_in_training_at_its_own_strength_whatever_the_sliders(assistant: Path) -> None:
    parts = FAMILY.tiny(0)
    noised, cond = noised_latents(FAMILY, parts), cond_of(FAMILY, parts)
    trained_one = network_of(parts, 1)  # its change is zero at first: what is seen is the assistant's
    trained_one.apply_to([], parts.denoiser)
    plain = FAMILY.predict(parts, noised, cond)
    helper = loras.hang(FAMILY, parts, lora_with_strength(f"{assistant}=0.5"))
    assert not any(p.requires_grad for p in helper.parameters()) and helper.multiplier == 0.5
    seen = []
    for strength in (1.0, -1.0, 0.0):
        trained_one.set_multiplier(strength)
        seen.append(FAMILY.predict(parts, noised, cond))
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2]) and not torch.allclose(seen[0], plain, atol=1e-3)
    session = SimpleNamespace(assistant=helper)
    with Session.unassisted(session):
        assert torch.equal(FAMILY.predict(parts, noised, cond), plain)
    assert torch.equal(FAMILY.predict(parts, noised, cond), seen[0])


def test_it_changes_what_is_learned_but_is_in_neither_file_nor_sample_pictures(
        assistant: Path, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a circle --w 64 --h 64 --s 2 --d 1", encoding="utf-8")
    drawn, files = [], []
    for more in ((), (f"--assistant_lora={assistant}",)):
        files.append(trained("zimage", "zimage_train_network.py", tmp_path, pictures, "--sample_prompts=prompts.txt",
                             "--sample_at_first", *more))
        first = min((tmp_path / "out" / "sample").glob("*_e000000_*.png"))
        drawn.append(list(Image.open(first).convert("RGB").tobytes()))
        first.unlink()
    assert files[0].keys() == files[1].keys()
    assert not all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    assert drawn[0] == drawn[1]
    with safe_open(tmp_path / "out" / "lora.safetensors", "pt") as opened:
        told = opened.metadata()
    digest = hashlib.sha256(assistant.read_bytes()).hexdigest()
    assert (told["ss_assistant_lora"], told["ss_assistant_lora_strength"]) == ("adapter.safetensors", "1.0")
    assert told["ss_assistant_lora_hash"] == digest


@pytest.mark.parametrize(("model", "more", "told"), [
    ("models/z_image_turbo_bf16.safetensors", (), True), ("Tongyi-MAI/Z-Image-Turbo", (), True),
    ("models/z_image.safetensors", (), False), ("Tongyi-MAI/Z-Image-Turbo", ("--assistant_lora=a.safetensors",), False)])
def test_a_turbo_models_name_brings_one_line_of_advice(model: str, more: tuple[str, ...], told: bool) -> None:
    assert len(_about_assistant(model, parse([*more], "zimage_train_network.py"), FAMILY)) == told
