"""Several LoRA files into one: kohya's sum of the factors, the exact sum of the changes, or that sum cut to a rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from library.lorafile import kinds, lbw
from library.lorafile.convert import kernels
from library.lorafile.factors import RankRule, Svd, thin_svd
from library.lorafile.file import LoraFile, read
from library.lorafile.work import each
from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Share:
    """One file of a merge and its strength: the ratio, times a factor by module name."""

    lora: LoraFile
    ratio: float
    of_block: Callable[[str], float] = lambda stem: 1.0
    kernels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of convolutions whose tensors do not tell their kernel."""

    def product(self, stem: str) -> kinds.Product:
        """What the file has for a module, as two thin factors. Raises UserError for kinds that have none."""
        return kinds.product(stem, self.lora.modules[stem], self.kernels.get(stem))

    def strength(self, stem: str) -> float:
        return self.ratio * self.of_block(stem)


def shares(models: Sequence[str], ratios: Sequence[float], lbws: Sequence[str] | None = None) -> list[Share]:
    """Read the files of ``--models`` with their ``--ratios`` and ``--lbws``.

    Raises UserError where the numbers of the three differ, or a file cannot be used.
    """
    if not models:
        raise UserError(Problem("--models", "No file to merge was given.", "Add --models A.safetensors B.safetensors."))
    problems = [
        Problem(
            flag,
            say("{given} were given for {models} files.", given=len(given), models=len(models)),
            "Give one for each file of --models.",
        )
        for flag, given in (("--ratios", ratios), ("--lbws", lbws))
        if given is not None and len(given) != len(models)
    ]
    if problems:
        raise UserError(*problems)
    factors = lbw.parse(lbws) if lbws else [lambda stem: 1.0] * len(models)
    loras = [read(Path(model)) for model in models]
    return [Share(lora, r, f, kernels(lora)) for lora, r, f in zip(loras, ratios, factors, strict=True)]


def stems(every: Sequence[Share]) -> list[str]:
    """Every module of the files once; the first file's first.

    Raises UserError where the files name modules in different ways or belong to different architectures.
    """
    formats = {share.lora.identity.format for share in every}
    if len(formats) > 1:
        told = ", ".join(f"{s.lora.name} ({s.lora.identity.format})" for s in every)
        raise UserError(Problem("--models", say("The files are of different formats: {told}.", told=told),
                                "Bring them into one format first: python networks/convert_lora.py FILE --to kohya "
                                "--save_to NEW."))
    first = set(every[0].lora.modules)
    for share in every[1:]:
        if not first & set(share.lora.modules):
            some = next(iter(share.lora.modules))
            raise UserError(
                Problem(
                    str(share.lora.path),
                    say("It has no module in common with {lora} (one of its: {some}).", lora=every[0].lora.name, some=some),
                    "Merge files of one architecture and kind of model.",
                )
            )
    return list(dict.fromkeys(stem for share in every for stem in share.lora.modules))


# ------------------------------------------------------------------------------------------------ kohya's plain sum


def add_factors(every: Sequence[Share]) -> keys.Modules:
    """Down and up weights of the files added up, each times its ratio: kohya's plain merge.

    The result acts like a mean of files from one run; for files that have nothing in common the products of one file's
    up with another's down come in, which ``concatenated`` and ``svd_merged`` do not have. Raises UserError where ranks
    differ or a file is no LoRA.
    """
    merged: keys.Modules = {}
    for stem in stems(every):
        merged[stem] = _add_module(stem, [(s, s.lora.modules[stem]) for s in every if stem in s.lora.modules])
    return merged


def _add_module(stem: str, found: Sequence[tuple[Share, Mapping]]) -> dict:
    import torch

    for share, parts in found:
        if keys.kind_of(parts) != "lora" or keys.MID in parts or keys.DORA in parts:
            raise UserError(
                Problem(
                    str(share.lora.path),
                    say("{stem} is no plain LoRA module; factors cannot be added.", stem=stem),
                    "Use --concat or svd_merge_lora.py, which merge what the modules amount to.",
                )
            )
    ranks = [keys.rank_of(parts) for _, parts in found]
    if len(set(ranks)) > 1:
        raise UserError(
            Problem(
                "--models",
                say("{stem} has rank {value}: factors cannot be added.", stem=stem, value=" and ".join(map(str, ranks))),
                "Use --concat (the ranks add up) or svd_merge_lora.py (any new rank).",
            )
        )
    base = keys.alpha_of(found[0][1]) or float(ranks[0])
    down = up = 0.0
    for share, parts in found:
        ratio = math.sqrt((keys.alpha_of(parts) or float(ranks[0])) / base) * share.ratio
        block = share.of_block(stem)
        down = down + parts[keys.DOWN].float() * (ratio * block)
        up = up + parts[keys.UP].float() * (abs(ratio) * block)
    return {keys.DOWN: down, keys.UP: up, keys.ALPHA: torch.tensor(base)}


# ------------------------------------------------------------------------------------------------ the exact sum


def summed(stem: str, every: Sequence[Share]) -> kinds.Product:
    """The weighted sum of what the files have for one module, as two factors whose rank is the sum of theirs.

    Exact: ``[up_1 s_1, up_2 s_2, ...] @ [down_1; down_2; ...]``. Raises UserError where the sizes differ.
    """
    import torch

    found = [(s, s.product(stem)) for s in every if stem in s.lora.modules]
    kernel = max((p.kernel for _, p in found), key=len)
    sizes = {(p.up.shape[0], p.down.shape[1]) for _, p in found}
    if len(sizes) > 1:
        told = say("{sizes:and}", sizes=[keys.shape_text(size) for size in sorted(sizes)])
        raise UserError(
            Problem(
                "--models",
                say("{stem} changes a weight of {told}: these are LoRAs of different models.", stem=stem, told=told),
                "Merge files of one architecture.",
            )
        )
    ups = torch.cat([p.up * s.strength(stem) for s, p in found], dim=1)
    return kinds.Product(ups, torch.cat([p.down for _, p in found]), kernel)


def concatenated(every: Sequence[Share]) -> keys.Modules:
    """The exact weighted sum as one LoRA: the ranks of the files add up, alpha = rank."""
    def one(stem: str) -> dict:
        whole = summed(stem, every)
        up, down = balanced(whole.up, whole.down)
        return kinds.as_lora((up, down), whole.kernel, float(whole.rank), up.dtype)

    names = stems(every)
    return dict(zip(names, each("merging", names, one), strict=True))


def balanced(up: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every rank's column of up and row of down brought to the same length, so that half precision loses least."""
    lengths = (up.norm(dim=0), down.norm(dim=1))
    factor = (lengths[1] / lengths[0]).sqrt()
    factor[~factor.isfinite() | (factor == 0)] = 1.0
    return up * factor, down / factor[:, None]


def shuffled(modules: keys.Modules, seed: int | None = None) -> keys.Modules:
    """The ranks of every module in a random order; what the modules amount to stays the same."""
    import torch

    generator = None if seed is None else torch.Generator().manual_seed(seed)
    new = {}
    for stem, parts in modules.items():
        order = torch.randperm(keys.rank_of(parts), generator=generator)
        new[stem] = {**parts, keys.DOWN: parts[keys.DOWN][order], keys.UP: parts[keys.UP][:, order]}
    return new


# ------------------------------------------------------------------------------------------------ cut to a rank


def svd_merged(every: Sequence[Share], rank: int, conv_rank: int | None = None, device: str | None = None
               ) -> keys.Modules:
    """The best LoRA of the new rank for the exact weighted sum; alpha = rank, as kohya's tool writes it.

    ``conv_rank`` is that of kernels above 1x1 (None: the same). No rank is larger than the sum's own.
    """
    def one(stem: str) -> dict:
        whole = summed(stem, every)
        svd: Svd = thin_svd(whole.up.to(device or "cpu"), whole.down.to(device or "cpu"))
        most = (conv_rank or rank) if any(k > 1 for k in whole.kernel) else rank
        new = RankRule(min(most, len(svd.values))).rank(svd.values) if svd.values[0] > 0 else 1
        return kinds.as_lora(svd.cut(new).factors(), whole.kernel, float(new), whole.up.dtype)

    names = stems(every)
    return dict(zip(names, each("merging", names, one, device), strict=True))


def orthogonal(every: Sequence[Share]) -> list[Share]:
    """The same files, each without what lies in the directions of those before it, for sliders that share an effect.

    Per module, the later file's down rows are projected off the row space of the earlier ones': no input then reaches
    two of them, so one slider's strength does not turn another. Where the earlier ones read every direction of a layer's
    inputs, nothing is left of the later one there.
    """
    import torch

    seen: dict[str, list[torch.Tensor]] = {}
    result = []
    for share in every:
        modules: keys.Modules = {}
        for stem in share.lora.modules:
            whole = share.product(stem)
            earlier = seen.setdefault(stem, [])
            down = whole.down
            if earlier:
                basis = torch.linalg.qr(torch.cat(earlier).T).Q
                down = down - (down @ basis) @ basis.T
            earlier.append(whole.down)
            modules[stem] = kinds.as_lora((whole.up, down), whole.kernel, float(whole.rank), down.dtype)
        result.append(replace(share, lora=replace(share.lora, modules=modules)))
    return result


def overlap(before: Share, after: Share) -> float:
    """Part of a file's change that ``orthogonal`` took away: of the squared norm over all modules, 0 to 1."""
    def squares(share: Share) -> float:
        return sum(float(((p.up.T @ p.up) * (p.down @ p.down.T)).double().sum())
                   for p in map(share.product, share.lora.modules))

    whole = squares(before)
    return max(0.0, 1 - squares(after) / whole) if whole else 0.0


# ------------------------------------------------------------------------------------------------ what it says of itself


def metadata_of(every: Sequence[Share], modules: keys.Modules, only_needed: bool, title: str) -> dict[str, str]:
    """Metadata of a merged file: the base model of the first, dim and alpha of the result, where it came from."""
    import time

    first = every[0].lora.metadata
    ranks = {keys.rank_of(parts) for parts in modules.values()}
    alphas = {float(parts[keys.ALPHA]) for parts in modules.values()}
    kept = {k: first[k] for k in ("ss_v2", "ss_base_model_version") if k in first}
    kept |= {"ss_network_module": "networks.lora",
             "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
             "ss_network_alpha": str(alphas.pop()) if len(alphas) == 1 else "Dynamic"}
    if only_needed:
        return kept
    names = [share.lora.path.stem for share in every]
    words = [share.lora.metadata.get("modelspec.trigger_phrase", "") for share in every]
    spec = {k: v for k, v in first.items() if k in ("modelspec.sai_model_spec", "modelspec.architecture",
            "modelspec.implementation", "modelspec.resolution", "modelspec.prediction_type", "modelspec.encoder_layer")}
    spec |= {"modelspec.title": title, "modelspec.merged_from": ", ".join(names),
             "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S")}
    if any(words):
        spec["modelspec.trigger_phrase"] = ", ".join(dict.fromkeys(w for w in words if w))
    ratios = ", ".join(f"{n} x {s.ratio:g}" for n, s in zip(names, every, strict=True))
    return kept | spec | {"ss_training_comment": f"merged from {ratios}"}
