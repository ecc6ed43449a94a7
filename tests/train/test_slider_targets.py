"""Where a slider's LoRA goes, from the flag or the settings file to the modules that carry it."""

import json
import logging

import pytest

from library.config.resolve import Detected, resolve
from library.families import registry, targets
from networks import registry as networks
from networks.request import NetworkRequest
from tests.config.helpers import FAMILY, NEEDED, from_file, resolved


@pytest.fixture(scope="module")
def tiny():
    family = registry.get("sd1")
    return family, family.tiny()


@pytest.mark.parametrize(("text", "preset"), [("slider_lora_target = true", "auto"), ('slider_lora_target = "auto"', "auto"),
                                              ("slider_lora_target = false", None), ('slider_lora_target = "xattn"', "xattn")])
def test_a_settings_file_says_the_preset_as_true_or_by_name(tmp_path, text, preset):
    flags = from_file(tmp_path, text, NEEDED)
    config = resolve(flags, lambda source, flags: Detected("some", {}), lambda name: FAMILY)
    assert config.network.targets == preset


def test_text_encoders_are_left_alone_unless_a_rate_is_given_for_them():
    def trains_text(*flags):
        return resolved(flags).network.train_text_encoder

    assert trains_text() and not trains_text("--slider_lora_target")
    assert trains_text("--slider_lora_target", "--text_encoder_lr=1e-4")
    assert not trains_text("--slider_lora_target", "--text_encoder_lr=0")


def carried(train, caplog, name, **flags):
    """Module names of the trained file, and what the log said of them."""
    with caplog.at_level(logging.INFO, "library.train.prepare"):
        run = train(name, max_train_steps=1, slider_lora_target=flags.pop("preset", True), console_log_level="INFO", **flags)
    assert run.code == 0
    return {key.partition(".")[0] for key in run.tensors()}, caplog.text


def test_the_file_holds_what_the_preset_names_and_the_log_counts_it(train, caplog):
    names, told = carried(train, caplog, "visual", preset="visual")
    assert {"lora_unet_conv_in", "lora_unet_time_embedding_linear_1"} <= names
    assert not any("attn2" in name or name.startswith("lora_te") for name in names)
    kinds = len([name for name in names if "attn1" in name])
    assert kinds == 4 * 10 and "--slider_lora_target visual: " in told and " in " in told


def test_patterns_in_network_args_win_over_the_preset(train, caplog):
    names, told = carried(train, caplog, "patterns", network_args=r"include_patterns=.*mid_block.*attn2\.to_k")
    assert names == {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"}
    assert "include_patterns: 1 Linear in 1 block" in told


def test_a_text_encoder_is_trained_beside_the_preset_where_that_is_asked(train, caplog):
    names, _ = carried(train, caplog, "text", text_encoder_lr=1e-4)
    assert any(name.startswith("lora_te") for name in names) and not any("attn2" in name for name in names)


def test_lycoris_adapts_exactly_the_modules_of_a_preset(tiny):
    pytest.importorskip("lycoris")
    family, parts = tiny
    chosen = targets.choose(family, parts, "visual")
    request = NetworkRequest(targets=chosen, exact=True, dim=4, alpha=1, args={"algo": "lokr"}, text_encoders=parts.text_encoders,
                             denoiser=parts.denoiser, train_text_encoder=False)
    network = networks.create("lycoris.kohya", request)
    assert sorted(adapter.lora_name for adapter in network.adapters) == sorted(target.name for target in chosen)


def test_a_preset_of_lycoris_own_wins_over_ours(tiny):
    pytest.importorskip("lycoris")
    family, parts = tiny
    request = NetworkRequest(targets=targets.choose(family, parts, "auto"), exact=True, dim=4, alpha=1,
                             args={"algo": "lora", "preset": "full"}, text_encoders=parts.text_encoders, denoiser=parts.denoiser)
    network = networks.create("lycoris.kohya", request)
    assert any("attn2" in adapter.lora_name for adapter in network.adapters)


def test_the_log_counts_what_a_configuration_of_lycoris_chose_itself(train, caplog, tmp_path):
    """The example of SimpleTuner's slider guide: module paths where lycoris wants classes are taken as what they mean."""
    pytest.importorskip("lycoris")
    file = tmp_path / "lycoris_config.json"
    file.write_text(json.dumps({"algo": "lokr", "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 1, "apply_preset": {
        "target_module": ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "conv_in", "conv_out",
                          "time_embedding.linear_1", "time_embedding.linear_2"]}}), encoding="utf-8")
    names, told = carried(train, caplog, "config", network_module="lycoris.kohya", network_args=f"config={file}")
    assert len(names) == 44 and not any("attn2" in name for name in names)
    assert "--slider_lora_target config: 42 Linear, 2 Conv2d in 10 blocks, 4 of them outside the blocks" in told
