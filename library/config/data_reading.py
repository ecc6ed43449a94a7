"""What the data description gave, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from library.util.records import Problem
from library.util.said import say

SENTENCES = {
    "resolution_missing": ("No training size was given.",
                           "Add --resolution=512,512 (1024,1024 for SDXL and newer models)."),
    "resolution_form": ("\"{value}\" is not a size in pixels.",
                        "Write one number or width,height without blanks: --resolution=512 or --resolution=512,768."),
    "resolution_form.small": ("A training size of {value} is below 64 pixels.",
                              "Use the size your model was made for, 512 or 1024."),
    "bucket_range.high": ("The training size {size} is larger than the largest bucket (max_bucket_reso {high}).",
                          "Set --max_bucket_reso={need} or more."),
    "bucket_range.low": ("The training size {size} is smaller than the smallest bucket (min_bucket_reso {low}).",
                         "Set --min_bucket_reso={need} or less."),
    "bucket_range.crossed": ("min_bucket_reso {low} is larger than max_bucket_reso {high}.",
                             "Exchange the two numbers; 256 and 1024 are usual."),
    "bucket_steps": ("bucket_reso_steps is {steps}, but bucket sizes cannot grow in steps below 1.", "64 is usual."),
    "batch_size": ("The batch size is {size}, but each step needs at least 1 picture.", "Give 1 or more; 1 to 4 is usual."),
    "latents_subset": ("Latents that are kept (--cache_latents) are made once, but {option}{place} would change the pictures "
                       "every time.", "Remove one of the two."),
    "cached_text_shuffle": ("With --cache_text_encoder_outputs captions are read once and must not change, but these are "
                            "on{place}: {moving}.", "Remove {moving}, or --cache_text_encoder_outputs."),
}
"""Start-up check -> (what is wrong, what to do), for what ``resolve`` finds in flags and data set file together."""


@dataclass
class DataReading:
    """What the data description gave, and everything noticed on the way."""

    notes: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def note(self, where: str, what: str, remedy: str = "", severity: str = "note") -> None:
        self.notes.append(Problem(where, what, remedy, severity, "dataset_config"))

    def stop(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(where, what, remedy, check="dataset_config"))

    def judged(self, key: str, where: str, **values: Any) -> None:
        """A stop in the words of ``SENTENCES``, under the name of its start-up check."""
        what, remedy = SENTENCES[key]
        self.problems.append(Problem(where, say(what, **values), say(remedy, **values), check=key.split(".")[0]))
