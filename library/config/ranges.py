"""Numbers that only make sense within a range, by flag."""

from __future__ import annotations

from collections.abc import Iterator

from library.flags import Flags
from library.util.records import Problem
from library.util.said import say

POSITIVE = (
    "network_dim",
    "train_batch_size",
    "gradient_accumulation_steps",
    "max_train_steps",
    "max_train_epochs",
    "clip_skip",
    "vae_batch_size",
    "save_every_n_steps",
    "save_every_n_epochs",
    "save_n_epoch_ratio",
    "sample_every_n_steps",
    "sample_every_n_epochs",
    "validate_every_n_steps",
    "validate_every_n_epochs",
    "max_validation_steps",
    "epoch_digits",
    "token_warmup_min",
    "dataset_repeats",
    "initial_epoch",
    "lr_scheduler_num_cycles",
    "text_encoder_batch_size",
)
NOT_NEGATIVE = (
    "learning_rate",
    "unet_lr",
    "max_grad_norm",
    "max_data_loader_n_workers",
    "keep_tokens",
    "token_warmup_step",
    "lr_warmup_steps",
    "lr_decay_steps",
    "caption_dropout_every_n_epochs",
    "multires_noise_iterations",
    "min_timestep",
    "huber_c",
    "min_snr_gamma",
    "prior_loss_weight",
    "network_alpha",
    "initial_step",
    "seed",
    "early_stopping_patience",
    "blocks_to_swap",
)
PARTS = ("caption_dropout_rate", "caption_tag_dropout_rate", "validation_split", "network_dropout")
"""Settings between 0 and 1."""
ZERO_IS_OFF = (
    "save_every_n_steps",
    "save_every_n_epochs",
    "save_n_epoch_ratio",
    "sample_every_n_steps",
    "sample_every_n_epochs",
    "validate_every_n_steps",
    "validate_every_n_epochs",
    "max_validation_steps",
    "max_train_epochs",
    "clip_skip",
    "save_last_n_steps",
    "save_last_n_epochs",
    "save_last_n_steps_state",
    "save_last_n_epochs_state",
    "max_timestep",
    "scale_weight_norms",
    "network_dropout",
    "min_snr_gamma",
    "vae_batch_size",
    "text_encoder_batch_size",
    "multires_noise_iterations",
    "ip_noise_gamma",
    "keep_tokens",
    "ddp_timeout",
    "lr_scheduler_min_lr_ratio",
    "blocks_to_swap",
)
"""Settings in which 0, as front ends write it, means that the thing is not wanted."""
USUAL = {
    "network_dim": "8 to 32",
    "network_alpha": "half of --network_dim",
    "train_batch_size": "1 to 4",
    "gradient_accumulation_steps": "1",
    "max_train_steps": "500 to 3000",
    "max_train_epochs": "10",
    "clip_skip": "1, or 2 for most anime models",
    "learning_rate": "1e-4",
    "unet_lr": "1e-4",
    "text_encoder_lr": "5e-5",
    "max_grad_norm": "1",
    "min_snr_gamma": "5",
    "caption_dropout_rate": "0.1",
    "caption_tag_dropout_rate": "0.1",
    "validation_split": "0.1",
    "network_dropout": "0.1",
    "lr_warmup_steps": "5%",
    "keep_tokens": "1",
    "max_data_loader_n_workers": "0 to 4",
}
"""What people usually give, for the remedy."""
BOUNDS = (
    (POSITIVE, lambda value: value >= 1, "1 or more"),
    (NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
    (PARTS, lambda value: 0 <= value <= 1, "between 0 and 1 (0.1 is ten per cent)"),
)


def out_of_range(flags: Flags) -> Iterator[Problem]:
    """Every number that lies outside what its flag can mean."""
    for names, fits, bounds in BOUNDS:
        for name in names:
            value = flags.maybe(name)
            if not (value is None or (value == 0 and name in ZERO_IS_OFF) or fits(value)):
                yield _outside(name, value, bounds)
    for rate in flags["text_encoder_lr"] or []:
        if rate < 0:
            yield _outside("text_encoder_lr", rate, "0 or more")


def _outside(name: str, value: float, bounds: str) -> Problem:
    what = say("--{name} is {value}, but it must be {bounds}.", name=name, value=value, bounds=say(bounds))
    usual = USUAL.get(name)
    remedy = (say("Give a number that is {bounds}; usual is {usual}.", bounds=say(bounds), usual=say(usual)) if usual
              else say("Give a number that is {bounds}, or remove the flag.", bounds=say(bounds)))  # fmt: skip
    return Problem(f"--{name}", what, remedy, check="value_range")
