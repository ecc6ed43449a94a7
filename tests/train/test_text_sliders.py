"""Sliders learned from texts, from the prompts file to the saved LoRA."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from library.train import guide
from tests.train.conftest import ROOT, Run

TEXTS = """
resolution = 64
[[targets]]
target_class = "solo"
positive = "solo, large"
negative = "solo, small"
attributes = ["red circle, {}", "blue ring, {}"]
"""


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Train from texts, each command once: ``slide(**flags)``; what it leaves stays for the tests of this file."""
    from library.train.run import main

    folder, done = tmp_path_factory.mktemp("texts"), {}
    file = folder / "slider.toml"
    file.write_text(TEXTS, encoding="utf-8")

    def run(name="lora", **flags):
        settings = {
            "pretrained_model_name_or_path": ROOT / "examples" / "tiny-sd", "prompts_file": file, "output_name": name,
            "network_module": "networks.lora", "network_dim": 4, "network_alpha": 4, "learning_rate": 1e-3, "max_train_steps": 1,
            "train_batch_size": 2, "text_slider_pool": 2, "max_denoising_steps": 2, "slider_calibrate": "false", "seed": 1,
            "console_log_level": "WARNING"} | flags
        argv = [f"--{flag}" if value is True else f"--{flag}={value}" for flag, value in settings.items() if value is not None]
        if str(argv) not in done:
            place = folder / str(len(done))
            done[str(argv)] = Run(place, name, main([*argv, f"--output_dir={place}"]))
        return done[str(argv)]

    return run


@pytest.fixture
def whole(slide):
    """Three steps, with a state folder after the second."""
    return slide(max_train_steps=3, save_state=True, save_every_n_steps=2)


def same(first, other):
    one, two = first.tensors(), other.tensors()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(slide, whole):
    assert whole.code == 0 and same(whole, slide("again", max_train_steps=3)) and not same(slide(), slide(seed=2))


def test_a_resumed_run_equals_the_unbroken_one(slide, whole):
    state = next(path for path in whole.folder.iterdir() if path.is_dir() and "000002" in path.name)
    assert same(whole, slide(max_train_steps=3, resume=state))


def test_the_pool_is_drawn_anew_when_its_pictures_have_been_used_often_and_a_resumed_run_draws_the_same(slide, whole, monkeypatch):
    monkeypatch.setattr(guide, "USES", 1)  # two pictures, two of them in a step: another pool for every step
    anew = slide("anew", max_train_steps=3, save_state=True, save_every_n_steps=2)
    state = next(path for path in anew.folder.iterdir() if path.is_dir() and "000002" in path.name)
    assert not same(anew, whole) and same(anew, slide("anew", max_train_steps=3, resume=state))


def test_the_file_tells_its_texts_and_holds_no_text_path(whole):
    metadata = whole.metadata()
    assert metadata["ss_leco_prompt_count"] == "2" and metadata["ss_leco_prompts_file"] == "slider.toml"
    assert "red circle, solo, large" in metadata["ss_leco_preview"] and metadata["ss_slider_target"] == "auto"
    assert not any("attn2" in key or key.startswith("lora_te") for key in whole.tensors())


def test_pictures_and_texts_train_together(slide):
    pictures = {"train_data_dir": ROOT / "examples" / "dataset", "resolution": "64,64", "caption_extension": ".txt"}
    both = slide(**pictures)
    assert both.code == 0 and not same(both, slide(prompts_file=None, slider_lora_target=True, **pictures))
    assert not same(both, slide())


@pytest.mark.parametrize("flag", [{"text_slider_states": "leco"}, {"text_slider_pool": 4}, {"max_denoising_steps": 3},
                                  {"leco_denoise_guidance_scale": 1}, {"attributes": "yellow"}], ids=lambda flag: next(iter(flag)))
def test_flags_of_text_sliders_change_what_is_learned(slide, flag):
    assert not same(slide(), slide(**flag))


def test_the_last_files_alpha_makes_one_what_the_texts_ask_for(slide, monkeypatch):
    from library.train import axis, calibration, measuring

    monkeypatch.setattr(axis, "CERTAIN", -9.0)
    monkeypatch.setattr(measuring, "TEXT_PICTURES", 6)
    monkeypatch.setattr(measuring, "LINES", 2)
    monkeypatch.setattr(measuring, "STEPS", 4)
    monkeypatch.setattr(calibration, "FAINT", -9.0)
    monkeypatch.setattr(calibration, "fitted", lambda gauge: (1.7, ""))
    run = slide(slider_calibrate="true", save_every_n_steps=1, max_train_steps=2)
    told, last, early = run.metadata(), run.tensors(), run.tensors("lora-step00000001.safetensors")
    alphas = [key for key in last if key.endswith(".alpha")]
    assert alphas and all(float(last[key]) == pytest.approx(4 * 1.7) and float(early[key]) == 4 for key in alphas)
    assert told["ss_slider_factor"] == "1.7000" and float(told["ss_network_alpha"]) == pytest.approx(6.8)
    assert [one.partition(":")[0] for one in told["ss_slider_response"].split(",")] == ["-1", "-0.5", "0", "0.5", "1"]


@pytest.mark.parametrize(("kind", "kept", "learned"),
                         [("epsilon", (), 1), ("v", (), 1), ("flow", (), 1), ("epsilon", ("a",), 2 / 3)])
def test_every_kind_of_model_learns_the_change_that_is_asked_for_on_both_sides(kind, kept, learned):
    """The objective alone, on toy models: half of the difference between "more" (1) and "less" (-1), less where texts are held."""
    from types import SimpleNamespace

    from library.config.run_config import PromptPair, TextSliderConfig
    from library.diffusion.schedule import FlowSchedule, ddpm
    from library.train.guide import Guide
    from library.train.objectives.text import slide as objective

    torch.manual_seed(1)
    schedule = FlowSchedule(lambda count, size: torch.rand(count)) if kind == "flow" else ddpm(kind)
    gain, words = torch.nn.Parameter(torch.zeros(())), {"a": 0.0, "more": 1.0, "less": -1.0}
    state, asked = SimpleNamespace(strength=1.0), []

    class Multiplied:
        def __init__(self, strength):
            self.strength = strength

        def __enter__(self):
            self.before, state.strength = state.strength, self.strength
            asked.append(self.strength)

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
    config = TextSliderConfig(Path("a.toml"), (PromptPair("a", "more", "less", "a"),), kept=kept)
    guide = Guide(config, {text: {"words": torch.tensor([value])} for text, value in words.items()}, ())
    optimizer = torch.optim.SGD([gain], 0.5)
    reached = []
    for _ in range(90):
        parts = list(objective(guide, session, torch.randn(32, 4, 2, 2), list(config.pairs) * 32))
        assert len(parts) == 2
        sum(part.loss for part in parts).backward()
        optimizer.step()
        optimizer.zero_grad()
        reached.append(gain.item())
    ends = [strength for strength in asked if strength]  # beside them the base model is asked, at 0
    assert all(above == -below > 0 for above, below in zip(ends[::2], ends[1::2], strict=True))
    assert min(ends) < -0.9 and max(ends) > 0.9 and min(abs(strength) for strength in ends) < 0.1
    assert sum(reached[30:]) / 60 == pytest.approx(learned, abs=0.04)  # held texts that counted once would leave 0.8


def test_every_prompt_is_drawn_at_every_strength_in_one_picture(slide, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red circle --w 64 --h 64 --s 1 --d 1\nblue ring --w 64 --h 64 --s 1 --d 2\n", encoding="utf-8")
    run = slide("strips", learning_rate=0.5, sample_prompts=prompts, sample_every_n_steps=1,
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
    run = slide("strength", learning_rate=0.5, sample_prompts=prompts, sample_every_n_steps=1,
                sample_adapter_strength=-1)
    one, other = (Image.open(path) for path in sorted((run.folder / "sample").iterdir()))
    assert one.tobytes() == other.tobytes()


def test_the_script_of_text_sliders_asks_for_its_texts(capsys):
    from library.train.run import main

    assert main(["--pretrained_model_name_or_path=x", "--output_dir=y"], "train_leco.py") == 1
    assert "--prompts_file" in capsys.readouterr().err


def test_the_example_of_the_documentation_trains_and_shows_its_strips(tmp_path, monkeypatch):
    from library.train.run import main

    monkeypatch.chdir(ROOT)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text((ROOT / "examples" / "text_slider_samples.txt").read_text(encoding="utf-8").replace("--s 20", "--s 1"),
                       encoding="utf-8")
    assert main(["--config_file", "examples/text_slider.toml", f"--output_dir={tmp_path}", "--max_train_steps=1",
                 "--text_slider_pool=2", "--max_denoising_steps=2", "--slider_calibrate=false", f"--sample_prompts={prompts}"]) == 0
    assert (tmp_path / "size.safetensors").is_file() and len(list((tmp_path / "sample").iterdir())) == 6
