"""What a run knows of itself when it saves: the facts that no configuration holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from library.config.run_config import DatasetPart, SubsetConfig


@dataclass(frozen=True)
class SubsetFacts:
    """One folder of pictures as the scan found it."""

    config: SubsetConfig
    img_count: int
    """Pictures, not counting repeats."""

    @property
    def name(self) -> str:
        """The folder's own name, or its metadata file's where it has one (kohya's), by which metadata calls the subset."""
        path = self.config.metadata_file or self.config.image_dir
        return "" if path is None else path.name


@dataclass(frozen=True)
class DatasetFacts:
    """One data set as it is trained on."""

    config: DatasetPart
    subsets: Sequence[SubsetFacts]
    num_train_images: int
    """Pictures times repeats, without regularisation."""
    num_reg_images: int
    tag_frequency: Mapping[str, Mapping[str, int]]
    """Folder name -> tag -> in how many captions."""
    buckets: Sequence[tuple[tuple[int, int], int]] = ()
    """((width, height), pictures times repeats) of every bucket in use, in bucket order."""
    mean_img_ar_error: float | None = None
    """Mean difference between a picture's ratio and its bucket's; None without buckets."""
    is_dreambooth: bool = True


@dataclass(frozen=True)
class ModelFacts:
    """The base model in words and hashes; a hash is None where the model came from the hub."""

    base_version: str
    """``sd_v1``, ..."""
    architecture: str
    """``modelspec.architecture`` without the ``/lora`` at its end."""
    prediction_type: str | None
    """``epsilon``, ``v``; None where the architecture has no such choice."""
    default_resolution: int = 512
    name: str | None = None
    hash_short: str | None = None
    hash_full: str | None = None
    vae_name: str | None = None
    vae_hash_short: str | None = None
    vae_hash_full: str | None = None
    v2: bool = False


@dataclass(frozen=True)
class RunFacts:
    """Facts that hold for the whole run."""

    session_id: int
    started_at: float
    """Seconds since 1970."""
    model: ModelFacts
    datasets: Sequence[DatasetFacts]
    optimizer: str
    """Class path and arguments, ``torch.optim.adamw.AdamW(weight_decay=0.01)``."""
    num_batches_per_epoch: int
    num_epochs: int
    max_train_steps: int
    network_dim: int | None = None
    """The dim in use (kohya's default of 4 is written as ``None`` where none was typed)."""
    num_validation_images: int = 0
    batches_per_step: int = 1
    """Batches that one optimizer step sees: accumulated ones times processes."""
    version: str = "(unknown)"
    """This program's version, where kohya writes its commit."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further ``ss_`` keys, of slider runs for instance; values become text as all others."""

    @property
    def num_train_images(self) -> int:
        return sum(d.num_train_images for d in self.datasets)

    @property
    def num_reg_images(self) -> int:
        return sum(d.num_reg_images for d in self.datasets)


@dataclass(frozen=True)
class Moment:
    """The state of the run at one save."""

    epoch: int
    steps: int
    now: float
    """Seconds since 1970; the run's end for the last file."""
