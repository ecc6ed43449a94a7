"""Stage 8: names become objects. A Session is everything a training step calls, decided beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from library.config.run_config import MachineConfig, RunConfig
from library.diffusion.losses import Distance, WeightOptions, distance, huber_threshold, timestep_weight
from library.diffusion.noise import NoiseOptions, draw_noise, perturb
from library.diffusion.schedule import Noised, Schedule
from library.families import cond_dropout
from library.families.interface import Family, Parts
from library.util.records import Batch, Cond

from .encoding import ImageEncoder

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "no": torch.float32}


@dataclass
class Progress:
    """Where a run stands. Counts begin at 0 and say how much is done."""

    epoch: int = 0
    """Epochs that are complete."""
    step: int = 0
    """Optimizer steps that are done."""
    batch: int = 0
    """Batches of the present epoch that every process together has used."""


@dataclass(frozen=True)
class Precision:
    """Dtypes of a run on the machine at hand."""

    autocast: str
    """``no``, ``fp16`` or ``bf16``, what accelerate is told."""
    base: torch.dtype
    """Of the frozen model's weights."""
    vae: torch.dtype
    adapter: torch.dtype


def decide_precision(machine: MachineConfig, has_accelerator: bool) -> Precision:
    """Half precision is for accelerators: without one everything is fp32 (a start-up check says so)."""
    asked = machine.mixed_precision if has_accelerator else "no"
    base = TORCH_DTYPES[asked]
    full = has_accelerator and (machine.full_fp16 or machine.full_bf16)
    return Precision(autocast=asked, base=base, vae=torch.float32 if machine.no_half_vae else base,
                     adapter=base if full else torch.float32)


@dataclass
class Session:
    """What the loop and the objectives work with."""

    config: RunConfig
    family: Family
    parts: Parts
    network: Any
    """The adapter; ``network.set_multiplier`` is live."""
    accelerator: Any
    optimizer: Any
    lr_schedule: Any
    group_names: list[str]
    """What each parameter group of the optimizer trains, for logs."""
    precision: Precision
    schedule: Schedule
    noise: NoiseOptions
    distance: Distance
    weigh: Callable[[torch.Tensor], torch.Tensor]
    trains_text: bool
    encode_pixels: ImageEncoder
    progress: Progress = field(default_factory=Progress)
    rest: Callable[[], None] = lambda: None
    """Called before saving and samples: schedule-free optimizers then show their averaged weights."""
    resume: Callable[[], None] = lambda: None
    """Called when training goes on after ``rest``."""
    assistant: Any = None
    """Network of ``--assistant_lora``, frozen, at a strength of its own."""
    averages: Any = None
    """EMA of the adapter, where asked for."""
    as_multiplier: Callable[[float], Any] = float
    """How a strength is handed to the adapter: as a number, or as a tensor where a compiled model would take every other
    number for a reason to compile anew."""

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def latents(self, batch: Batch) -> torch.Tensor:
        """Normalised latents of a batch, from the cache or encoded now (posterior sampled), in the base's dtype."""
        if batch.latents_BCHW is not None:
            return batch.latents_BCHW.to(self.device, self.precision.base)
        assert batch.pixels_BCHW is not None
        return self.encode_pixels(batch.pixels_BCHW, batch.keys).to(self.precision.base)

    def cond(self, batch: Batch) -> Cond:
        """Conditioning of a batch: cached, or encoded now, with gradients where a text encoder is trained."""
        sizes = self.family.size_cond(batch.original_sizes, batch.crops, batch.target_size)
        if batch.cond is not None:
            cond = {key: _to(value, self.device) for key, value in batch.cond.items()}
        else:
            with nullcontext() if self.trains_text else torch.no_grad(), self.accelerator.autocast():
                cond = self.family.encode_text(self.parts, batch.captions)
        cond = cond_dropout.at_random(self.family.SPEC, self.parts.options, cond)
        return cond | {key: _to(value, self.device) for key, value in sizes.items()}

    def add_noise(self, latents: torch.Tensor) -> Noised:
        """Draw noise and timesteps, in kohya's order, and mix."""
        noise = draw_noise(latents, self.noise)
        timesteps_B = self.schedule.draw(len(latents), tuple(latents.shape[-2:])).to(self.device)
        return self.mixed(latents, noise, timesteps_B)

    def mixed(self, latents: torch.Tensor, noise: torch.Tensor, timesteps_B: torch.Tensor) -> Noised:
        """Mix given noise into latents, perturbed where ``--ip_noise_gamma`` asks for it."""
        mixed = perturb(noise, self.noise)
        noised = self.schedule.add_noise(latents, mixed, timesteps_B)
        if mixed is noise:
            return noised
        return Noised(noised.x_BCHW, noise, timesteps_B, noised.sigmas_B)

    def predict(self, noised: Noised, cond: Cond) -> torch.Tensor:
        with self.accelerator.autocast():
            return self.family.predict(self.parts, noised, cond)

    def target(self, latents: torch.Tensor, noised: Noised) -> torch.Tensor:
        return self.schedule.target(latents, noised)

    def weights(self, batch: Batch, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Loss weights of the pictures (regularisation) times those of their timesteps."""
        return (batch.weights_B * self.weigh(timesteps_B)).to(self.device)

    @contextmanager
    def at_rest(self, averaged: bool = True) -> Iterator[None]:
        """Show the weights that are worth saving: the optimizer's averaged ones, the EMA's unless not ``averaged``."""
        self.rest()
        try:
            with self.averages.applied() if averaged and self.averages is not None else nullcontext():
                yield
        finally:
            self.resume()

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """The adapter without its dropouts, for the length of the block."""
        was_training = self.network.training
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(was_training)

    @contextmanager
    def unassisted(self) -> Iterator[None]:
        """Show the model as its users will have it: without the assistant."""
        if self.assistant is None:
            yield
            return
        self.assistant.set_enabled(False)
        try:
            yield
        finally:
            self.assistant.set_enabled(True)

    @contextmanager
    def multiplier(self, strength: float | None) -> Iterator[None]:
        """Run the adapter at ``strength`` inside the block, backward included; None leaves it as it is."""
        if strength is None:
            yield
            return
        before = self.network.multiplier
        self.network.set_multiplier(self.as_multiplier(strength))
        try:
            yield
        finally:
            self.network.set_multiplier(before)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return [_to(one, device) for one in value]


def noise_options(config: RunConfig) -> NoiseOptions:
    noise = config.noise
    return NoiseOptions(
        offset=noise.offset, offset_random_strength=noise.offset_random_strength,
        adaptive_noise_scale=noise.adaptive_noise_scale, multires_iterations=noise.multires_iterations,
        multires_discount=noise.multires_discount, ip_noise_gamma=noise.ip_noise_gamma,
        ip_noise_gamma_random_strength=noise.ip_noise_gamma_random_strength)


def loss_functions(config: RunConfig, schedule: Schedule) -> tuple[Distance, Callable[[torch.Tensor], torch.Tensor]]:
    """The distance and the timestep weights that the flags ask for."""
    loss = config.loss
    threshold = huber_threshold(loss.huber_schedule, loss.huber_c, loss.huber_scale, schedule)
    options = WeightOptions(
        min_snr_gamma=loss.min_snr_gamma, debiased_estimation=loss.debiased_estimation,
        scale_v_pred_loss_like_noise_pred=loss.scale_v_pred_loss_like_noise_pred,
        v_pred_like_loss=loss.v_pred_like_loss)
    return distance(loss.type, threshold), timestep_weight(options, schedule)
