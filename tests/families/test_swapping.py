"""Blocks of every architecture wait elsewhere, come for their forwards and recomputations, and change no gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_gradients import adapter_gradients

from library.config.sections import machine
from library.families import registry
from library.flags import parse
from library.train import run, stages, swapping
from library.util.records import UserError
from tests.data_room.made import picture

ROOT = Path(__file__).resolve().parents[2]


def with_swapped(name: str, waiting: int, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """What waits is kept negated: whoever computed with it would compute wrongly."""
    monkeypatch.setattr(swapping, "visiting", lambda home, device: -home)
    visitors: list[Any] = []

    def swap(denoiser: torch.nn.Module) -> None:
        visitors.extend(swapping.swap(denoiser, waiting, torch.device("cpu")))
        for visitor in visitors:
            for *_, home in visitor.places:
                home.neg_()

    return adapter_gradients(name, swap)[0], visitors


@pytest.mark.parametrize("name", registry.names())
def test_blocks_that_wait_in_main_memory_leave_gradients_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = len(swapping.blocks(registry.get(name).tiny(0).denoiser))
    expected, _ = with_swapped(name, 0, monkeypatch)
    found, visitors = with_swapped(name, blocks, monkeypatch)
    assert blocks >= 2 and expected and found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert len(visitors) == blocks
    visits = [visitor.visits for visitor in visitors]
    assert set(visits) <= {1, 2} and 2 in visits, "once for the forward, once more where a gradient passes"
    assert all(table[name] is home for visitor in visitors for table, name, home in visitor.places)


def test_the_largest_blocks_wait_and_more_than_there_are_is_refused() -> None:
    model = registry.get("flux1").tiny(0).denoiser
    sizes = [sum(p.nbytes for p in block.parameters()) for block in swapping.blocks(model)]
    (visitor,) = swapping.swap(model, 1, torch.device("cpu"))
    assert sum(home.nbytes for *_, home in visitor.places) == max(sizes)
    with pytest.raises(UserError) as refused:
        swapping.swap(model, 99, torch.device("cpu"))
    assert f"has {len(sizes)} blocks" in refused.value.problems[0].what


def test_too_many_blocks_are_refused_before_anything_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "train" / "1_x" / "a.png")
    monkeypatch.setattr(stages.caching, "fill", lambda *_: pytest.fail("a cache was filled"))
    argv = [f"--pretrained_model_name_or_path={ROOT / 'examples' / 'tiny-flow'}", f"--train_data_dir={tmp_path / 'train'}",
            f"--output_dir={tmp_path / 'out'}", "--resolution=64", "--network_module=networks.lora", "--max_train_steps=1",
            "--caption_extension=.txt", "--cache_latents", "--blocks_to_swap=29"]
    monkeypatch.chdir(tmp_path)
    assert run.main(argv, "lumina_train_network.py") == 1


def test_the_flag_switches_checkpointing_on() -> None:
    found = machine(parse(["--blocks_to_swap=2"], "flux_train_network.py"))
    assert (found.blocks_to_swap, found.gradient_checkpointing) == (2, True)
