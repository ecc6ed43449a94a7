"""Key names of adapter files: the one place that knows suffixes and formats.

Three formats hold the same tensors: ``kohya`` (``lora_unet_down_blocks_0_..._to_q.lora_down.weight`` with an ``alpha``
beside it), ``diffusers`` (``unet.down_blocks.0....to_q.lora_A.weight``, PEFT's names; the scale is folded into the
weights) and ``comfy`` (``diffusion_model.<path of the original checkpoint>.lora_A.weight``). Inside the program the
form is kohya's: the *stem* names the module, the *suffix* the tensor. Where a module lives is not known here: the
targets (or a ``Names`` made from them) say it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from library.util.records import Problem, Target, UserError
from library.util.said import say
from networks import fused

if TYPE_CHECKING:
    import torch

FileFormat = Literal["kohya", "diffusers", "comfy"]
Modules = dict[str, dict[str, "torch.Tensor"]]
"""stem -> suffix -> tensor."""

DOWN, UP, MID, ALPHA, DORA = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale"

# adapter kind -> a suffix that only files of this kind have, tried in this order
_KIND_MARKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("loha", re.compile(r"hada_w1_a")),
    ("lokr", re.compile(r"lokr_w[12]")),
    ("boft", re.compile(r"boft_blocks")),
    ("oft", re.compile(r"oft_(blocks|diag)")),
    ("glora", re.compile(r"a1\.weight")),
    ("lora", re.compile(r"lora_(down|up)\.weight")),
    ("ia3", re.compile(r"on_input$")),
    ("full", re.compile(r"diff(_b)?$")),
    ("norms", re.compile(r"[wb]_norm$")),
)

# spelling at the end of a key -> the suffix it means; the longest come first
_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern + r"$"), suffix)
    for pattern, suffix in (
        (r"\.lora_(?:A|down)(?:\.default)?\.weight", DOWN),
        (r"\.lora_(?:B|up)(?:\.default)?\.weight", UP),
        (r"(?:\.lora|_lora|\.lora_linear_layer)\.down\.weight", DOWN),
        (r"(?:\.lora|_lora|\.lora_linear_layer)\.up\.weight", UP),
        (r"\.lora_mid\.weight", MID),
        (r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?", DORA),
        (r"\.dora_scale", DORA),
        (r"\.alpha", ALPHA),
    )
)
_OTHER_SUFFIX = re.compile(
    r"\.((?:hada_[wt]\d(?:_[ab])?|lokr_(?:w|t)\d(?:_[ab])?|b?oft_(?:blocks(?:\.\d+)?|diag)|rescale|scalar|on_input|diff(?:_b)?|"
    r"[wb]_norm|a[12]\.weight|b[12]\.weight|bm?\.weight|set_weight|weight))$")

_PREFIXES: tuple[tuple[str, FileFormat], ...] = (
    ("lora_", "kohya"), ("oft_", "kohya"), ("lycoris_", "kohya"), ("diffusion_model.", "comfy"),
    ("unet.", "diffusers"), ("transformer.", "diffusers"), ("text_encoder.", "diffusers"),
    ("text_encoder_2.", "diffusers"), ("text_encoder_3.", "diffusers"), ("prior.", "diffusers"),
    ("base_model.model.", "diffusers"),
)


_ONLY_IN_PEFT = {"ia3_l": "(IA)^3", "oft_R": "OFT", "boft_R": "BOFT", "vera_lambda": "VeRA", "lora_E": "AdaLoRA", "hra_u": "HRA",
                 "fourierft_spectrum": "FourierFT", "vblora_": "VB-LoRA", "ranknum": "AdaLoRA", "randlora_": "RandLoRA"}
"""Part of a key -> the adapter of peft's that it belongs to, with rules or shared matrices that no other program has."""


def only_in_peft(names: Iterable[str]) -> str | None:
    """Name of the adapter that a file holds where only peft runs it, else None."""
    return next((adapter for name in names for mark, adapter in _ONLY_IN_PEFT.items() if f".{mark}" in name), None)


def split_key(key: str) -> tuple[str, str] | None:
    """(stem, kohya's suffix) of a key in any format; None where the key is no adapter's."""
    for pattern, suffix in _SPELLINGS:
        if m := pattern.search(key):
            return key[:m.start()], suffix
    if m := _OTHER_SUFFIX.search(key):
        return key[:m.start()], m[1]
    return None


def group(tensors: Mapping[str, torch.Tensor]) -> Modules:
    """Sort a file's tensors by module; keys that are no adapter's are left out."""
    modules: Modules = {}
    for key, tensor in tensors.items():
        if parts := split_key(key):
            own = tensor if parts[1] != DORA or key.endswith(DORA) else _standing(tensor)
            modules.setdefault(parts[0], {})[parts[1]] = own
    for parts in modules.values():
        if UP in parts and DOWN in parts and parts[UP].dim() == 2 < parts[DOWN].dim():  # lycoris' DyLoRA of a convolution
            parts[UP] = parts[UP].reshape(*parts[UP].shape, *[1] * (parts[DOWN].dim() - 2))
    return modules


def _standing(lengths: torch.Tensor) -> torch.Tensor:
    """peft's lengths of outputs ([outputs]; of a convolution [1, outputs, 1, 1]) as ``dora_scale`` has them: [outputs, 1, ...]."""
    return lengths.reshape(-1, *[1] * max(1, lengths.dim() - 1))


def lying(stem: str, lengths: torch.Tensor) -> torch.Tensor:
    """``dora_scale`` as peft has it. Raises UserError for lengths of inputs (lycoris without wd_on_output)."""
    if lengths.shape[0] == 1 and lengths.numel() > 1:
        raise UserError(Problem(stem, "Its lengths (dora_scale) are the inputs'; diffusers' format knows only the outputs'.",
                                "Keep kohya's format, or train with wd_on_output=True."))
    return lengths.reshape(1, -1, 1, 1) if lengths.dim() == 4 else lengths.flatten()


def flatten(modules: Modules) -> dict[str, torch.Tensor]:
    """The inverse of ``group`` in kohya's spelling."""
    return {f"{stem}.{suffix}": tensor for stem, parts in modules.items() for suffix, tensor in parts.items()}


@dataclass(frozen=True)
class Identity:
    """What a file of tensors is: kind of adapter (None: not an adapter), format, number of modules, their ranks."""

    kind: str | None
    format: FileFormat | None
    modules: int
    ranks: Mapping[int, int] = field(default_factory=dict)
    """rank -> number of modules, for low-rank kinds."""


def identify(tensors: Mapping[str, torch.Tensor]) -> Identity:
    """Tell from names and shapes which adapter a file holds and in which format."""
    modules = {stem: parts for stem, parts in group(tensors).items() if _has_mark(parts)}
    prefixed = {stem: parts for stem, parts in modules.items() if format_of(stem)}
    kinds = Counter(kind_of(parts) for parts in prefixed.values())
    if not kinds:
        return Identity(None, None, 0)
    formats = Counter(format_of(stem) for stem in prefixed)
    ranks = Counter(rank_of(parts) for parts in prefixed.values() if DOWN in parts)
    return Identity(kinds.most_common(1)[0][0], formats.most_common(1)[0][0], len(prefixed), dict(ranks))


def _has_mark(parts: Mapping[str, object]) -> bool:
    return kind_of(parts) is not None


def kind_of(parts: Iterable[str]) -> str | None:
    """Adapter kind by a module's suffixes; None where they are no adapter's."""
    suffixes = list(parts)
    return next((kind for kind, mark in _KIND_MARKS if any(mark.match(s) for s in suffixes)), None)


def format_of(stem: str) -> FileFormat | None:
    """File format by a stem's beginning; None where it is none of the known ones."""
    return next((fmt for prefix, fmt in _PREFIXES if stem.startswith(prefix)), None)


def rank_of(parts: Mapping[str, torch.Tensor]) -> int:
    """Rank of a low-rank module (its down weight's first axis)."""
    return int(parts[DOWN].shape[0])


def inner_rank(parts: Mapping[str, torch.Tensor]) -> int | None:
    """Rank of a LoRA, LoHa or LoKr module; None where nothing of it is of low rank."""
    held = next((parts[name] for name in (DOWN, "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in parts), None)
    return None if held is None else int(held.shape[0])


def alpha_of(parts: Mapping[str, torch.Tensor]) -> float | None:
    """Alpha of a module; None where the file gives none (the scale is then 1)."""
    return float(parts[ALPHA]) if ALPHA in parts else None


# ---------------------------------------------------------------------------------------------------- module names


@dataclass(frozen=True)
class Place:
    """Where a module lives in each format: ``name`` (kohya's stem), ``path`` under ``root``, ``native`` path."""

    name: str
    root: str
    path: str
    native: str | None = None
    fused: tuple[str, int, int] | None = None
    """(native path, first row, rows) where the original holds it together with others."""
    fused_parts: tuple[tuple[int, int], ...] = ()
    halves_swapped: bool = False
    """The original has the two halves of its rows in the other order."""


@dataclass
class Whole:
    """A module of the original checkpoint that is several here: their rows, and those that are targets, by first row."""

    native: str
    rows: tuple[tuple[int, int], ...]
    members: dict[int, str] = field(default_factory=dict)


def _flat(path: str) -> str:
    return path.replace(".", "_")


_DENOISER_STEMS = ("lora_unet", "oft_unet", "unet", "transformer", "prior", "diffusion_model", "base_model_model", "lycoris",
                   "lora_transformer")


class Names:
    """Translation of stems between the formats for one model's targets."""

    def __init__(self, places: Iterable[Place], denoiser: str = "unet"):
        """``denoiser`` is what diffusers' pipelines call the denoiser: ``unet`` or ``transformer``."""
        self.denoiser = denoiser
        self.places = {place.name: place for place in places}
        self._by_flat: dict[str, str] = {}
        self.wholes: dict[str, Whole] = {}
        self._whole_by_flat: dict[str, Whole] = {}
        for place in self.places.values():
            for alias in self._aliases(place):
                self._by_flat.setdefault(alias, place.name)
            if place.fused:
                path, first, _ = place.fused
                whole = self.wholes.setdefault(path, Whole(path, place.fused_parts))
                whole.members[first] = place.name
                self._whole_by_flat |= dict.fromkeys((f"{p}_{_flat(path)}" for p in _DENOISER_STEMS), whole)

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Names:
        """The names of a model's targets."""
        targets = list(targets)
        places = [Place(t.name, t.root, t.path, t.native, t.fused, t.fused_parts, t.halves_swapped) for t in targets]
        is_unet = any(re.match(r"(down|up|mid)_blocks?\.", t.path) for t in targets)
        return cls(places, "unet" if is_unet else "transformer")

    def _aliases(self, place: Place) -> list[str]:
        """Every spelling of a module, flattened to underscores, that a file may use for it."""
        flat = _flat(place.path)
        if place.root == "denoiser":
            native = [_flat(place.native)] if place.native else []
            stems = [flat, *native]
            return [place.name] + [f"{p}_{s}" for s in stems for p in _DENOISER_STEMS]
        short = flat.removeprefix("text_model_")
        prefixes = [place.name[: -len(flat)] if place.name.endswith(flat) else "lora_te_", f"{place.root}_"]
        if place.root == "text_encoder":
            # One encoder's file on a model that has two, and the other way round.
            prefixes += ["lora_te_", "lora_te1_"]
        return [place.name] + [p + s for s in (flat, short) for p in prefixes]

    def find(self, stem: str) -> str | None:
        """kohya's stem of a module that a file names in any format; None where this model has no such module."""
        if stem in self.places:
            return stem
        flat = _flat(stem)
        return self._by_flat.get(flat) or self._by_flat.get(flat.replace("_processor_", "_").replace("_to_out_lora",
                                                                                                      "_to_out_0"))

    def whole(self, stem: str) -> Whole | None:
        """The module of the original that a file names and that is several here; None where it is no such one."""
        return self._whole_by_flat.get(_flat(stem))

    def whole_of(self, name: str) -> Whole | None:
        """The module of the original that one of this model's modules is a part of."""
        place = self.places.get(name)
        return self.wholes[place.fused[0]] if place is not None and place.fused else None

    def apart(self, name: str) -> str:
        """The stem of a part that its file cannot put together with the others: lycoris' own, which ComfyUI knows."""
        return f"lycoris_{_flat(self.places[name].path)}" if self.whole_of(name) is not None else name

    def is_swapped_in(self, stem: str, name: str) -> bool:
        """Whether a stem names the module as the original does, where its halves stand in the other order."""
        place = self.places[name]
        return place.halves_swapped and _flat(stem).endswith(_flat(place.native or "")) and place.native != place.path

    def stem(self, name: str, fmt: FileFormat) -> str:
        """The stem of one of this model's modules in a format."""
        place = self.places.get(name)
        if fmt == "kohya" or place is None:
            return name
        if fmt == "diffusers":
            return f"{self.denoiser if place.root == 'denoiser' else place.root}.{place.path}"
        if place.root != "denoiser":
            return name
        return f"diffusion_model.{place.native or place.path}"


def to_kohya(tensors: Mapping[str, torch.Tensor], names: Names) -> tuple[Modules, list[str]]:
    """Read a file of any format -> (modules under this model's stems, stems that this model does not have).

    A module without alpha gets alpha = rank, which is the scale 1 that other formats mean by it. Modules that the
    original checkpoint holds as one (``qkv``) are taken apart.
    """
    import torch

    found: Modules = {}
    unknown: list[str] = []
    for stem, parts in group(tensors).items():
        if ALPHA not in parts and DOWN in parts:
            parts = {**parts, ALPHA: torch.tensor(float(rank_of(parts)))}
        name, kind = names.find(stem), kind_of(parts)
        if name is not None:
            if f"{fused.BLOCKS}.0" in parts:  # kohya numbers a transformer's rotations where there is one, too
                parts = {suffix.removesuffix(".0"): tensor for suffix, tensor in parts.items()}
            swapped = names.is_swapped_in(stem, name) and fused.is_plain(kind, parts)
            found[name] = fused.swap_halves(str(kind), parts) if swapped else parts
            continue
        apart = _taken_apart(stem, parts, names)
        found |= apart
        if not apart:
            unknown.append(stem)
    return found, unknown


def _taken_apart(stem: str, parts: dict[str, torch.Tensor], names: Names) -> Modules:
    """The modules of this model that a fused one of the original holds; {} where it is none."""
    whole, kind = names.whole(stem), kind_of(parts)
    if whole is None or not fused.is_plain(kind, parts):
        return {}
    pieces = zip(whole.rows, fused.split(str(kind), parts, whole.rows), strict=True)
    return {whole.members[first]: piece for (first, _), piece in pieces if piece is not None and first in whole.members}


def from_kohya(tensors: Mapping[str, torch.Tensor], fmt: FileFormat, names: Names) -> dict[str, torch.Tensor]:
    """Write a network's tensors in a format.

    ``kohya`` and ``comfy`` speak of the original checkpoint's modules: those that it holds as one are put together.
    ``diffusers`` and ``comfy`` hold no alpha: it is folded into the weights. Raises UserError for adapter kinds that
    only kohya's format has names for.
    """
    modules = group(tensors) if fmt == "diffusers" else put_together(group(tensors), names)
    if fmt == "kohya":
        return flatten(modules) if names.wholes or any(p.halves_swapped for p in names.places.values()) else dict(tensors)
    written: dict[str, torch.Tensor] = {}
    for name, parts in modules.items():
        whole = names.whole(name)
        stem = f"diffusion_model.{whole.native}" if whole is not None else names.stem(name, fmt)
        if kind_of(parts) != "lora" or MID in parts:
            if fmt == "diffusers":
                raise UserError(
                    Problem(
                        "--save_format diffusers",
                        say("{name} is a {parts} module; diffusers' format has no names for it.", name=name, parts=kind_of(parts)),
                        "Use --save_format kohya (image UIs read it).",
                    )
                )
            written.update({f"{stem}.{suffix}": tensor for suffix, tensor in parts.items()})
            continue
        down, up = folded(parts)
        written[f"{stem}.lora_A.weight"] = down
        written[f"{stem}.lora_B.weight"] = up
        if DORA in parts:
            written |= lengths_written(stem, parts[DORA], fmt)
    return written


def lengths_written(stem: str, lengths: torch.Tensor, fmt: FileFormat) -> dict[str, torch.Tensor]:
    """The lengths of a DoRA module under the name and in the shape that a format has for them."""
    return {f"{stem}.lora_magnitude_vector": lying(stem, lengths)} if fmt == "diffusers" else {f"{stem}.dora_scale": lengths}


def put_together(modules: Modules, names: Names) -> Modules:
    """Modules as the original checkpoint has them: parts of one put together, swapped halves in its order.

    Kinds of which several do not make one (LoKr, GLoRA, full) stay apart, under ``lycoris_`` and diffusers' path.
    """
    made: Modules = {}
    for name, parts in modules.items():
        whole, kind = names.whole_of(name), str(kind_of(parts))
        if not fused.is_plain(kind, parts) or (kind == "oft" and not is_kohyas_oft(name)):
            made[names.apart(name)] = parts
        elif whole is not None:
            found = (modules.get(whole.members.get(first, ""), {}) for first, _ in whole.rows)
            pieces = [p if fused.is_plain(kind, p) else None for p in found]
            stem = f"{'oft' if kind == 'oft' else 'lora'}_unet_{_flat(whole.native)}"
            if not fused.goes_together(pieces):
                made[names.apart(name)] = parts
            elif stem not in made:
                made[stem] = fused.join(kind, pieces, whole.rows)
        else:
            made[name] = _as_original(name, kind, parts, names)
    return made


def is_kohyas_oft(stem: str) -> bool:
    """Whether rotations are by kohya's rules; lycoris' diag-oft has the same suffixes, but the names of other kinds."""
    return stem.startswith("oft_")


def _as_original(name: str, kind: str, parts: dict[str, torch.Tensor], names: Names) -> dict[str, torch.Tensor]:
    """A module that the original has by itself too, in its order of rows; kohya numbers a transformer's rotations."""
    if kind == "oft":
        return {f"{s}.0" if s == fused.BLOCKS and names.wholes else s: tensor for s, tensor in parts.items()}
    swapped = name in names.places and names.places[name].halves_swapped
    return fused.swap_halves(kind, parts) if swapped else parts


def folded(parts: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Down and up weights with alpha / rank folded in.

    The scale is split so that its power of two stands with the down weight and only the rest multiplies the up
    weight: with the usual alphas nothing is rounded, and neither weight leaves half precision's range.
    """
    scale = (alpha_of(parts) or rank_of(parts)) / rank_of(parts)
    mantissa, exponent = math.frexp(scale)
    halved = exponent // 2
    return parts[DOWN] * (2.0 ** halved), parts[UP] * (mantissa * 2.0 ** (exponent - halved))


def shape_text(tensor_shape: Iterable[int]) -> str:
    """A shape as messages show it: ``4x320``."""
    return "x".join(str(n) for n in tensor_shape) or "one number"
