"""Tokenizers that ship with this program, and what is said of those that do not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from library.families import flux2, language, qwenimage, registry, shipped_tokenizers, source, zimage
from library.util.records import UserError


def test_t5s_tokens_are_those_of_the_released_files() -> None:
    made = shipped_tokenizers.t5()
    assert made("a cat").input_ids == [3, 9, 1712, 1] and made("").input_ids == [1]
    assert made("ｆｕｌｌ").input_ids == made("full").input_ids, "its normalisation belongs to it"
    padded = made("a cat", padding="max_length", max_length=6, truncation=True)
    assert (padded.input_ids, padded.attention_mask) == ([3, 9, 1712, 1, 0, 0], [1, 1, 1, 1, 0, 0])


def test_qwens_tokens_are_those_of_the_released_files() -> None:
    made = shipped_tokenizers.qwen()
    assert made("a cat, blue hair").input_ids == [64, 8251, 11, 6303, 6869]
    assert made("<|im_start|>user\nA cat<|im_end|>\n").input_ids == [151644, 872, 198, 32, 8251, 151645, 198]
    ids = {"<|endoftext|>": 151643, "<|vision_start|>": 151652, "<think>": 151667, "</think>": 151668}
    assert {mark: made.convert_tokens_to_ids(mark) for mark in ids} == ids
    assert (made.pad_token, len(made)) == ("<|endoftext|>", 151669)
    assert len(shipped_tokenizers.qwen(thinks=False)("<think>").input_ids) > 1 == len(made("<think>").input_ids)


def test_the_instruction_of_qwen_image_has_as_many_tokens_as_are_cut_off() -> None:
    text = f"<|im_start|>system\n{qwenimage.SYSTEM}<|im_end|>\n<|im_start|>user\n"
    assert len(shipped_tokenizers.qwen(thinks=False)(text).input_ids) == qwenimage.INSTRUCTION_TOKENS


def test_the_chat_template_writes_what_the_families_write_themselves() -> None:
    talk = partial(shipped_tokenizers.qwen().apply_chat_template, [{"role": "user", "content": "a cat"}], tokenize=False,
                   add_generation_prompt=True)
    plain = "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"
    assert talk(enable_thinking=True) == plain and talk(enable_thinking=False) == plain + "<think>\n\n</think>\n\n"


def test_a_model_in_single_files_needs_no_connection_for_t5_clip_and_qwen(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_hub(*_: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(source, "hub_file", no_hub)
    for name in registry.names():
        spec = registry.get(name).SPEC
        if spec.target_space != "flow" or any(slot.tokenizer_of for slot in spec.text_slots):
            continue
        made = [text.tokenizer(None) for text in registry.get(name).RECIPE.texts]
        assert all(made) or name == flux2.SPEC.name, name
    assert len(flux2._tokenizer(flux2.tiny(0).text_encoders[0], Path("nowhere"), None)) == 151669


@pytest.mark.parametrize("name", ["lumina2", "wan", "auraflow"])
def test_a_tokenizer_that_cannot_be_had_names_its_file_and_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = registry.get(name)
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(source, "hub_file", lambda repo, file: asked.append((repo, file)))
    with pytest.raises(UserError) as error:
        family.RECIPE.texts[0].tokenizer(None)
    owner, repo, *inner = family.SPEC.text_slots[0].tokenizer_of.split("/")
    file = "/".join([*inner, "tokenizer.json"])
    assert (f"{owner}/{repo}", file) in asked
    problem = error.value.problems[0]
    assert problem.where == f"--{family.SPEC.text_slots[0].option}" and f"put {file} of that page beside" in problem.remedy


def test_tokenizers_lie_in_the_models_folder_in_the_encoders_or_beside_its_file(tmp_path: Path) -> None:
    from library.families.assemble import tokenizer_folder

    (tmp_path / "model").mkdir()
    encoder = tmp_path / "text" / "gemma.safetensors"
    encoder.parent.mkdir()
    encoder.touch()
    assert tokenizer_folder(tmp_path / "model", encoder, ships=False) == tmp_path / "model"
    assert tokenizer_folder(tmp_path / "none", encoder.parent, ships=True) == encoder.parent
    assert tokenizer_folder(tmp_path / "none", encoder, ships=False) == encoder.parent
    assert tokenizer_folder(tmp_path / "none", encoder, ships=True) is None, "another encoder's tokenizer may lie there"
    zimage.tiny(0).tokenizers[0].save_pretrained(encoder.parent)
    assert len(language.qwen_tokenizer()(encoder.parent)) < 1000 < len(language.qwen_tokenizer()(None))
