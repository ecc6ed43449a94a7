"""Tiny random models for tests and dry runs, built from the configurations in ``assets/tiny/``."""

from __future__ import annotations

import importlib
from typing import Any

from library.families import source
from library.families.interface import Parts
from library.families.shipped_tokenizers import CHAT, byte_characters


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    """A CLIP tokenizer that spells every word in single letters: 514 tokens, no merges."""
    from transformers import CLIPTokenizer

    letters = byte_characters()
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77, pad_token=pad_token
    )


def components(name: str, seed: int) -> dict[str, Any]:
    """Every model of a tiny family by part name, with weights that depend on the seed alone; frozen, in eval mode.

    The caller's random numbers are left untouched. ``scheduler`` comes as its configuration, tokenizers are left out.
    """
    import torch

    table = source.asset(f"tiny/{name}.json")["components"]
    built: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part, entry in table.items():
            if part == "scheduler":
                built[part] = entry["config"]
            elif "kind" not in entry:
                built[part] = build(entry).requires_grad_(False).eval()
                _mend(built[part])
    return built


def parts(name: str, seed: int, options: Any, tokenizers: list[Any]) -> Parts:
    """A tiny model of a family whose denoiser is its ``transformer``."""
    built = components(name, seed)
    texts = [built[part] for part in ("text_encoder", "text_encoder_2", "text_encoder_3") if part in built]
    return Parts(built["transformer"], built["vae"], texts, tokenizers, options, built["scheduler"], "tiny", "tiny")


def build(entry: dict[str, Any]) -> Any:
    """A model from an entry's class and configuration."""
    library = importlib.import_module(entry["lib"])
    made = library.__dict__.get(entry["class"]) or getattr(library, entry["class"])
    if "config_class" not in entry:
        return made(**entry["config"])
    return made(getattr(library, entry["config_class"])(**entry["config"]))


def _mend(module: Any) -> None:
    """Give parameters that a constructor leaves uninitialised or all zero small random values: gradients must flow."""
    import torch

    with torch.no_grad():
        for name, p in module.named_parameters():
            if not torch.isfinite(p).all() or (p.dim() > 1 and not p.any()):
                p.copy_(torch.randn_like(p) * 0.02)
            assert torch.isfinite(p).all(), name


def t5_tokenizer() -> Any:
    """A T5 tokenizer that spells text in single ASCII letters."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((chr(c), -3.0) for c in range(33, 127))]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


QWEN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|vision_start|>", "<|vision_end|>",
              "<|image_pad|>")  # fmt: skip


def qwen_tokenizer() -> Any:
    """A Qwen tokenizer that spells text in single bytes, with the chat template's marks."""
    from transformers import Qwen2Tokenizer

    tokens = [*byte_characters(), *QWEN_MARKS]
    made = Qwen2Tokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=1024,
                          extra_special_tokens=list(QWEN_MARKS[1:]))  # fmt: skip
    made.chat_template = CHAT
    return made


def gemma_tokenizer() -> Any:
    """A Gemma tokenizer that spells text in single characters."""
    from transformers import GemmaTokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *(f"<0x{i:02X}>" for i in range(256)),
              *(chr(c) for c in range(33, 127))]  # fmt: skip
    return GemmaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=512)
