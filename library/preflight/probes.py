"""Probes: the libraries are tried on something small before the model is loaded. They import torch and transformers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from library.preflight.machine_checks import FAULTY_FP16
from library.preflight.options import optimizer_name, schedule_settings
from library.preflight.registry import Context, check
from library.preflight.versions import needs_bitsandbytes
from library.util.records import Problem, UserError
from library.util.secrets import reason

XFORMERS = """
import torch, xformers.ops as ops
q = torch.randn(1, 16, 8, 40, device="cuda", dtype=torch.float16, requires_grad=True)
ops.memory_efficient_attention(q, q, q).sum().backward()
"""
BITSANDBYTES = """
import torch, bitsandbytes as bnb
p = torch.nn.Parameter(torch.zeros(64, 64, device="cuda"))
o = bnb.optim.AdamW8bit([p]); p.grad = torch.ones_like(p); o.step()
"""
TENSORBOARD = "from torch.utils.tensorboard import SummaryWriter"
HALF = """
import torch
x = torch.randn(1, 64, 64, 64, device="cuda", dtype=torch.float16)
y = torch.nn.Conv2d(64, 64, 3, padding=1).cuda().half()(x)
print(bool(torch.isfinite(y).all()))
"""
PROBE_WORDS = ("a</w>", "cat</w>", "<|startoftext|>", "<|endoftext|>")


def trial(code: str, seconds: float = 60) -> str:
    """Run code in a Python of its own; the last line of its error, "" where it worked."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds, encoding="utf-8", errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:.0f} s"
    if done.returncode == 0:
        return "NaN" if done.stdout.strip().endswith("False") else ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"


def tokenizer_ids() -> tuple[list[int], str]:
    """Token ids of "a cat" padded to 8 by a CLIP tokenizer over four words, and what failed ("" = nothing).

    The right answer is start, a, cat, end and the padding: [2, 0, 1, 3, 3, 3, 3, 3].
    """
    from transformers import CLIPTokenizer

    # 256 single characters and their word ends come first in every CLIP vocabulary; four entries are enough here.
    vocabulary = {word: number for number, word in enumerate((*PROBE_WORDS, "c", "t</w>", "ca", "at</w>", "t", "a"))}
    try:
        tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")])
        found = tokenizer("a cat", padding="max_length", max_length=8, truncation=True)
        return list(found["input_ids"]), ""
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        return [], f"{type(error).__name__}: {error}"


EXPECTED_IDS = [2, 0, 1, 3, 3, 3, 3, 3]


@check("tokenizer_probe", level="probes", row="F74")
def check_tokenizer(context: Context) -> Iterator[Problem]:
    """The tokenizer class turns a known text into known numbers."""
    ids, fault = tokenizer_ids()
    if ids != EXPECTED_IDS:
        packages = context.machine.packages
        yield context.stop(
            "tokenizer_probe",
            "transformers",
            transformers=packages.get("transformers", "?"),
            tokenizers=packages.get("tokenizers", "?"),
            got=fault or ids,
            python=context.machine.executable,
        )


@check("optimizer_probe", level="probes", row="F29", needs=("config",))
def check_optimizer(context: Context) -> Iterator[Problem]:
    """Optimizer and schedule are built once over a dummy weight."""
    import torch

    from library.optim import optimizers, schedules

    assert context.config is not None
    config = context.config
    if needs_bitsandbytes(optimizer_name(context)):
        return  # the 8-bit probe tries it on the card itself
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    try:
        made = optimizers.create(
            optimizers.OptimizerSettings(config.optimizer.name, config.optimizer.lr, config.optimizer.args),
            [{"params": [weight], "lr": config.optimizer.lr}],
        )
        schedules.create(schedule_settings(config.schedule, config.loop.max_train_steps), made.optimizer)
    except UserError as error:
        yield from error.problems


@check("module_probe", level="probes", row="F80")
def check_module_imports(context: Context) -> Iterator[Problem]:
    """The adapter's module can be imported; a missing name tells which library it was written for."""
    name = str(context.flag("network_module") or "")
    if not name or not context.machine.has_module(name):
        return
    try:
        module: Any = importlib.import_module(name)
    except ImportError as error:
        yield context.stop("module_probe", "--network_module", name=name, fault=error)
        return
    if "create_network" not in vars(module):
        yield context.stop("module_probe.contract", "--network_module", name=name)


@check("xformers_probe", level="probes", row="F03")
def check_xformers(context: Context) -> Iterator[Problem]:
    """xformers works forward and backward on this card; else torch's own attention takes over."""
    if not context.flag("xformers") or not context.machine.gpus or "xformers" not in context.machine.packages:
        return
    fault = trial(XFORMERS)
    if fault:
        yield context.warn("xformers_probe", "--xformers", version=context.machine.packages["xformers"], fault=fault)


@check("bitsandbytes_probe", level="probes", row="F13")
def check_bitsandbytes(context: Context) -> Iterator[Problem]:
    """bitsandbytes makes one step on this card."""
    name = optimizer_name(context)
    if not needs_bitsandbytes(name) or not context.machine.gpus or "bitsandbytes" not in context.machine.packages:
        return
    fault = trial(BITSANDBYTES)
    if fault:
        yield context.stop(
            "bitsandbytes_probe",
            "--optimizer_type",
            name=name,
            fault=fault,
            version=context.machine.packages["bitsandbytes"],
            python=context.machine.executable,
        )


@check("tensorboard_probe", level="probes", row="F36")
def check_tensorboard(context: Context) -> Iterator[Problem]:
    """Where TensorFlow is installed too, TensorBoard imports it and may fail over it."""
    packages = context.machine.packages
    broken = {"tensorflow", "tensorflow-cpu", "tensorflow-io", "tensorflow-intel"} & set(packages)
    if context.flag("logging_dir") and broken and "tensorboard" in packages:
        fault = trial(TENSORBOARD)
        if fault:
            yield context.warn(
                "tensorboard_probe",
                "--logging_dir",
                fault=fault,
                packages=" ".join(sorted(broken)),
                python=context.machine.executable,
            )


@check("half_probe", level="probes", row="F25")
def check_half(context: Context) -> Iterator[Problem]:
    """On cards that are known for it, one convolution in fp16 shows whether it gives numbers at all."""
    gpus = context.machine.gpus
    if not gpus or context.flag("mixed_precision") != "fp16" or not FAULTY_FP16.search(gpus[0].name):
        return
    if trial(HALF) == "NaN":
        yield context.stop("half_probe", "--mixed_precision", gpu=gpus[0].name)


@check("gpu_probe", level="probes", row="F27")
def check_gpu_trial(context: Context) -> Iterator[Problem]:
    """One addition on the card, which fails where driver and torch do not fit."""
    if not context.machine.gpus:
        return
    import torch

    try:
        float((torch.zeros(1, device="cuda") + 1).item())
    except RuntimeError as error:
        yield context.stop("gpu_probe", "GPU", gpu=context.machine.gpus[0].name, fault=reason(error))
