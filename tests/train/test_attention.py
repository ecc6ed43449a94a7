from types import SimpleNamespace

import pytest
import torch

from library.train.prepare import set_attention
from library.train.run import with_working_attention
from library.util.records import Problem
from tests.config.helpers import resolved


def attention_used(config, monkeypatch, card: bool) -> str:
    """Which attention a run with ``config`` gives its denoiser, on a machine with or without an NVIDIA card."""
    used = ["sdpa"]
    denoiser = SimpleNamespace(enable_xformers_memory_efficient_attention=lambda: used.append("xformers"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    set_attention(config, SimpleNamespace(denoiser=denoiser))
    return used[-1]


@pytest.mark.parametrize(("flags", "card", "used"), [
    (["--xformers"], True, "xformers"), (["--xformers"], False, "sdpa"), ([], True, "sdpa"), (["--sdpa"], True, "sdpa"),
    (["--xformers", "--mem_eff_attn"], True, "sdpa")])
def test_xformers_serves_the_denoiser_where_it_is_asked_for_and_can_work(flags, card, used, monkeypatch):
    assert attention_used(resolved(flags), monkeypatch, card) == used


def test_where_a_check_said_that_xformers_does_not_work_torchs_own_attention_is_used(monkeypatch):
    told = [Problem("--xformers", "It is not installed.", "", "note", "xformers_pair.missing")]
    assert attention_used(with_working_attention(resolved(["--xformers"]), told), monkeypatch, card=True) == "sdpa"
