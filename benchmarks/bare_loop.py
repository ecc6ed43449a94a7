"""The plainest LoRA loop over diffusers and peft: the yardstick for the trainer's speed and memory.

It trains the same 264 modules at the same rank as `networks.lora` does on Stable Diffusion 1.5, text encoder included,
from pictures that the VAE encodes in every step, in fp32 with AdamW and clipped gradients, and does nothing else.

    python benchmarks/bare_loop.py MODEL --side 64 --steps 4        # its seconds a step and its peak memory
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure

UNET_MODULES = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
TEXT_MODULES = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
MODULES = 264


@dataclass
class Models:
    unet: Any
    vae: Any
    text: Any
    tokenizer: Any
    scheduler: Any


def load(model: Path) -> Models:
    """The four parts as a diffusers user loads them, fp32."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    kind = {"torch_dtype": torch.float32}
    return Models(UNet2DConditionModel.from_pretrained(model, subfolder="unet", **kind),
                  AutoencoderKL.from_pretrained(model, subfolder="vae", **kind),
                  CLIPTextModel.from_pretrained(model, subfolder="text_encoder", dtype=torch.float32),
                  CLIPTokenizer.from_pretrained(model, subfolder="tokenizer"),
                  DDPMScheduler.from_pretrained(model, subfolder="scheduler"))


def stepper(models: Models, side: int, captions: list[str]) -> Callable[[], float]:
    """A function that trains one step on one picture of side x side pixels and returns its loss."""
    import torch
    from peft import LoraConfig

    for part in (models.unet, models.vae, models.text):
        part.requires_grad_(False).eval()
    models.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=UNET_MODULES))
    models.text.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=TEXT_MODULES))
    trained = [p for part in (models.text, models.unet) for p in part.parameters() if p.requires_grad]
    assert len(trained) == 2 * MODULES, f"{len(trained)} tensors are trained, not {2 * MODULES}"
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    pixels = torch.rand(len(captions), 1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    count = 0

    def step() -> float:
        nonlocal count
        which = count % len(captions)
        count += 1
        with torch.no_grad():
            latents = models.vae.encode(pixels[which]).latent_dist.sample() * models.vae.config.scaling_factor
        tokens = models.tokenizer(captions[which], padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        states = models.text(tokens.input_ids).last_hidden_state
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (1,))
        noisy = models.scheduler.add_noise(latents, noise, timesteps)
        prediction = models.unet(noisy, timesteps, states).sample
        loss = torch.nn.functional.mse_loss(prediction, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a Stable Diffusion 1.5 in diffusers' layout")
    parser.add_argument("--side", type=int, default=64, help="pixels (default 64)")
    parser.add_argument("--steps", type=int, default=4, help="steps to train; 0 loads the weights and stops (default 4)")
    asked = parser.parse_args()
    models = load(asked.model)
    size = sum(p.nbytes for part in (models.unet, models.vae, models.text) for p in part.parameters())
    print(f"weights: {size / 1e9:.2f} GB")
    if asked.steps:
        step, seconds = stepper(models, asked.side, measure.CAPTIONS), []
        for _ in range(asked.steps):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        print(f"seconds a step: {' '.join(f'{s:.2f}' for s in seconds)}")
    measure.tell_peak()


if __name__ == "__main__":
    main()
