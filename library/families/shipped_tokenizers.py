"""Tokenizers whose files ship with this program, so that a model in single files needs no connection: T5's and Qwen's."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"
QWEN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
              "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
              "<|image_pad|>", "<|video_pad|>")  # fmt: skip
"""Qwen's special tokens, behind its vocabulary in this order."""
QWEN_WORDS = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
              "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>")  # fmt: skip
"""Whole words that follow them; Qwen2.5 ends before ``<tool_response>``."""
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""What a conversation of plain texts looks like to Qwen3."""


def byte_characters() -> list[str]:
    """The 256 characters by which byte-level vocabularies write bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(c) for c in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def unpacked(name: str) -> str:
    """Text of a packed file."""
    return gzip.decompress((ASSETS / name).read_bytes()).decode("utf-8")


@cache
def _qwen_merges() -> tuple[tuple[str, str], ...]:
    lines = (line.split(" ") for line in unpacked("qwen_merges.txt.gz").split("\n") if line and not line.startswith("#version"))
    return tuple((first, second) for first, second in lines)


def qwen(thinks: bool = True) -> Any:
    """Qwen's tokenizer: bytes, merges (whose results are the vocabulary), marks; that of Qwen2.5 where it does not think."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    merges, words = _qwen_merges(), QWEN_WORDS if thinks else QWEN_WORDS[:8]
    tokens = [*byte_characters(), *("".join(pair) for pair in merges), *QWEN_MARKS, *words]
    made = Qwen2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=list(merges), model_max_length=131072,
                          eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None)  # fmt: skip
    made.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in QWEN_MARKS])
    made.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    made.chat_template = CHAT
    return made


def t5() -> Any:
    """T5's tokenizer."""
    from tokenizers import Tokenizer
    from transformers import T5TokenizerFast

    return T5TokenizerFast(tokenizer_object=Tokenizer.from_str(unpacked("t5_tokenizer.json.gz")), model_max_length=512)
