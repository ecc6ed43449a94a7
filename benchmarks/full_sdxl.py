"""SDXL at full size with random weights: two training steps at 256 x 256, and the LoRA's names and shapes beside kohya's.

    python benchmarks/full_sdxl.py

Weights are bfloat16 (7 GB); U-Net and both text encoders are trained with gradient checkpointing. Prints modules, seconds,
losses and the process's peak memory; exit code 1 where a name or a shape differs from kohya's (tests/data/lora_names.json).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIDE, STEPS, DIM = 256, 2, 4


def random_model(make: Any) -> Any:
    """A module on the CPU in bfloat16: matrices uniform and small, norms as they begin."""
    import torch

    with torch.device("meta"):
        model = make()
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.uniform_(-0.02, 0.02)
            else:
                weight.fill_(float("norm" in name and name.endswith("weight")))
        for name, value in model.named_buffers():
            if name.endswith("position_ids"):
                value.copy_(torch.arange(value.shape[-1]).expand_as(value))
    return model.requires_grad_(False).eval()


def full_size() -> Any:
    """SDXL's parts without the VAE."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from library.families import clip, sdxl, source
    from library.families.interface import Parts

    configs = source.asset("sdxl.json")
    texts = [random_model(lambda: CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))),
             random_model(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"])))]
    denoiser = random_model(lambda: UNet2DConditionModel(**configs["unet"]))
    return Parts(denoiser, None, texts, [clip.shipped_tokenizer(), clip.shipped_tokenizer("!")], sdxl.Options())


def shapes(network: Any) -> list[list[Any]]:
    """[name, shape of lora_down, shape of lora_up] of every module, as kohya's record has them."""
    state = network.state_dict()
    return [[key.removesuffix(".lora_down.weight"), list(value.shape),
             list(state[key.replace("lora_down", "lora_up")].shape)]
            for key, value in state.items() if key.endswith(".lora_down.weight")]


def steps(parts: Any, network: Any) -> None:
    """STEPS steps on random latents; prints loss and seconds of each."""
    import torch

    from library.config.run_config import NoiseConfig
    from library.families import sdxl
    from library.train import checkpointing

    function = checkpointing.checkpoint_function(network)
    checkpointing.enable(parts.denoiser, parts.text_encoders, function)
    groups, _ = network.prepare_optimizer_params(1e-4, 1e-4, 1e-4)
    optimizer = torch.optim.AdamW(groups)
    schedule, sizes = sdxl.schedule(parts.options, NoiseConfig()), sdxl.size_cond([(SIDE, SIDE)], [(0, 0)], (SIDE, SIDE))
    for step in range(STEPS):
        torch.manual_seed(step)
        begun = time.monotonic()
        latents = torch.randn(1, 4, SIDE // 8, SIDE // 8)
        noised = schedule.add_noise(latents, torch.randn_like(latents), schedule.draw(1, (SIDE // 8, SIDE // 8)))
        with torch.autocast("cpu", torch.bfloat16):
            prediction = sdxl.predict(parts, noised, sdxl.encode_text(parts, ["riho, smile, outdoors"]) | sizes)
        loss = (prediction.float() - schedule.target(latents, noised)).square().mean()
        loss.backward()
        with_gradient = sum(p.grad is not None for p in network.get_trainable_params())
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1}: loss {loss.item():.4f}, {with_gradient} tensors with gradient, "
              f"{time.monotonic() - begun:.1f} s", flush=True)


def main() -> int:
    """Build, compare, train, tell."""
    import torch

    from library.families import sdxl
    from networks import registry
    from networks.registry import NetworkRequest

    begun = time.monotonic()
    parts = full_size()
    print(f"built in {time.monotonic() - begun:.1f} s", flush=True)
    network = registry.attach("networks.lora", NetworkRequest(
        targets=sdxl.adapter_targets(parts), dim=DIM, alpha=DIM, dropout=None, args={}, vae=None,
        text_encoders=parts.text_encoders, denoiser=parts.denoiser, weights=None, dim_from_weights=False,
        train_denoiser=True, train_text_encoder=True))
    network.to(torch.device("cpu"), torch.float32)
    ours = shapes(network)
    theirs = json.loads((ROOT / "tests" / "data" / "lora_names.json").read_text(encoding="utf-8"))["sdxl lora"]
    unet = sum(name.startswith("lora_unet_") for name, *_ in ours)
    equal = sorted(ours) == sorted(theirs)
    print(f"{len(ours)} modules, {unet} of the U-Net, {len(ours) - unet} of the text encoders; kohya's: {equal}", flush=True)
    steps(parts, network)
    print(f"peak memory: {peak_memory() / 1e9:.2f} GB")
    return 0 if equal else 1


def peak_memory() -> int:
    """Bytes of the process's largest resident set so far."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
