"""Stages 5, 7 and 8: from decided values to loaded parts, an attached adapter and a Session."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import torch

from library.config.run_config import MachineConfig, NetworkConfig, RunConfig
from library.families import registry as families, targets
from library.families.interface import Family, LoadRequest, Parts
from library.optim import optimizers, schedules
from library.optim.ema import Ema, constant_decay
from library.preflight.layers import judge_targets
from library.sample import loras
from library.sample.undisturbed import random_states_kept
from library.util.records import Target, UserError
from library.util.said import say
from networks import registry as networks
from networks.ranks import hit, patterns
from networks.registry import NetworkRequest
from networks.role_rates import TEXT_ADAPTER

from . import checkpointing, eight_bit, quantised, swapping
from .encoding import ImageEncoder
from .loop import Length
from .session import Precision, Session, decide_precision, loss_functions, noise_options

log = logging.getLogger(__name__)
PATTERNS = "include_patterns"
"""Word of --network_args that names modules one by one; it wins over a preset."""
OWN_CHOICE = (PATTERNS, "preset", "config")
"""Words of --network_args by which an adapter's package chooses modules itself, which wins too."""
DTYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def open_accelerator(config: RunConfig) -> Any:
    """accelerate's Accelerator for this run; what ``accelerate launch`` set is read by it from the environment."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    machine = config.machine
    handlers = [InitProcessGroupKwargs(timeout=timedelta(minutes=machine.ddp_timeout))] if machine.ddp_timeout else []
    precision = decide_precision(machine, has_accelerator())
    return Accelerator(mixed_precision=precision.autocast, step_scheduler_with_optimizer=False,
                       kwargs_handlers=handlers, deepspeed_plugin=_deepspeed(config))


def has_accelerator() -> bool:
    """Whether torch sees a GPU (or another device than the CPU) that may be used."""
    import os

    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"):
        return False
    return torch.accelerator.is_available()


def _deepspeed(config: RunConfig) -> Any:
    if config.machine.deepspeed is None:
        return None
    from accelerate import DeepSpeedPlugin

    plugin = DeepSpeedPlugin(gradient_accumulation_steps=config.loop.gradient_accumulation_steps,
                             gradient_clipping=config.optimizer.max_grad_norm, **config.machine.deepspeed)
    plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.data.parts[0].batch_size
    return plugin


def load(config: RunConfig, family: Family, device: torch.device, precision: Precision) -> Parts:
    """Load the base model, frozen and in evaluation mode, on ``device``; ``settle`` takes a denoiser there that waits."""
    model, waits = config.model, config.denoiser_waits
    options = families.make_options(family, model.options | {
        "clip_skip": model.clip_skip, "max_token_length": model.max_token_length,
        "weighted_captions": model.weighted_captions, "resolutions": tuple(part.resolution for part in config.data.parts),
        TEXT_ADAPTER: config.network.args.get(TEXT_ADAPTER, "").lower() == "true"})
    parts = family.load(LoadRequest(
        source=model.source, options=options, dtype=DTYPE_NAMES[precision.base], vae=model.vae,
        vae_dtype=DTYPE_NAMES[precision.vae], device="cpu" if waits else str(device)))
    for part in [parts.vae, *parts.text_encoders] if waits else []:
        part.to(device)
    for part in [parts.denoiser, parts.vae, *parts.text_encoders]:
        part.requires_grad_(False).eval()
    return parts


def settle(machine: MachineConfig, denoiser: Any, device: torch.device) -> None:
    """Make a frozen denoiser as small as was asked for, and put it on the device, or most of it.

    The adapter is on it already: its first weights, and what is merged before, need the weights as they are.
    """
    if machine.base_quantization:
        quantised.quantise(denoiser, machine.base_quantization, device)
    if machine.blocks_to_swap:
        swapping.swap(denoiser, machine.blocks_to_swap, device)
    else:
        denoiser.to(device)


def set_attention(config: RunConfig, parts: Parts) -> None:
    """Switch the denoiser to xformers where that was asked for; torch's own attention needs nothing."""
    if config.machine.attention != "xformers":
        return
    if torch.cuda.is_available():
        parts.denoiser.enable_xformers_memory_efficient_attention()
    else:
        log.info(say("--xformers: it needs an NVIDIA card; PyTorch's own attention (sdpa) is used, results are equal"))


def merge_base(config: RunConfig, family: Family, parts: Parts) -> None:
    """Stage 5, last: merge ``--base_weights``; what is encoded once afterwards is encoded by the model that is trained."""
    settings = config.network
    if not settings.base_weights:
        return
    strengths = settings.base_weights_multiplier or (1.0,)
    padded = strengths + (1.0,) * (len(settings.base_weights) - len(strengths))
    request = network_request(config, family, parts, chosen_targets(config, family, parts))
    with nullcontext() if config.loop.kohya_order else random_states_kept():
        networks.merge_base(settings.module, replace(request, weights=None, dim_from_weights=False),
                            list(zip(settings.base_weights, padded, strict=False)))


def network_request(config: RunConfig, family: Family, parts: Parts, found: list[Target]) -> NetworkRequest:
    settings = config.network
    return NetworkRequest(
        targets=found, exact=settings.targets is not None, dim=settings.dim, alpha=settings.alpha, dropout=settings.dropout,
        args=settings.args, vae=parts.vae, text_encoders=parts.text_encoders, denoiser=parts.denoiser,
        weights=settings.weights, dim_from_weights=settings.dim_from_weights, extra_targets=family.extra_targets(parts),
        train_denoiser=settings.train_denoiser, train_text_encoder=settings.train_text_encoder)


def attach(config: RunConfig, family: Family, parts: Parts) -> Any:
    """Stage 7: make the adapter, load what it goes on from, hang it on the model."""
    settings = config.network
    found = chosen_targets(config, family, parts)
    network = networks.attach(settings.module, network_request(config, family, parts, found))
    if settings.targets is not None:
        own = any(word in settings.args for word in OWN_CHOICE)
        tell_targets(settings, family, targets.denoiser_targets(family, parts) if own else found, network)
    eight_bit.apply(config.machine, parts)  # last: merging and first weights need the weights as they are
    return network


def chosen_targets(config: RunConfig, family: Family, parts: Parts) -> list[Target]:
    """The modules that may carry the adapter: the family's own choice, or a preset's by role."""
    everything = family.adapter_targets(parts)
    if wrong := judge_targets(family.SPEC, parts.text_encoders, everything):
        raise UserError(*wrong)
    settings = config.network
    if settings.targets is None:
        return everything
    text = [target for target in everything if target.root != "denoiser"] if settings.train_text_encoder else []
    if PATTERNS in settings.args:
        included = patterns(PATTERNS, settings.args[PATTERNS])
        return text + [target for target in targets.denoiser_targets(family, parts) if hit(target, included)]
    return text + targets.choose(family, parts, settings.targets)


def tell_targets(settings: NetworkConfig, family: Family, found: list[Target], network: Any) -> None:
    """Say which modules of the denoiser carry the adapter now, and by which word they were chosen."""
    adapted = {adapter.lora_name for adapter in network.adapters}
    word = next((own for own in OWN_CHOICE if own in settings.args), settings.targets)
    carried = [target for target in found if target.name in adapted and target.root == "denoiser"]
    log.info("--slider_lora_target %s", targets.described(word, carried))
    if shared := targets.shared_with_text(family.SPEC, carried):
        log.info("%d of these layers read words and picture with the same weights: text is left alone only as far as that goes",
                 shared)


def prepare(config: RunConfig, family: Family, parts: Parts, network: Any, accelerator: Any,
            length: Length) -> tuple[Session, optimizers.Created]:
    """Stage 8: optimizer, schedule and objective as objects -> the session and what the optimizer told of itself."""
    precision = decide_precision(config.machine, has_accelerator())
    network.to(accelerator.device, precision.adapter)
    settle(config.machine, parts.denoiser, accelerator.device)
    asked = config.optimizer
    rates = asked.text_encoder_lr or None
    groups, names = network.prepare_optimizer_params(rates[0] if rates and len(rates) == 1 else rates,
                                                     asked.unet_lr, asked.lr)
    made = optimizers.create(optimizers.OptimizerSettings(asked.name, asked.lr, asked.args), groups)
    for note in made.notes:
        log.info(note)
    network.prepare_grad_etc(parts.text_encoders, parts.denoiser)
    helper = config.network.assistant
    assistant = loras.hang(family, parts, helper, accelerator.device) if helper else None
    lr_schedule = schedules.create(_schedule_settings(config, made, length), made.optimizer,
                                   schedule_free=made.spec.schedule_free)
    as_multiplier: Callable[[float], Any] = float
    if config.machine.torch_compile:
        parts.denoiser.compile(backend=config.machine.dynamo_backend)
        as_multiplier = partial(torch.tensor, dtype=torch.float32, device=accelerator.device)
        network.set_multiplier(as_multiplier(1.0))
    trains_text = any(name.startswith("textencoder") for name in names)
    if config.machine.gradient_checkpointing:
        function = checkpointing.checkpoint_function(network, config.machine.cpu_offload_checkpointing)
        checkpointing.enable(parts.denoiser, parts.text_encoders if trains_text else [], function)
        network.enable_gradient_checkpointing()
    optimizer, lr_schedule = _register(accelerator, network, made.optimizer, lr_schedule)
    space = family.schedule(parts.options, config.noise)
    distance, weigh = loss_functions(config, space)
    session = Session(config=config, family=family, parts=parts, network=network, accelerator=accelerator,
                      optimizer=optimizer, lr_schedule=lr_schedule, group_names=names, precision=precision,
                      schedule=space, noise=noise_options(config), distance=distance, weigh=weigh,
                      trains_text=trains_text, encode_pixels=ImageEncoder(family, parts, accelerator.device),
                      rest=made.eval, resume=made.train, assistant=assistant, as_multiplier=as_multiplier)
    if asked.ema_decay:
        session.averages = Ema(network.get_trainable_params(), constant_decay(asked.ema_decay))
    return session, made


def _schedule_settings(config: RunConfig, made: optimizers.Created, length: Length) -> schedules.ScheduleSettings:
    asked = config.schedule
    return schedules.ScheduleSettings(
        name=made.schedule or asked.name, steps=length.steps, warmup=asked.warmup, decay=asked.decay,
        num_cycles=asked.num_cycles, power=asked.power, timescale=asked.timescale, min_lr_ratio=asked.min_lr_ratio,
        args=asked.args, is_class=asked.is_class and made.schedule is None)


def _register(accelerator: Any, network: Any, optimizer: Any, lr_schedule: Any) -> tuple[Any, Any]:
    """Hand everything stateful to accelerate, so that state folders hold it and fp16 gradients are scaled.

    The adapter is registered without DistributedDataParallel: its forward runs inside the frozen model, where that
    wrapper's hooks would never fire; the loop averages gradients itself. DeepSpeed owns model and optimizer.
    """
    if accelerator.state.deepspeed_plugin is not None:
        _, optimizer, lr_schedule = accelerator.prepare(network, optimizer, lr_schedule)
        return optimizer, lr_schedule
    accelerator.prepare_model(network, evaluation_mode=True)
    if accelerator.scaler is not None and any(p.dtype is torch.float16 for p in network.get_trainable_params()):
        allow_half_gradients(accelerator.scaler)
    return accelerator.prepare_optimizer(optimizer), accelerator.prepare_scheduler(lr_schedule)


def allow_half_gradients(scaler: Any) -> None:
    """Let torch's gradient scaler unscale fp16 gradients (``--full_fp16``), which it refuses by itself."""
    unscale = scaler._unscale_grads_

    def unscale_any(optimizer: Any, inverse_scale: Any, found_inf: Any, _allow_fp16: bool) -> Any:
        return unscale(optimizer, inverse_scale, found_inf, True)

    scaler._unscale_grads_ = unscale_any
