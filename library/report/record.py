"""What a run leaves to be told: one plain record that the report page and the last words are written from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

LOSS_PLOT = "Loss plot"
"""Title of the loss plot among a report's pictures; the page draws the curves itself, as lines."""
BEFORE_AND_AFTER = "Before and after"
"""Title of the first and last samples side by side."""


@dataclass(frozen=True)
class Setting:
    """A setting as it was decided: flag, value, and where the value came from."""

    name: str
    value: str
    origin: str
    """``default``, ``command line``, ``a.toml:3``, ..."""


@dataclass(frozen=True)
class FileLine:
    """A file that the run wrote."""

    path: Path
    bytes: int
    sha256: str = ""
    epoch: int | None = None
    step: int | None = None
    loads_in: tuple[str, ...] = ()
    """Programs that load it as it is."""


@dataclass(frozen=True)
class SampleLine:
    """A sample picture of the run."""

    path: Path
    prompt: str
    index: int
    """The prompt's place in the prompt file."""
    step: int
    epoch: int | None = None
    strength: float | None = None


@dataclass(frozen=True)
class DataLine:
    """A folder of training pictures."""

    folder: str
    pictures: int
    repeats: int
    captions: int = 0
    """Pictures that have a caption of their own."""
    is_reg: bool = False
    strength: float | None = None


@dataclass
class RunReport:
    """Everything that is told of a run. The trainer fills it as the run goes on; the report room only reads it."""

    name: str
    output_dir: Path
    command: str = ""
    """The command to repeat the run, secrets masked."""
    program: str = ""
    """Program, versions and machine, in a line."""
    base_model: str = ""
    family: str = ""
    settings: list[Setting] = field(default_factory=list)
    data: list[DataLine] = field(default_factory=list)
    buckets: list[tuple[str, int]] = field(default_factory=list)
    """(resolution, pictures)."""
    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    step_numbers: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    averages: list[float] = field(default_factory=list)
    """kohya's avr_loss at each step; empty where it was not kept."""
    rates: dict[str, list[float]] = field(default_factory=dict)
    """What a parameter group trains -> its learning rate at each step."""
    validation: list[tuple[int, float]] = field(default_factory=list)
    """(step, validation loss)."""
    samples: list[SampleLine] = field(default_factory=list)
    files: list[FileLine] = field(default_factory=list)
    states: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    text_ignored_by: list[str] = field(default_factory=list)
    """Programs that leave out what was trained of the text encoder."""
    pictures: dict[str, Path] = field(default_factory=dict)
    """Title -> further picture of the report (before and after, loss plot, ...)."""
    slides: bool = False
    """Whether the file has two directions: it is for negative strengths as well."""
    slider: list[tuple[float, float]] = field(default_factory=list)
    """(strength, response along the slider's axis) of a finished slider."""
    slider_words: list[str] = field(default_factory=list)
    """What was measured of it, in lines."""
    diagnosis: list[str] = field(default_factory=list)
    """The verdict on the last file, the figures that it rests on and what to do, in lines; empty where there was none."""
    stopped: str = ""
    """Why the run ended before its last step; empty where it did not."""
