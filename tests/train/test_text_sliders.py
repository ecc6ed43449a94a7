"""Sliders learned from texts, from the prompts file to the saved LoRA."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.train.conftest import ROOT

TEXTS = """
resolution = 64
[[targets]]
target_class = "solo"
positive = "solo, large"
negative = "solo, small"
attributes = ["red circle, {}", "blue ring, {}"]
"""


@pytest.fixture
def slide(tmp_path, train):
    """Train from texts: ``slide("name", **flags)``."""
    file = tmp_path / "slider.toml"
    file.write_text(TEXTS, encoding="utf-8")

    def run(name, *more, **flags):
        return train(name, *more, **{"train_data_dir": None, "resolution": None, "prompts_file": file, "max_train_steps": 3,
                                     "train_batch_size": 2, "text_slider_pool": 2, "max_denoising_steps": 2} | flags)

    return run


def same(first, other):
    one, two = first.tensors(), other.tensors()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(slide):
    first = slide("first")
    assert first.code == 0 and same(first, slide("again")) and not same(first, slide("other", seed=2, max_train_steps=1))


def test_a_resumed_run_equals_the_unbroken_one(slide):
    whole = slide("whole", save_state=True, save_every_n_steps=2)
    state = next(path for path in whole.folder.iterdir() if path.is_dir() and "000002" in path.name)
    assert same(whole, slide("resumed", resume=state))


def test_the_file_tells_its_texts_and_holds_no_text_path(slide):
    run = slide("told")
    metadata = run.metadata()
    assert metadata["ss_leco_prompt_count"] == "2" and metadata["ss_leco_prompts_file"] == "slider.toml"
    assert "red circle, solo, large" in metadata["ss_leco_preview"] and metadata["ss_slider_target"] == "auto"
    assert not any("attn2" in key or key.startswith("lora_te") for key in run.tensors())


def test_pictures_and_texts_train_together(slide):
    pictures = {"train_data_dir": ROOT / "examples" / "dataset", "resolution": "64,64"}
    both = slide("both", **pictures)
    assert both.code == 0 and not same(both, slide("pictures", prompts_file=None, slider_lora_target=True, **pictures))
    assert not same(both, slide("texts"))


def test_flags_of_text_sliders_change_what_is_learned(slide):
    flags = [{"text_slider_states": "leco"}, {"text_slider_pool": 4}, {"max_denoising_steps": 3},
             {"leco_denoise_guidance_scale": 1}, {"attributes": "yellow"}]
    plain = slide("plain", max_train_steps=1)
    for number, flag in enumerate(flags):
        assert not same(plain, slide(f"changed{number}", max_train_steps=1, **flag)), flag


def test_the_change_that_is_asked_for_is_learned_on_both_sides(slide):
    run = slide("long", max_train_steps=40, text_slider_pool=4, max_denoising_steps=4, learning_rate=2e-3)
    assert sum(run.losses[-10:]) < 0.8 * sum(run.losses[:10])


@pytest.mark.parametrize("kind", ["v", "flow"])
def test_other_kinds_of_model_learn_from_texts_too(tmp_path, kind):
    """The objective alone, on tiny models that predict velocity and flow: either end gets a gradient of its own sign."""
    from types import SimpleNamespace

    from library.config.run_config import PromptPair, TextSliderConfig
    from library.diffusion.schedule import FlowSchedule, ddpm
    from library.train.guide import Guide
    from library.train.objectives.text import slide as objective

    schedule = ddpm("v") if kind == "v" else FlowSchedule(lambda count, size: torch.rand(count))
    gain, words = torch.nn.Parameter(torch.zeros(())), {"a": 0.0, "more": 1.0, "less": -1.0}
    state = SimpleNamespace(strength=1.0)

    class Multiplied:
        def __init__(self, strength):
            self.strength = strength

        def __enter__(self):
            self.before, state.strength = state.strength, self.strength

        def __exit__(self, *_):
            state.strength = self.before

    def predict(noised, cond):
        return noised.x_BCHW * 0.1 + cond["words"].view(-1, 1, 1, 1) + state.strength * gain

    def add_noise(latents):
        times = schedule.draw(len(latents), tuple(latents.shape[-2:]))
        return schedule.add_noise(latents, torch.randn_like(latents), times)

    session = SimpleNamespace(
        device="cpu", multiplier=Multiplied, predict=predict, add_noise=add_noise, weigh=lambda t: torch.ones(len(t)),
        distance=lambda one, two, t: (one - two).square(),
        family=SimpleNamespace(SPEC=SimpleNamespace(vae_factor=8, cond_padding={}), size_cond=lambda *a: {}))
    config = TextSliderConfig(Path("a.toml"), (PromptPair("a", "more", "less", "a"),), kept=())
    guide = Guide(config, {text: {"words": torch.tensor([value])} for text, value in words.items()}, ())
    optimizer = torch.optim.SGD([gain], 0.5)
    for _ in range(60):
        parts = list(objective(guide, session, torch.randn(2, 4, 4, 4), list(config.pairs) * 2))
        assert len(parts) == 2
        sum(part.loss for part in parts).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert gain.item() == pytest.approx(1.0, abs=0.01)  # half of the difference between "more" (1) and "less" (-1)


def test_every_prompt_is_drawn_at_every_strength_in_one_picture(slide, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red circle --w 64 --h 64 --s 1 --d 1\nblue ring --w 64 --h 64 --s 1 --d 2\n", encoding="utf-8")
    run = slide("strips", max_train_steps=1, learning_rate=0.5, sample_prompts=prompts, sample_every_n_steps=1,
                slider_sample_strengths="-1,0,1")
    files = sorted((run.folder / "sample").iterdir())
    assert len(files) == 2
    sheet = Image.open(files[0])
    assert sheet.width > 3 * 128
    cells = [sheet.crop((8 + place * 136, sheet.height - 136, 136 + place * 136, sheet.height - 8)) for place in range(3)]
    assert cells[0].tobytes() != cells[1].tobytes() != cells[2].tobytes()


def test_a_prompt_without_a_strength_takes_the_one_of_the_run(slide, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red circle --w 64 --h 64 --s 1 --d 1\nred circle --w 64 --h 64 --s 1 --d 1 --am -1\n", encoding="utf-8")
    run = slide("strength", max_train_steps=1, learning_rate=0.5, sample_prompts=prompts, sample_every_n_steps=1,
                sample_adapter_strength=-1)
    one, other = (Image.open(path) for path in sorted((run.folder / "sample").iterdir()))
    assert one.tobytes() == other.tobytes()


def test_the_script_of_text_sliders_asks_for_its_texts(train, capsys):
    from library.train.run import main

    assert main(["--pretrained_model_name_or_path=x", "--output_dir=y"], "train_leco.py") == 1
    assert "--prompts_file" in capsys.readouterr().err


def test_the_example_of_the_documentation_trains_and_shows_its_strips(tmp_path, monkeypatch):
    from library.train.run import main

    monkeypatch.chdir(ROOT)
    assert main(["--config_file", "examples/text_slider.toml", f"--output_dir={tmp_path}", "--max_train_steps=1",
                 "--text_slider_pool=2", "--slider_sample_strengths=-1,1"]) == 0
    assert (tmp_path / "size.safetensors").is_file() and len(list((tmp_path / "sample").iterdir())) == 6
