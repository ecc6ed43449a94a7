"""``--debug_dataset``: what the first epoch would train on, picture by picture; nothing is loaded and nothing trained."""

from __future__ import annotations

from pathlib import Path

import torch

from library.config.run_config import RunConfig
from library.data.loading import Feed, Pictures, Setting, check_lengths, step_plan
from library.data.plan import DatasetPlan
from library.util.records import Batch
from library.util.said import say, spoken

MOST = 200
"""Pictures that are written; the captions of all are printed."""


def show(config: RunConfig, plan: DatasetPlan) -> int:
    """Print the batches of the first epoch and write their pictures; returns the exit code."""
    steps = step_plan(plan, config.loop)
    check_lengths(steps)
    setting = Setting(seed=config.loop.seed, max_steps=steps.steps, batches=steps.batches,
                      batches_per_step=steps.accumulation, prior_loss_weight=config.loss.prior_loss_weight,
                      masked=config.loss.masked, upright=not config.loop.kohya_order)
    feed = Feed(Pictures(plan, setting, as_cached=config.cache.latents), workers=config.data.workers)
    folder = config.save.output_dir / f"{config.save.output_name}-debug"
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for number, batch in enumerate(feed.epoch(0), 1):
        print("\n".join(described(batch, number)))
        for place in range(len(batch)):
            if written < MOST:
                save(batch, place, folder / f"{number:05d}_{place:02d}_{Path(batch.keys[place]).stem}.png")
                written += 1
    print(spoken(say("{batches} batches an epoch, {epochs} epochs, {steps} steps. {written} pictures as the model would see them "
                     "are in {folder}.", batches=steps.batches, epochs=steps.epochs, steps=steps.steps, written=written,
                     folder=folder)))  # fmt: skip
    return 0


def described(batch: Batch, number: int) -> list[str]:
    """A batch in words: its size, then for each picture where it comes from, how it is cut, its weight and caption."""
    height, width = batch.target_size
    strength = "" if batch.strength is None else f", slider strength {batch.strength:+g}"
    lines = [f"batch {number}: {len(batch)} x {width}x{height}{strength}"]
    for place, key in enumerate(batch.keys):
        tall, wide = batch.original_sizes[place]
        top, left = batch.crops[place]
        mask = ", masked" if batch.masks_B1HW is not None else ""
        lines.append(f"  {key} ({wide}x{tall}, cut at {left},{top}, loss weight {float(batch.weights_B[place]):g}{mask})")
        lines.append(f"    {batch.captions[place]!r}")
    return lines


def save(batch: Batch, place: int, path: Path) -> None:
    """Write one picture of a batch as the model would see it, its mask as transparency."""
    from PIL import Image

    assert batch.pixels_BCHW is not None
    pixels = ((batch.pixels_BCHW[place] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if batch.masks_B1HW is not None:
        image.putalpha(Image.fromarray((batch.masks_B1HW[place, 0] * 255).round().to(torch.uint8).numpy()))
    image.save(path)
