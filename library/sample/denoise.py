"""From prompts to pictures: our own sampling loop over a family's ``predict``, or the family's diffusers pipeline."""

from __future__ import annotations

import inspect
import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from library.config.run_config import NoiseConfig
from library.families.interface import Family, Parts, latent_channels
from library.sample import samplers
from library.sample.conds import concatenate, to_device
from library.sample.jobs import Job, SampleOptions
from library.sample.prompts import PromptLine
from library.util.records import Cond

if TYPE_CHECKING:
    import torch
    from PIL import Image


def autocast(options: SampleOptions) -> AbstractContextManager[Any]:
    """The run's mixed precision for denoiser and text encoders; the VAE decodes outside it, in its own dtype."""
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(options.autocast)
    return nullcontext() if dtype is None else torch.autocast(torch.device(options.device).type, dtype)


def draw(family: Family, parts: Parts, job: Job, options: SampleOptions) -> list[Image.Image]:
    """Draw one batch.

    Models of noise or velocity are sampled by our own loop, which reads text as training does (clip_skip, long and
    weighted captions); flow models differ in how they shift and guide, which their pipelines know.
    """
    strength = job.first.adapter_strength
    wanted = strength is not None and options.at_strength is not None
    with options.at_strength(strength) if wanted else nullcontext():
        pipeline = family.pipeline(parts) if family.SPEC.target_space == "flow" else None
        with autocast(options):
            if pipeline is not None:
                return _by_pipeline(pipeline, job)
            latents = denoised(family, parts, job, options)
        return to_pictures(family.decode_latents(parts, latents))


def denoised(family: Family, parts: Parts, job: Job, options: SampleOptions) -> torch.Tensor:
    """Denoise a batch by our own loop: any sampler of the table for eps and v, Euler for flow."""
    import torch

    spec, first = family.SPEC, job.first
    generators = [_generator(line) for line in job.lines]
    shape = (1, latent_channels(family, parts), first.height // spec.vae_factor, first.width // spec.vae_factor)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators]).to(options.device)
    step = Guided(family, _with_guidance(parts, first), job, _conds(family, parts, job, options))
    if spec.target_space == "flow":
        return _euler_flow(step, noise, first.steps, first.flow_shift or 1.0)
    schedule = options.schedule or family.schedule(parts.options, NoiseConfig())
    return _discrete(step, noise, samplers.make(first.sampler, schedule), generators)


class Guided:
    """The model with classifier-free guidance: (x BCHW, timestep, sigma) -> prediction BCHW in fp32."""

    def __init__(self, family: Family, parts: Parts, job: Job, cond: Cond) -> None:
        self.family, self.parts, self.job, self.cond = family, parts, job, cond

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor, sigma: torch.Tensor | None = None) -> torch.Tensor:
        from library.diffusion.schedule import Noised, per_item

        def predict(x: torch.Tensor) -> torch.Tensor:
            sigmas_B = None if sigma is None else sigma.expand(len(x))
            return self.family.predict(self.parts, Noised(x, x, timestep.expand(len(x)), sigmas_B), self.cond).float()

        if not self.job.guided:
            return predict(x)
        without, with_prompt = predict(_twice(x)).chunk(2)
        scale_B = x.new_tensor([line.scale for line in self.job.lines])
        return without + per_item(scale_B, x) * (with_prompt - without)


def _twice(x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([x, x])


def _discrete(step: Guided, noise: torch.Tensor, scheduler: Any, generators: list[torch.Generator]) -> torch.Tensor:
    steps = step.job.first.steps
    scheduler.set_timesteps(steps, device=noise.device)
    x = noise * scheduler.init_noise_sigma
    more = {"generator": generators} if samplers.takes_generator(scheduler) else {}
    for timestep in scheduler.timesteps:
        prediction = step(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(prediction, timestep, x, **more).prev_sample
    return x


def _euler_flow(step: Guided, x: torch.Tensor, steps: int, shift: float) -> torch.Tensor:
    """Euler from pure noise to the picture over shifted sigmas."""
    import torch

    from library.diffusion.timesteps import shift_sigmas

    sigmas = torch.cat([shift_sigmas(torch.linspace(1, 1 / steps, steps), shift), torch.zeros(1)]).to(x.device)
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * step(x, sigma * 1000, sigma)
    return x


def _generator(line: PromptLine) -> torch.Generator:
    """A generator of the line's own; without a seed a new one each time, from the system's entropy."""
    import torch

    seed = random.SystemRandom().randrange(2**32) if line.seed is None else line.seed
    return torch.Generator("cpu").manual_seed(seed)


def _with_guidance(parts: Parts, line: PromptLine) -> Parts:
    """Parts whose options carry the line's guidance input, where the family has one."""
    if line.guidance_scale is None or "guidance_scale" not in {one.name for one in fields(parts.options)}:
        return parts
    return replace(parts, options=replace(parts.options, guidance_scale=line.guidance_scale))


def _conds(family: Family, parts: Parts, job: Job, options: SampleOptions) -> Cond:
    """Conditioning of a batch, the negative prompts' first where it is guided."""
    texts = [line.prompt for line in job.lines]
    if job.guided:
        texts = [line.negative_prompt or "" for line in job.lines] + texts
    distinct = list(dict.fromkeys(texts))
    known = {text: options.conds[text] for text in distinct if text in options.conds}
    for text in distinct:
        if text not in known:
            known[text] = family.encode_text(parts, [text])
    cond = concatenate([known[text] for text in texts], family.SPEC.cond_padding)
    size = (job.first.height, job.first.width)
    sizes = family.size_cond([size] * len(texts), [(0, 0)] * len(texts), size)
    return {key: to_device(value, options.device) for key, value in (cond | sizes).items()}


def _by_pipeline(pipeline: Any, job: Job) -> list[Image.Image]:
    """Draw a batch with the family's diffusers pipeline, giving it what its call takes."""
    first, known = job.first, inspect.signature(pipeline.__call__).parameters
    scales = ({"true_cfg_scale": first.scale, "guidance_scale": first.guidance_scale} if "true_cfg_scale" in known
              else {"guidance_scale": first.scale})
    given = {"prompt": [line.prompt for line in job.lines], "height": first.height, "width": first.width,
             "num_inference_steps": first.steps, "generator": [_generator(line) for line in job.lines],
             "cfg_trunc_ratio": first.cfg_trunc_ratio, "cfg_normalization": first.renorm_cfg, "output_type": "pil"}
    given |= scales
    if job.guided:
        given["negative_prompt"] = [line.negative_prompt or "" for line in job.lines]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**{key: value for key, value in given.items() if key in known and value is not None}).images


def to_pictures(pixels_BCHW: torch.Tensor) -> list[Image.Image]:
    """Pixels in [-1, 1] -> RGB pictures; where a damaged model gave no number, black."""
    import torch
    from PIL import Image

    unit_BCHW = (pixels_BCHW.float() / 2 + 0.5).nan_to_num(0.0).clamp(0, 1)
    bytes_BHWC = (unit_BCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(picture) for picture in bytes_BHWC.cpu().numpy()]
