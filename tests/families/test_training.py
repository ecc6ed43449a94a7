"""Every flow-matching family through the whole trainer: tiny model, four pictures, two steps, a file that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import family_helpers as helpers
import pytest
import torch
from safetensors.torch import load_file

from library.families import registry
from library.train.run import main
from networks import keys

ROOT = Path(__file__).parents[2]
UNETS = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
FLOW = [spec.name for spec in registry.specs() if spec.target_space == "flow"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "pictures" / "1_thing"
    folder.mkdir(parents=True)
    for i, colour in enumerate(((200, 30, 30), (30, 200, 30))):
        Image.new("RGB", (64, 64), colour).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"thing number {i}", encoding="utf-8")
    return folder.parent


def trained(name: str, script: str, folder: Path, pictures: Path, *more: str) -> dict[str, Any]:
    family = registry.get(name)
    model = folder / "model"
    if not model.exists():
        helpers.save_folder(family.tiny(0), model, UNETS.get(name, "APipeline"), "unet" if name in UNETS else "transformer")
    arguments = [f"--pretrained_model_name_or_path={model}", f"--train_data_dir={pictures}", f"--output_dir={folder / 'out'}",
                 "--output_name=lora", "--resolution=64,64", "--network_module=networks.lora", "--network_dim=2",
                 "--network_alpha=2", "--learning_rate=1e-2", "--caption_extension=.txt", "--max_train_steps=2", "--seed=1",
                 "--console_log_level=WARNING", "--network_train_unet_only", *more]  # fmt: skip
    assert main(arguments, script) == 0
    return load_file(folder / "out" / "lora.safetensors")


@pytest.mark.parametrize("name", FLOW)
def test_two_steps_leave_a_file_whose_every_module_is_one_of_the_models(name: str, tmp_path: Path, pictures: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    family = registry.get(name)
    cached = ("--cache_latents_to_disk", "--cache_text_encoder_outputs_to_disk")
    tensors = trained(name, "train_network.py", tmp_path, pictures, *cached)
    targets = [t for t in family.adapter_targets(family.tiny(0)) if t.root == "denoiser"]
    found, unknown = keys.to_kohya(tensors, keys.Names.of(targets))
    assert not unknown and found.keys() == {t.name for t in targets}
    assert any(parts["lora_up.weight"].any() for parts in found.values())
    assert list((pictures / "1_thing").glob(f"*{family.SPEC.text_cache_suffix}*.npz"))
    again = trained(name, family.SPEC.scripts[0], tmp_path, pictures, *cached, "--gradient_checkpointing")
    assert again.keys() == tensors.keys()


def test_a_part_that_programs_leave_out_is_announced_where_it_was_trained(
        tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    without = trained("lumina2", "lumina_train_network.py", tmp_path, pictures)
    assert "left out by" not in capsys.readouterr().out
    tensors = trained("lumina2", "lumina_train_network.py", tmp_path, pictures, "--network_train_unet_only=false")
    assert "left out by ComfyUI: what was learned in the text encoder" in capsys.readouterr().out
    assert any(key.startswith("lora_te") for key in tensors.keys() - without.keys())


def pattern(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers between -0.2 and 0.2 that depend on the shape alone."""
    return (torch.arange(tensor.numel()).reshape(tensor.shape) * 0.61803 % 1 - 0.5) * 0.4


SAVERS = {"in memory": ("--gradient_checkpointing", "--cache_latents", "--cache_text_encoder_outputs"),
          "on disk": ("--cache_latents_to_disk", "--cache_text_encoder_outputs_to_disk")}  # fmt: skip
"""Ways to save memory that must train the same."""


@pytest.mark.parametrize("name", registry.names())
def test_checkpointing_and_caches_change_nothing(name: str, tmp_path: Path, pictures: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.chdir(tmp_path)
    # Every encoding draws anew; the middle of what it may draw is the same each time. A text encoder that is gone leaves its
    # adapters' draws to the next ones; here every layer begins alike.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, *_, **__: tensor.data.copy_(pattern(tensor)))
    plain = trained(name, "train_network.py", tmp_path, pictures)
    for saver, flags in SAVERS.items():
        saving = trained(name, "train_network.py", tmp_path, pictures, *flags)
        assert plain.keys() == saving.keys()
        assert all(torch.allclose(plain[k], saving[k], atol=2e-5) for k in plain), saver
