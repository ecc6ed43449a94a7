"""Probes try the installed libraries; here they are also given broken ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from library.families import registry as families
from library.preflight import probes
from library.preflight.layers import judge_targets

from .world import World, fire


def test_the_installed_tokenizer_turns_a_known_text_into_known_numbers(world: World) -> None:
    assert probes.tokenizer_ids() == (probes.EXPECTED_IDS, "")
    assert fire("tokenizer_probe", world.context()) == []


def test_a_tokenizer_of_another_generation_stops_the_run_and_names_both_versions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise AttributeError("'CLIPTokenizer' object has no attribute 'added_tokens_encoder'")

    monkeypatch.setattr(transformers, "CLIPTokenizer", broken)
    found = fire("tokenizer_probe", world.context())
    assert [p.severity for p in found] == ["stop"]
    assert "5.23.0" in found[0].what and "added_tokens_encoder" in found[0].what


def test_the_layers_of_every_family_are_found_under_the_names_that_files_must_have(world: World) -> None:
    assert fire("layers_probe", world.context()) == []


def test_a_text_encoder_with_another_layout_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLIGHT_LANGUAGE", "en")
    family = families.get("sd1")
    parts = family.tiny(0)
    targets = family.adapter_targets(parts)
    flat = [replace(t, name=t.name.replace("text_model_", "")) for t in targets]
    found = judge_targets(family.SPEC, parts.text_encoders, flat)
    assert [(p.severity, p.check) for p in found] == [("stop", "layers_probe.text")]
    assert "lora_te_encoder_layers" in found[0].what and "lora_te_text_model" in found[0].what
    none = [t for t in targets if t.root == "text_encoder"]
    assert [p.check for p in judge_targets(family.SPEC, parts.text_encoders, none)] == ["layers_probe"]
    lost = [t for t in targets if not t.name.endswith("layers_0_mlp_fc1")]
    assert [p.check for p in judge_targets(family.SPEC, parts.text_encoders, lost)] == ["layers_probe.text"]


def test_a_good_optimizer_and_schedule_pass_the_probe(world: World) -> None:
    assert fire("optimizer_probe", world.full(plan=False, lr_scheduler="cosine", lr_warmup_steps="5%")) == []


def test_a_card_that_cannot_add_stops_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch, "zeros", refuse)
    found = fire("gpu_probe", world.context())
    assert [p.severity for p in found] == ["stop"] and "no kernel image" in found[0].what


def test_a_trial_tells_the_last_line_of_an_error() -> None:
    assert probes.trial("raise ValueError('broken')") == "ValueError: broken"
    assert probes.trial("pass") == ""
    assert probes.trial("print(False)") == "NaN"
