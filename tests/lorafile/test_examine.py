"""What is told of a file, and the LoRAs inside a DyLoRA."""

import json

import pytest
import torch

from library.lorafile import convert, examine, examine_show, file, nested
from library.util.records import UserError
from networks import dylora, keys
from tests.lorafile import lora_files as made
from tests.networks.models import tiny, tiny_network


def test_norm_and_effective_rank_are_the_full_changes(tmp_path):
    tensors = made.lora(rank=6, alpha=3.0)
    report = examine.examine(file.read(made.saved(tmp_path / "a.safetensors", tensors)))
    for layer in report.layers:
        change = made.product(tensors, layer.stem)
        shares = torch.linalg.svdvals(change).pow(2) / change.norm() ** 2
        entropy = -(shares * shares.clamp(min=1e-30).log()).sum()
        assert layer.norm == pytest.approx(float(change.norm()), rel=1e-4)
        assert layer.effective_rank == pytest.approx(float(entropy.exp()), rel=1e-3)
    assert report.blocks == {"down_blocks.0": pytest.approx(sum(la.norm ** 2 for la in report.layers) ** 0.5)}


def test_dead_exploded_and_nan_layers_are_named(tmp_path):
    tensors = made.lora(rank=4)
    tensors[made.STEM.format("q") + ".lora_up.weight"].zero_()
    tensors[made.STEM.format("k") + ".lora_up.weight"][0, 0] = float("nan")
    tensors[made.STEM.format("v") + ".lora_up.weight"] *= 1e4
    extra = {key.replace("blocks_0", "blocks_1"): t for key, t in made.lora(rank=4, seed=5).items()}
    report = examine.examine(file.read(made.saved(tmp_path / "a.safetensors", tensors | extra)))
    assert {layer.stem[-1]: layer.fault for layer in report.faults} == {"q": "dead", "k": "nan", "v": "exploded"}
    assert "1 dead" in examine_show.as_text(report)
    json.dumps(report.as_json(), allow_nan=False)


def test_trigger_words_come_from_metadata(tmp_path):
    metadata = {"ss_tag_frequency": json.dumps({"10_a": {"riho": 30, "smile": 4}, "5_b": {"smile": 2}}),
                "modelspec.trigger_phrase": "riho style", "ss_learning_rate": "0.0001", "ss_base_model_version": "sd_v1"}
    report = examine.examine(file.read(made.saved(tmp_path / "a.safetensors", made.lora(), metadata)))
    assert report.words == [("riho style", 0), ("riho", 30), ("smile", 6)]
    assert report.settings["learning rate"] == "0.0001"


def test_a_file_and_its_half_differ_in_strength_only(tmp_path):
    tensors = made.lora()
    halved = {key: t * 0.5 if key.endswith("lora_up.weight") else t for key, t in tensors.items()}
    files = [file.read(made.saved(tmp_path / f"{i}.safetensors", t)) for i, t in enumerate((tensors, halved))]
    found, only_one, only_other = examine.differences(*files)
    assert len(found) == 4 and not only_one and not only_other
    assert all(d.cosine == pytest.approx(1, abs=1e-4) and d.ratio == pytest.approx(0.5, rel=1e-4) for d in found)


def test_blocks_stand_in_the_models_order():
    stems = ["lora_unet_up_blocks_1_x", "lora_unet_down_blocks_10_x", "lora_unet_mid_block_x", "lora_unet_conv_in",
             "lora_te_text_model_encoder_layers_2_x", "lora_unet_down_blocks_2_x", "lora_unet_context_refiner_0_x",
             "lora_unet_layers_3_x", "diffusion_model.blocks.4.x", "lora_unet_single_transformer_blocks_7_attn_to_q"]
    blocks = sorted({examine.block_of(stem) for stem in stems}, key=examine.place_of_block)
    assert blocks == ["text layers.2", "down_blocks.2", "down_blocks.10", "mid_block", "context_refiner.0", "blocks.4", "layers.3",
                      "up_blocks.1", "single_transformer_blocks.7", "other"]


def test_what_a_file_is_for_is_found_out_where_it_does_not_say(tmp_path, monkeypatch):
    report = examine.examine(file.read(made.saved(tmp_path / "a.safetensors", made.lora(sizes=(320, 320)), {})))
    assert report.made_for.startswith("Stable Diffusion 1") and "A1111" in report.loads_in
    told = examine_show.as_text(report).splitlines()
    assert {"rank: 8", "alpha: 4"} <= set(told) and any(line.startswith("loads in: ComfyUI") for line in told)
    monkeypatch.setattr(convert, "targets_of", lambda family: ())
    unknown = {f"lora_unet_nowhere.{suffix}": t for suffix, t in ((keys.DOWN, torch.ones(2, 3)), (keys.UP, torch.ones(3, 2)))}
    report = examine.examine(file.read(made.saved(tmp_path / "b.safetensors", unknown, {})))
    assert "no model that is known" in report.made_for and not report.loads_in


def test_files_of_two_formats_are_compared_module_by_module(tmp_path):
    tensors = made.lora(sizes=(320, 320))
    one = file.read(made.saved(tmp_path / "a.safetensors", tensors))
    other = file.read(made.saved(tmp_path / "b.safetensors", {
        key.replace("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_",
                    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_"): t for key, t in tensors.items()
        if "attn1" in key}))
    found, only_one, only_other = examine.differences(one, other)
    assert len(found) == 3 and not only_other and only_one == ["lora_unet_down_blocks_0_resnets_0_conv1"]
    assert all(d.cosine == pytest.approx(1, abs=1e-4) for d in found)


def test_a_picture_is_drawn(tmp_path):
    report = examine.examine(file.read(made.saved(tmp_path / "a.safetensors", made.lora())))
    examine_show.picture(report, str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_cut_dylora_has_the_effect_its_ranks_were_trained_with(tmp_path, monkeypatch):
    text, unet = tiny()
    network = tiny_network(dylora, text, unet, dim=4, alpha=2.0, unit="2")
    network.save_weights(tmp_path / "a.safetensors", None, {})
    (rank, modules, metadata), = nested.cuts(file.read(tmp_path / "a.safetensors"), 2)
    adapter = network.get_submodule("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q").train()
    monkeypatch.setattr(torch, "randint", lambda *a, **k: torch.tensor([0]))  # the first block of ranks
    x = torch.randn(2, 3, adapter.layer.in_features)
    expected = adapter.delta(x, adapter.scale).detach()
    change = made.product(keys.flatten(modules), adapter.lora_name)
    assert (rank, metadata["ss_network_dim"]) == (2, "2")
    torch.testing.assert_close(x @ change.T.float(), expected, rtol=1e-4, atol=1e-5)


def test_unit_that_does_not_divide_the_rank_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not divide"):
        list(nested.cuts(file.read(made.saved(tmp_path / "a.safetensors", made.lora(rank=8))), 3))
