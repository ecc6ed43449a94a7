"""What a run was meant to be: every decision as a frozen value, made once by ``resolve`` and never changed.

Field names are the flags' names without the prefix that the section gives them. Paths are ``Path`` and absolute or
relative as typed; ``None`` means that a thing is not wanted or not given. No torch here: names stand for objects
(optimizers, schedules, dtypes) until stage 8 makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from library.util.records import Problem

DType = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class ModelConfig:
    """The base model and how its text is read."""

    source: str
    """A diffusers folder, a hub id, a single file or an https link, as typed."""
    family: str
    """Name of the family in the families' registry."""
    options: dict[str, Any] = field(default_factory=dict)
    """Values of this family's own options (files of further parts, guidance, v2, v_parameterization, ...)."""
    vae: str | None = None
    clip_skip: int | None = None
    max_token_length: int | None = None
    """75, 150 or 225 tokens for CLIP text encoders; None = 75."""
    weighted_captions: bool = False


@dataclass(frozen=True)
class NetworkConfig:
    """The adapter."""

    module: str
    dim: int | None
    alpha: float
    dropout: float | None = None
    args: dict[str, str] = field(default_factory=dict)
    """``--network_args`` as strings, kohya's contract."""
    weights: Path | None = None
    dim_from_weights: bool = False
    assistant: tuple[str, float] | None = None
    """(file, strength) of a frozen LoRA that acts while training alone."""
    base_weights: tuple[Path, ...] = ()
    base_weights_multiplier: tuple[float, ...] = ()
    train_denoiser: bool = True
    train_text_encoder: bool = True
    scale_weight_norms: float | None = None
    targets: str | None = None
    """Preset of adapter targets by role; None = the family's default."""


@dataclass(frozen=True)
class OptimizerConfig:
    name: str
    """As typed: a name of the table (any case), or a dotted path. ``AdamW`` where nothing was given."""
    lr: float
    unet_lr: float | None
    text_encoder_lr: tuple[float, ...] | None
    """One rate, or one for each text encoder; () and None mean "as learning_rate"."""
    args: dict[str, Any] = field(default_factory=dict)
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    """Decay of the adapter's moving average, which files then hold; None = no average."""


@dataclass(frozen=True)
class ScheduleConfig:
    name: str
    """Of the table, or a dotted path (``--lr_scheduler_type``)."""
    warmup: float | int = 0
    """Steps (int) or part of all steps (float below 1)."""
    decay: float | int = 0
    num_cycles: int = 1
    power: float = 1.0
    timescale: int | None = None
    min_lr_ratio: float | None = None
    args: dict[str, Any] = field(default_factory=dict)
    is_class: bool = False
    """True where the name came from ``--lr_scheduler_type``."""


@dataclass(frozen=True)
class LossConfig:
    type: Literal["l1", "l2", "huber", "smooth_l1"] = "l2"
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    huber_c: float = 0.1
    huber_scale: float = 1.0
    min_snr_gamma: float | None = None
    debiased_estimation: bool = False
    scale_v_pred_loss_like_noise_pred: bool = False
    v_pred_like_loss: float | None = None
    masked: bool = False
    prior_loss_weight: float = 1.0


@dataclass(frozen=True)
class NoiseConfig:
    offset: float | None = None
    offset_random_strength: bool = False
    adaptive_noise_scale: float | None = None
    multires_iterations: int | None = None
    multires_discount: float = 0.3
    ip_noise_gamma: float | None = None
    ip_noise_gamma_random_strength: bool = False
    zero_terminal_snr: bool = False
    min_timestep: int | None = None
    max_timestep: int | None = None


@dataclass(frozen=True)
class SubsetConfig:
    """One folder of pictures, or one metadata file, with every per-subset option decided (fall-backs applied)."""

    image_dir: Path | None
    metadata_file: Path | None = None
    conditioning_data_dir: Path | None = None
    num_repeats: int = 1
    class_tokens: str | None = None
    is_reg: bool = False
    caption_extension: str = ".caption"
    shuffle_caption: bool = False
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    caption_separator: str = ","
    secondary_separator: str | None = None
    enable_wildcard: bool = False
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0
    token_warmup_min: int = 1
    token_warmup_step: float = 0
    color_aug: bool = False
    flip_aug: bool = False
    random_crop: bool = False
    face_crop_aug_range: tuple[float, float] | None = None
    alpha_mask: bool = False
    cache_info: bool = False
    resize_interpolation: str | None = None
    custom_attributes: dict[str, Any] = field(default_factory=dict)
    slider_strength: float | None = None
    probability: float = 1.0


@dataclass(frozen=True)
class DatasetPart:
    """One [[datasets]] table: pictures that share batch size, resolution and bucket rules."""

    subsets: tuple[SubsetConfig, ...]
    batch_size: int = 1
    resolution: tuple[int, int] = (512, 512)
    """(width, height), kohya's order."""
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    validation_split: float = 0.0
    validation_seed: int | None = None


@dataclass(frozen=True)
class SliderOrder:
    """How pictures with slider strengths become batches."""

    neutral: Literal["plain", "anchor", "skip"] = "anchor"
    """What pictures of strength 0 teach: trained at +1, held to the base model's answer at both ends, left out."""
    pairing: Literal["none", "filename"] = "none"
    """Whether positive and negative pictures of one name are trained in one step, with the same noise."""
    balance: bool = True
    """Whether the sign with fewer batches goes through its pictures again, so that an epoch has no one-signed end."""
    calibrate: bool = True
    """Whether the last file's alpha makes strength 1 do what the pictures or texts ask for."""
    pair_goal: Literal["change", "pictures"] = "change"
    """What pairs teach: the way from one partner to the other, or each end its own picture."""
    loss: Literal["scale_free", "plain"] = "scale_free"
    """How noise levels count: by the error of the clean picture, or of the model's answer as in any other training."""


@dataclass(frozen=True)
class DatasetConfig:
    parts: tuple[DatasetPart, ...]
    folder_mode: bool = True
    """True where the data came from --train_data_dir / --in_json, False where from --dataset_config."""
    train_data_dir: Path | None = None
    reg_data_dir: Path | None = None
    template: SubsetConfig | None = None
    """Folder mode: the options of every ``N_name`` folder that the scan finds; ``parts`` then holds one part without
    subsets, and ``image_dir``, ``num_repeats``, ``class_tokens`` and ``is_reg`` are the scan's to fill in."""
    dataset_config: Path | None = None
    kohya_order: bool = False
    workers: int = 0
    allow_truncated: bool = False
    """Take pictures that are cut off at their end."""
    slider: SliderOrder = SliderOrder()

    @property
    def slides(self) -> bool:
        """Whether a strength is given anywhere; names of folders, which the scan reads, may add more."""
        return any(subset.slider_strength is not None for part in self.parts for subset in part.subsets)


@dataclass(frozen=True)
class PromptPair:
    """One direction between two texts, and the text at which it is learned.

    At the positive end ``target`` is to be answered as the base model answers ``start``, plus ``amount`` times the difference
    of its answers to ``positive`` and ``negative``; at the negative end the change is the opposite.
    """

    target: str
    positive: str
    negative: str
    start: str
    amount: float = 0.5
    strength: float = 1.0
    """Multiplier of the adapter at the end."""
    weight: float = 1.0
    size: tuple[int, int] | None = None
    """(width, height); None = the model's own."""


@dataclass(frozen=True)
class TextSliderConfig:
    """A slider learned from texts."""

    file: Path
    pairs: tuple[PromptPair, ...]
    kept: tuple[str, ...] = ("",)
    """Texts at which the adapter must change nothing; with the empty one, guidance strengthens the slider as it does words."""
    batch_size: int = 1
    denoising_steps: int = 40
    guidance: float = 3.0
    """Classifier-free guidance with which states are drawn."""
    states: Literal["pool", "leco"] = "pool"
    """Where noised pictures come from: drawn once by the base model, or denoised anew in every step as LECO does."""
    pool: int = 64
    """Pictures of the pool."""


@dataclass(frozen=True)
class CacheConfig:
    latents: bool = False
    latents_to_disk: bool = False
    skip_check: bool = False
    vae_batch_size: int = 1
    text: bool = False
    text_to_disk: bool = False
    text_batch_size: int = 1


@dataclass(frozen=True)
class LoopConfig:
    max_train_steps: int
    max_train_epochs: int | None
    """Where given, it decides and ``max_train_steps`` follows from the data."""
    gradient_accumulation_steps: int
    seed: int
    """Drawn in resolve where none was given."""
    initial_epoch: int | None = None
    initial_step: int | None = None
    resume: str | None = None
    resume_from_huggingface: bool = False
    kohya_order: bool = False
    """Draw random numbers in kohya's order, faults included, for comparison."""


@dataclass(frozen=True)
class MachineConfig:
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    full_fp16: bool = False
    full_bf16: bool = False
    fp8_base: bool = False
    fp8_base_unet: bool = False
    fp8_vl: bool = False
    no_half_vae: bool = False
    attention: Literal["sdpa", "xformers", "math", "flash"] = "sdpa"
    gradient_checkpointing: bool = False
    cpu_offload_checkpointing: bool = False
    base_quantization: Literal["nf4", "int8", "fp8"] | None = None
    blocks_to_swap: int = 0
    """Blocks of the denoiser that wait in main memory; more than 0 needs gradient checkpointing."""

    @property
    def denoiser_changes(self) -> bool:
        """Whether the denoiser does not go to the device as it is."""
        return self.blocks_to_swap > 0 or self.base_quantization is not None or self.denoiser_in_8_bits

    @property
    def denoiser_in_8_bits(self) -> bool:
        """Whether the denoiser's layers are rounded to 8 bits without scales."""
        return (self.fp8_base or self.fp8_base_unet) and self.base_quantization is None

    lowram: bool = False
    torch_compile: bool = False
    dynamo_backend: str = "inductor"
    ddp_timeout: int | None = None
    deepspeed: dict[str, Any] | None = None
    """DeepSpeed's own values (zero_stage, offloads, ...) where --deepspeed was given."""


@dataclass(frozen=True)
class SaveConfig:
    output_dir: Path
    output_name: str
    """``last`` where none was given."""
    model_as: Literal["ckpt", "pt", "safetensors"] = "safetensors"
    precision: DType | None = None
    """None: the adapter's own (fp32)."""
    format: Literal["kohya", "comfy", "diffusers"] = "kohya"
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    n_epoch_ratio: int | None = None
    last_n_steps: int | None = None
    last_n_epochs: int | None = None
    last_n_steps_state: int | None = None
    last_n_epochs_state: int | None = None
    state: bool = False
    state_on_train_end: bool = False
    no_metadata: bool = False
    training_comment: str | None = None
    modelspec: dict[str, str] = field(default_factory=dict)
    """title, author, description, license, tags, trigger_phrase, ... as typed with --metadata_*."""
    epoch_digits: int = 6
    number_last: bool = False
    """Give the last file its number too (the one without number is still written)."""
    without_ema: bool = False
    """Write a second file of the weights without the moving average."""


@dataclass(frozen=True)
class HubConfig:
    """Upload of files and states to the hub. The token stays in the environment or in ``Flags``; never here."""

    repo_id: str
    repo_type: str | None = None
    visibility: str | None = None
    path_in_repo: str | None = None
    save_state: bool = False
    async_upload: bool = False


@dataclass(frozen=True)
class SampleConfig:
    prompts: Path | None = None
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    at_first: bool = False
    sampler: str = "ddim"
    loras: tuple[tuple[str, float], ...] = ()
    """Further LoRA files and strengths that are applied in sample pictures only."""
    strength: float | None = None
    """Of the adapter, for prompts that name none; None = as it is trained."""
    strengths: tuple[float, ...] = ()
    """Every prompt is drawn at each of these, side by side."""


@dataclass(frozen=True)
class ValidationConfig:
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    max_steps: int | None = None
    seed: int | None = None
    patience: int | None = None
    """Measurements without a lower loss after which the run ends; None = never."""


@dataclass(frozen=True)
class LogConfig:
    logging_dir: Path | None = None
    log_with: Literal["tensorboard", "wandb", "all"] | None = None
    log_prefix: str | None = None
    tracker_name: str | None = None
    tracker_config: Path | None = None
    wandb_run_name: str | None = None
    log_config: bool = False
    console_level: str = "INFO"
    console_file: Path | None = None
    console_simple: bool = False
    diagnosis: bool = True
    """Whether the run ends with a verdict on its last file."""


@dataclass(frozen=True)
class RunConfig:
    """Everything a run needs to know, decided."""

    script: str
    """Entry script whose defaults hold (``train_network.py``)."""
    model: ModelConfig
    network: NetworkConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    loss: LossConfig
    noise: NoiseConfig
    data: DatasetConfig
    cache: CacheConfig
    loop: LoopConfig
    machine: MachineConfig
    save: SaveConfig
    sample: SampleConfig
    validation: ValidationConfig
    log: LogConfig
    hub: HubConfig | None = None
    text: TextSliderConfig | None = None
    dry_run: bool = False
    debug_dataset: bool = False
    origins: dict[str, str] = field(default_factory=dict)
    """Flag name -> where its value came from: ``default``, ``command line``, ``a.toml:3``, ``checkpoint``, ``scan``."""
    notes: tuple[Problem, ...] = ()
    """What was understood otherwise than written, drawn, mended or left aside; to be shown before the run."""

    @property
    def denoiser_waits(self) -> bool:
        """Whether the denoiser is loaded into main memory first: it is made smaller there, or lets text encoders, which are
        done once the captions are cached, have the device to themselves (not with --lowram: main memory is the shorter one).
        """
        return self.machine.denoiser_changes or (self.cache.text and not self.machine.lowram)
