"""A LoRA file in another format's names, and in modules that are fused or split as that format has them.

Some originals hold several layers of diffusers' model in one (``qkv``). kohya's and ComfyUI's files then have one module
for all of them; here, as in diffusers, each layer has its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from library.families import blank, registry
from library.lorafile.file import LoraFile
from library.util.records import Problem, Target, UserError
from networks import keys

if TYPE_CHECKING:
    import torch

Parts = Mapping[str, "torch.Tensor"]


def _flat(path: str) -> str:
    return path.replace(".", "_")


# ------------------------------------------------------------------------------------------------ whose file it is


@functools.lru_cache(maxsize=2)
def targets_of(family: str) -> tuple[Target, ...]:
    """Every module of a family's released models that has a name in LoRA files, without weights."""
    return tuple(blank.targets(family))


def family_of(lora: LoraFile) -> str:
    """The family a file is made for: by its metadata, else the one that has most of its modules, sizes considered.

    Raises UserError where no family has any of them.
    """
    told = lora.metadata.get("ss_base_model_version") or lora.metadata.get("modelspec.architecture") or ""
    for name in registry.names():
        if told and blank.is_called(name, told):
            return name
    counts = {name: _fitting(lora, targets_of(name)) for name in registry.names()}
    best = max(counts, key=counts.__getitem__)
    if not counts[best]:
        known = ", ".join(spec.title for spec in registry.specs())
        raise UserError(Problem(str(lora.path), f"its modules (such as {next(iter(lora.modules))}) belong to no known model",
                                f"Known are: {known}."))
    return best


def _fitting(lora: LoraFile, targets: Sequence[Target]) -> int:
    found, _ = for_targets(lora.modules, targets)
    inputs = {t.name: t.module.weight.shape[1] for t in targets}
    return sum(keys.DOWN not in parts or parts[keys.DOWN].shape[1] == inputs[name] for name, parts in found.items())


# ------------------------------------------------------------------------------------------------ names and fusing


def for_targets(modules: keys.Modules, targets: Sequence[Target]) -> tuple[keys.Modules, list[str]]:
    """Modules under the names of a model's targets, fused ones split; and the stems that the model does not have."""
    names = keys.Names.of(targets)
    groups = _fused_groups(targets)
    found: keys.Modules = {}
    unknown = []
    for stem, parts in modules.items():
        name = names.find(stem)
        if name is not None:
            found[name] = parts
        elif (group := groups.get(_original(stem))) is not None:
            found.update(split(parts, group))
        else:
            unknown.append(stem)
    return found, unknown


def _original(stem: str) -> str:
    for prefix in ("lora_unet_", "lycoris_", "diffusion_model.", "model.diffusion_model.", "transformer."):
        if stem.startswith(prefix):
            return _flat(stem[len(prefix):])
    return _flat(stem)


def _fused_groups(targets: Sequence[Target]) -> dict[str, list[Target]]:
    groups: dict[str, list[Target]] = {}
    for target in targets:
        if target.fused is not None:
            groups.setdefault(_flat(target.fused[0]), []).append(target)
    return {path: sorted(group, key=lambda t: t.fused[1]) for path, group in groups.items()}


def split(parts: Parts, group: Sequence[Target]) -> keys.Modules:
    """A module over fused layers as one module for each: the same down, each layer's rows of up; layers that it does
    not change are left out. Raises UserError for kinds whose rows cannot be taken apart."""
    if keys.kind_of(parts) != "lora" or keys.MID in parts:
        raise UserError(Problem(group[0].fused[0], f"a {keys.kind_of(parts)} module over fused layers cannot be taken apart",
                                "Use the file in the format it has."))
    found: keys.Modules = {}
    for target in group:
        _, first, rows = target.fused
        up = parts[keys.UP][first:first + rows]
        if bool(up.any()):
            kept = up.flatten(1).any(dim=0)
            rank = int(kept.sum())
            alpha = (keys.alpha_of(parts) or float(len(kept))) / len(kept) * rank
            found[target.name] = {keys.DOWN: parts[keys.DOWN][kept].contiguous(), keys.UP: up[:, kept].contiguous(),
                                  keys.ALPHA: parts[keys.UP].new_tensor(alpha)}
    return found


def fuse(modules: keys.Modules, targets: Sequence[Target]) -> keys.Modules:
    """The inverse: layers that the original fuses become one module, under kohya's name for it.

    Layers with one common down and scale share it; else the ranks stand side by side, each acting on its own rows.
    """
    result = dict(modules)
    for path, group in _fused_groups(targets).items():
        own = [(t, result.pop(t.name)) for t in group if t.name in result]
        if own:
            height = max(t.fused[1] + t.fused[2] for t in group)
            result[f"lora_unet_{path}"] = _side_by_side(own, height)
    return result


def _side_by_side(own: Sequence[tuple[Target, Parts]], height: int) -> dict:
    import torch

    for target, parts in own:
        if keys.kind_of(parts) != "lora" or keys.MID in parts or keys.DORA in parts:
            raise UserError(Problem(target.name, "only plain LoRA modules can be fused as this format has them",
                                    "Use --to diffusers."))
    scales = [(keys.alpha_of(p) or float(keys.rank_of(p))) / keys.rank_of(p) for _, p in own]
    first = own[0][1]
    shared = len(set(scales)) == 1 and all(torch.equal(p[keys.DOWN], first[keys.DOWN]) for _, p in own)
    rank = keys.rank_of(first) if shared else sum(keys.rank_of(p) for _, p in own)
    up = first[keys.UP].new_zeros(height, rank)
    at = 0
    for (target, parts), scale in zip(own, scales, strict=True):
        _, row, rows = target.fused
        width = keys.rank_of(parts)
        up[row:row + rows, at:at + width] = parts[keys.UP] * (1.0 if shared else scale)
        at += 0 if shared else width
    down = first[keys.DOWN] if shared else torch.cat([p[keys.DOWN] for _, p in own])
    return {keys.DOWN: down, keys.UP: up, keys.ALPHA: up.new_tensor(rank * (scales[0] if shared else 1.0))}


# ------------------------------------------------------------------------------------------------ whole files


def convert(lora: LoraFile, to: keys.FileFormat, family: str | None = None) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A file's tensors in another format; also the stems that the family does not have, which are left out.

    Raises UserError where the family has none of them, or the format has no names for the kind.
    """
    chosen = family or family_of(lora)
    targets = targets_of(chosen)
    found, unknown = for_targets(lora.modules, targets)
    if not found:
        raise UserError(Problem(str(lora.path), f"{registry.get(chosen).SPEC.title} has none of its modules (such as "
                                f"{unknown[0]})", "Give the right --family."))
    if to == "diffusers":
        return keys.from_kohya(keys.flatten(_with_alpha(found)), to, keys.Names.of(targets)), unknown
    names = keys.Names.of([*targets, *_whole(targets)])
    fused = fuse(_with_alpha(found), targets)
    return keys.from_kohya(keys.flatten(fused), to, names), unknown


def _with_alpha(modules: keys.Modules) -> keys.Modules:
    """Modules whose file has no alpha get alpha = rank, which is what its absence means."""
    return {stem: {**parts, keys.ALPHA: parts[keys.DOWN].new_tensor(float(keys.rank_of(parts)))}
            if keys.DOWN in parts and keys.ALPHA not in parts else parts for stem, parts in modules.items()}


def _whole(targets: Sequence[Target]) -> list[Target]:
    """The fused modules as targets of their own, for their names."""
    return [replace(group[0], name=f"lora_unet_{path}", path=group[0].fused[0], native=group[0].fused[0], fused=None)
            for path, group in _fused_groups(targets).items()]
