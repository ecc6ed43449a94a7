"""Sliders from texts through the whole trainer, for models of several text encoders and for those of flow matching."""

from __future__ import annotations

from pathlib import Path

import family_helpers as helpers
import pytest
import torch
from safetensors.torch import load_file

from library.families import registry
from library.train.run import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    helpers.save_folder(registry.get("sdxl").tiny(0), folder / "xl", "StableDiffusionXLPipeline", "unet")
    (folder / "slider.toml").write_text('resolution = 64\n[[targets]]\npositive = "large"\nnegative = "small"\n', encoding="utf-8")
    return folder


@pytest.mark.parametrize("states", ["pool", "leco"])
@pytest.mark.parametrize(("script", "model"), [("sdxl_train_leco.py", "xl"), ("train_leco.py", ROOT / "examples" / "tiny-flow")])
def test_a_slider_is_learned_from_texts_whatever_the_model(place: Path, script: str, model: Path | str, states: str) -> None:
    argv = [f"--pretrained_model_name_or_path={place / model}", f"--prompts_file={place / 'slider.toml'}", f"--output_dir={place}",
            f"--output_name={Path(model).name}-{states}", "--network_dim=2", "--network_alpha=2", "--learning_rate=1e-2",
            "--max_train_steps=1", f"--text_slider_states={states}", "--text_slider_pool=2", "--max_denoising_steps=2", "--seed=1",
            "--slider_calibrate=false", "--console_log_level=WARNING"]  # fmt: skip
    assert main(argv, script) == 0
    tensors = load_file(place / f"{Path(model).name}-{states}.safetensors")
    ups = [tensor for key, tensor in tensors.items() if "lora_up" in key]
    assert ups and all(torch.isfinite(up).all() for up in ups) and any(up.any() for up in ups)
    assert not any(key.startswith("lora_te") or "attn2" in key for key in tensors)
