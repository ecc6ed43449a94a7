"""Checks whose judge is ``library.config``: its rules on flags and data description, shown here before anything is resolved.

``resolve`` refuses a run because of the same problems, so tools that run no checks refuse it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from library.preflight.registry import Context, check
from library.util.records import Problem

if TYPE_CHECKING:
    from library.flags import Flags

RULED: dict[str, tuple[str, str]] = {
    "model_missing": ("F75", "A run needs a base model."),
    "output_dir_missing": ("F46", "A run needs a folder to write to."),
    "data_missing": ("F01", "A run needs pictures: a folder, a metadata file or a data set file."),
    "prompts_file_missing": ("F01", "A text slider needs its texts."),
    "network_module_missing": ("F23", "Without a module the plain LoRA is trained."),
    "resolution_missing": ("F41", "Folders of pictures need a training size."),
    "resolution_form": ("F41", "The training size is one number or width,height."),
    "bucket_range": ("F41", "The training size must lie between the limits of the buckets, where these were chosen."),
    "bucket_steps": ("F41", "Bucket sizes grow in steps."),
    "value_range": ("F69", "Counts, rates and chances lie within what they can mean."),
    "batch_size": ("F69", "A data set's batch holds at least one picture."),
    "option_needs": ("F69", "Options that mean nothing without another one."),
    "both_only": ("F23", "The two \"only\" flags exclude each other."),
    "nothing_trained": ("F23", "With every learning rate at zero, or the one that counts, nothing would be trained."),
    "schedule_warmup": ("F29", "A constant schedule has no warm-up, and adafactor's warms up by itself."),
    "optimizer_twice": ("F69", "The old optimizer switches exclude each other and --optimizer_type."),
    "latents_random": ("F64", "Pictures whose latents are kept must not change."),
    "latents_subset": ("F64", "The same for a subset of a data set file."),
    "args_form": ("F68", "Free arguments are name=value."),
    "cached_text_shuffle": ("F35", "Captions whose encoding is kept must not change."),
    "cached_text_training": ("F51", "A text encoder whose output is kept cannot be trained."),
    "timestep_range": ("F69", "The range of time steps must not be empty."),
    "base_weights_count": ("F78", "There must not be more strengths than files."),
    "clip_skip_range": ("F69", "The text encoder has only so many layers to skip."),
    "zero_snr": ("F42", "Zero terminal SNR belongs to v-prediction."),
    "ema_decay": ("F69", "The part of an average that is kept lies between 0 and 1."),
    "run_position": ("F21", "A run begins before it ends."),
    "text_slider": ("F69", "Flags that a slider of texts has no use for."),
    "length_default": ("F63", "Without steps or epochs kohya's 1600 steps hold."),
    "dataset_config_wins": ("F69", "Beside a data set file the folder flags are not used."),
    "memory_savers": ("F69", "Ways of saving memory that exclude each other."),
    "not_served": ("F69", "Flags of kohya's that are served otherwise here, or not at all."),
}
"""Name of a check -> its row in the catalogue of failures, and what it looks at."""


def judged(context: Context) -> list[Problem]:
    """What flags and data description show to be wrong; computed once for all checks."""
    from library.config.keyvals import as_strings, as_values
    from library.config.resolve import data_of
    from library.config.rules import judge

    def make() -> list[Problem]:
        flags = flags_of_run(context)
        free: list[Problem] = []
        as_strings("network_args", flags["network_args"], free)
        for name in ("optimizer_args", "lr_scheduler_args"):
            as_values(name, flags[name], free)
        return [*judge(flags), *data_of(flags)[1].problems, *free]

    return context.remember("judged", make)


def flags_of_run(context: Context) -> Flags:
    """The run's flags as ``library.config`` reads them."""
    from library.flags import Flags

    given = {name: origin for name, origin in context.origins.items() if origin != "default"}
    return Flags(context.script, context.flags, given)


def _showing(name: str, about: str) -> Callable[[Context], Iterator[Problem]]:
    def function(context: Context) -> Iterator[Problem]:
        yield from (problem for problem in judged(context) if problem.check == name)

    function.__doc__ = about
    return function


for _name, (_row, _about) in RULED.items():
    check(_name, level="words", row=_row)(_showing(_name, _about))
