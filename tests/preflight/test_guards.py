"""Guards speak once, at the right step, and are silent in a healthy run."""

from __future__ import annotations

import math

import pytest

from library.preflight import guards


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLIGHT_LANGUAGE", "en")


def test_the_third_bad_loss_in_a_row_stops_and_names_the_first_bad_tensor() -> None:
    guard = guards.LossGuard(rate=1e-3)
    assert guard.check(1, math.nan) is None and guard.must_skip
    assert guard.check(2, 0.1) is None and not guard.must_skip
    assert [guard.check(step, math.nan) for step in (3, 4)] == [None, None]
    named = guards.first_bad_name([("latents", True), ("lora_unet_a.lora_up", False), ("b", False)])
    problem = guard.check(5, math.inf, lambda: named, "out/a-step00000004.safetensors")
    assert problem is not None and problem.severity == "stop"
    assert "lora_unet_a.lora_up" in problem.what and "a-step00000004" in problem.what and "0.001" in problem.remedy


def test_a_finite_loss_never_asks_for_the_first_bad_tensor() -> None:
    guard = guards.LossGuard(rate=1e-4)
    assert all(guard.check(step, 0.1, lambda: pytest.fail("asked")) is None for step in range(100))


def test_a_loss_that_triples_warns_once() -> None:
    guard = guards.RiseGuard()
    healthy = [guard.check(step, 0.1 + 0.02 * (step % 3)) for step in range(300)]
    risen = [guard.check(step, 0.6) for step in range(300, 700)]
    assert not any(healthy)
    assert sum(p is not None for p in risen) == 1
    assert next(p for p in risen if p).severity == "warn"


def test_single_high_losses_do_not_warn() -> None:
    guard = guards.RiseGuard()
    assert not any(guard.check(step, 2.0 if step % 50 == 49 else 0.1) for step in range(1000))


def test_an_adapter_of_zeros_after_twenty_steps_stops() -> None:
    guard = guards.ZeroGuard(rate=1e-4)
    assert all(guard.check(step, lambda: pytest.fail("too early")) is None for step in range(20))
    problem = guard.check(20, lambda: 0.0)
    assert problem is not None and problem.severity == "stop"
    assert guard.check(21, lambda: 0.0) is None
    assert guards.ZeroGuard(rate=1e-4).check(20, lambda: 1e-9) is None


def test_a_step_of_five_times_the_usual_warns_once() -> None:
    guard = guards.SlowGuard()
    assert not any(guard.check(step, 30.0 if step < 3 else 1.0 + 0.1 * (step % 2)) for step in range(50))
    problem = guard.check(50, 6.0)
    assert problem is not None and "6.0 s" in problem.what
    assert guard.check(51, 9.0) is None
    assert guards.SlowGuard(windows=True).check(1, 99.0) is None


def test_quick_steps_are_never_slow() -> None:
    guard = guards.SlowGuard()
    assert not any(guard.check(step, 0.01 if step % 20 else 0.5) for step in range(200))


def test_the_watchdog_warns_once_until_the_next_step() -> None:
    guard = guards.StuckGuard()
    guard.beat(100.0)
    assert guard.check(200.0) is None
    assert guard.check(221.0) is not None
    assert guard.check(300.0) is None
    guard.beat(301.0)
    assert guard.check(422.0) is not None


def test_invalid_latents_turn_the_vae_to_fp32_before_a_picture_is_blamed() -> None:
    guard = guards.LatentGuard(half=True)
    first, second = guard.check("a.png"), guard.check("a.png")
    assert (first.severity, first.check) == ("warn", "guard_latents.half")
    assert (second.severity, second.where) == ("stop", "a.png")


def test_out_of_memory_lists_the_savers_that_are_not_on_in_order() -> None:
    problem = guards.out_of_memory({"train_batch_size": 4, "resolution": "1024", "mixed_precision": "bf16"}, 11 * 2**30)
    savers = problem.remedy.split(": ")[1]
    assert savers.startswith("--gradient_checkpointing, --cache_latents, --train_batch_size 1")
    assert savers.endswith("--resolution 512.")
    all_on = {
        "gradient_checkpointing": True,
        "cache_latents": True,
        "train_batch_size": 1,
        "mixed_precision": "fp16",
        "network_train_unet_only": True,
        "network_dim": 4,
        "resolution": "512",
    }
    assert guards.out_of_memory(all_on, 2**30).check == "guard_memory.none"


def test_out_of_memory_errors_of_all_kinds_are_recognised() -> None:
    class OutOfMemoryError(RuntimeError): ...

    assert guards.is_out_of_memory(OutOfMemoryError("x"))
    assert guards.is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not guards.is_out_of_memory(RuntimeError("size mismatch"))


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ...")
])
def test_a_full_main_memory_is_told_from_a_full_card(error):
    assert guards.is_out_of_memory(error) and guards.is_main_memory(error)
    assert not guards.is_main_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert "main memory" in guards.out_of_main_memory().what
