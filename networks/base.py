"""What every adapter is: a module that hangs on one layer of the model, and the network that holds them all.

An adapter's file adds a subclass of ``Adapter`` (its tensors and its delta) and a ``Kind`` (its name and options); the
network, its files, parameter groups, merging and switching are here and the same for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from library.util.records import Problem, Target, UserError
from library.util.said import say
from library.util.tensorfile import write_tensors
from networks import keys, peft_files
from networks.groups import GroupPlan, param_groups
from networks.ranks import Rank


class Strength:
    """The adapter's multiplier, one for the whole network, read at every call: a float or a 0-dim tensor."""

    __slots__ = ("value",)

    def __init__(self, value: float | torch.Tensor = 1.0):
        self.value = value


@dataclass(frozen=True)
class Dropouts:
    """Probabilities of leaving out, while training: single values of the rank space, whole ranks, whole modules."""

    neuron: float | None = None
    rank: float | None = None
    module: float | None = None


@dataclass(frozen=True)
class Setup:
    """What an adapter module is made from, beside its target."""

    rank: Rank
    dropouts: Dropouts = Dropouts()
    options: Any = None
    """The kind's options record."""
    parts: Mapping[str, torch.Tensor] | None = None
    """The module's tensors in the file the network is made from, for kinds whose shapes rank does not tell."""


class Adapter(nn.Module):
    """One adapter on one layer of the model.

    It takes the place of the layer's ``forward`` and calls the original: the layer's weights stay where they are and
    are never read for the forward pass, so quantised layers serve as well.
    """

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__()
        self.lora_name = target.name
        self.target = target
        # In a tuple, so that torch does not take the model's layer for a part of the adapter.
        self._layer = (target.module,)
        self._strength = strength
        self._original: Callable[..., torch.Tensor] | None = None
        self._was_instance_attribute = False
        self._plain_layer = type(target.module) in (nn.Linear, nn.Conv2d)
        self.enabled = True
        self.dropouts = setup.dropouts
        self.lora_dim = setup.rank.dim
        self.scale = setup.rank.alpha / setup.rank.dim
        self.register_buffer("alpha", torch.tensor(float(setup.rank.alpha)))

    def delta(self, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        """What the adapter adds to the layer's output for this input, times ``factor`` (multiplier and scale)."""
        raise NotImplementedError

    def delta_weight(self) -> torch.Tensor:
        """The change of the layer's weight at multiplier 1, in the weight's shape, fp32."""
        raise NotImplementedError

    @property
    def layer(self) -> nn.Module:
        """The model's layer this adapter hangs on."""
        return self._layer[0]

    @property
    def multiplier(self) -> float | torch.Tensor:
        return self._strength.value

    @multiplier.setter
    def multiplier(self, value: float | torch.Tensor) -> None:
        self._strength.value = value

    def apply_to(self) -> None:
        """Hang the adapter on its layer."""
        assert self._original is None, f"{self.lora_name} is applied already"
        self._was_instance_attribute = "forward" in self.layer.__dict__
        self._original = self.layer.forward
        self.layer.forward = self.forward

    def remove(self) -> None:
        """Give the layer its own forward back; adapters that were applied later must have been removed before."""
        if self._original is None:
            return
        assert self.layer.forward == self.forward, f"{self.lora_name}: another adapter was applied on top"
        if self._was_instance_attribute:
            self.layer.forward = self._original
        else:
            del self.layer.forward
        self._original = None

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        out = self._original(x, *args, **kwargs)
        if not self.enabled or self._is_left_out():
            return out
        strength = self._strength.value
        if strength.__class__ is not torch.Tensor and strength == 0 and not torch.is_grad_enabled():
            return out
        return self.joined(out, x, strength * self.scale)

    def joined(self, out: torch.Tensor, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        """The layer's output with the adapter's added. May write into ``out`` where that is safe."""
        delta = self.delta(x, factor)
        if delta.dtype != out.dtype:
            delta = delta.to(out.dtype)
        return out.add_(delta) if self._owns(out) else out + delta

    def _owns(self, out: torch.Tensor) -> bool:
        """Whether ``out`` may be overwritten: a torch layer made it just now and needs no output for its gradient.

        A view is left alone: writing into one costs autograd more copies than it saves.
        """
        return self._plain_layer and not out._is_view()

    def _is_left_out(self) -> bool:
        p = self.dropouts.module
        return p is not None and self.training and bool(torch.rand(1) < p)

    @torch.no_grad()
    def merge(self, dtype: torch.dtype | None = None, device: Any = None) -> None:
        """Add the change to the layer's weight for good, at the present multiplier; computed in fp32."""
        weight = self.layer.weight
        change = self.delta_weight().to(device or weight.device) * self._strength.value
        merged = weight.detach().to(change.device, torch.float32) + change.reshape(weight.shape)
        weight.data.copy_(merged if dtype is None else merged.to(dtype))

    def as_file(self, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The module's tensors (suffix -> tensor) as a file has them."""
        return dict(parts)

    def from_file(self, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A file's tensors of this module as the module has them."""
        return dict(parts)

    def fixed_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that are saved but never trained."""
        return ()

    def norm(self) -> torch.Tensor:
        """Frobenius norm of the change of weight, as a 0-dim tensor; subclasses know a cheaper way."""
        return self.delta_weight().norm()

    def shrink(self, ratio: torch.Tensor) -> None:
        """Scale the change of weight by a 0-dim factor, in place."""
        raise NotImplementedError


def readable_weight(adapter: Adapter, argument: str) -> torch.Tensor:
    """The layer's weight in fp32. Raises UserError where it is quantised; ``argument`` is what needs it."""
    if not _is_plain(adapter.layer):
        what = say("It reads the weight of {path}, which is quantised.", path=adapter.target.path)
        raise UserError(Problem(f"--network_args {argument}", what, "Load the model unquantised, or leave the argument out."))
    return adapter.layer.weight.detach().float()


def sizes_of(layer: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a layer: of torch's own, or of any that calls them in_features and out_features.

    Layers of quantisation libraries are foreign: they keep to torch's attribute names, nothing else is asked of them.
    """
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    return layer.in_features, layer.out_features


@dataclass(frozen=True)
class Kind:
    """One sort of adapter."""

    name: str
    adapter: Callable[[Target, Setup, Strength], Adapter]
    options: type
    """Dataclass of the ``--network_args`` it takes."""
    rank_of: Callable[[Mapping[str, torch.Tensor]], int | None]
    """Rank of a module by its tensors in a file (suffix -> tensor); None where it is not of this kind."""
    plus_marks: tuple[str, ...] = ()
    """Parts of parameter names that LoRA+ trains faster."""


@dataclass(frozen=True)
class NetworkPlan:
    """Everything a network is made from."""

    kind: Kind
    targets: Sequence[Target]
    ranks: Mapping[str, Rank]
    dropouts: Dropouts = Dropouts()
    options: Any = None
    groups: GroupPlan = field(default_factory=GroupPlan)
    multiplier: float = 1.0
    parts: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    """Target name -> its tensors in the file the network is made from."""


@dataclass(frozen=True)
class LoadInfo:
    """Outcome of loading a file: modules of the network the file does not have, and the other way round."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    loaded: int

    def __str__(self) -> str:
        words = f"{self.loaded} modules loaded"
        if self.missing:
            words += f", {len(self.missing)} not in the file ({self.missing[0]}, ...)"
        if self.unknown:
            words += f", {len(self.unknown)} of the file's not in this model ({self.unknown[0]}, ...)"
        return words


class AdapterNetwork(nn.Module):
    """All adapters of a model: kohya's network contract over any kind of adapter.

    Parameters and buffers are registered under the file's own keys, so ``state_dict()`` is what is saved.
    """

    def __init__(self, plan: NetworkPlan):
        super().__init__()
        # Without the file's tensors, which are not needed again.
        self.plan = replace(plan, parts={})
        self._strength = Strength(plan.multiplier)
        self._untrained: tuple[nn.Parameter, ...] = ()  # those whose learning rate is 0
        self.names = keys.Names.of(plan.targets)
        chosen = [t for t in plan.targets if t.name in plan.ranks]
        _refuse_doubles(chosen)
        for target in chosen:
            setup = Setup(plan.ranks[target.name], plan.dropouts, plan.options, plan.parts.get(target.name))
            self.add_module(target.name, plan.kind.adapter(target, setup, self._strength))

    # ------------------------------------------------------------------------------------------------- its members

    @property
    def adapters(self) -> list[Adapter]:
        """Every adapter, text encoders first."""
        return list(self.children())

    @property
    def text_encoder_loras(self) -> list[Adapter]:
        return [a for a in self.adapters if a.target.root != "denoiser"]

    @property
    def unet_loras(self) -> list[Adapter]:
        return [a for a in self.adapters if a.target.root == "denoiser"]

    # ------------------------------------------------------------------------------------------------- its strength

    @property
    def multiplier(self) -> float | torch.Tensor:
        return self._strength.value

    @multiplier.setter
    def multiplier(self, value: float | torch.Tensor) -> None:
        self._strength.value = value

    def set_multiplier(self, multiplier: float | torch.Tensor) -> None:
        """Set the strength of every adapter; it acts from the next call on."""
        self._strength.value = multiplier

    @contextlib.contextmanager
    def at(self, multiplier: float | torch.Tensor) -> Iterator[AdapterNetwork]:
        """Within this context the network has another strength."""
        before = self._strength.value
        self._strength.value = multiplier
        try:
            yield self
        finally:
            self._strength.value = before

    def set_enabled(self, is_enabled: bool) -> None:
        """Switch all adapters on or off; off, the model computes as if there were none."""
        for adapter in self.adapters:
            adapter.enabled = is_enabled

    # ------------------------------------------------------------------------------------------------- on the model

    def apply_to(self, text_encoder: Any = None, unet: Any = None, apply_text_encoder: bool = True,
                 apply_unet: bool = True) -> None:
        """Hang the adapters on the model; those of parts that are not wanted are dropped for good.

        The modules to hang on are known since creation; the two models are arguments because kohya's contract has them.
        """
        for adapter in self.adapters:
            wanted = apply_unet if adapter.target.root == "denoiser" else apply_text_encoder
            if wanted:
                adapter.apply_to()
            else:
                delattr(self, adapter.lora_name)

    def remove(self) -> None:
        """Take the adapters off the model again."""
        for adapter in reversed(self.adapters):
            adapter.remove()

    def is_mergeable(self) -> bool:
        """Whether the layers hold plain weights that a change can be added to."""
        return all(_is_plain(a.layer) for a in self.adapters)

    def merge_to(self, text_encoder: Any = None, unet: Any = None, weights_sd: Mapping | None = None,
                 dtype: torch.dtype | None = None, device: Any = None) -> None:
        """Add the weights of a file (or the network's own) to the model for good, at the present multiplier.

        Only modules that the file has are merged. Raises UserError where the base is quantised.
        """
        if not self.is_mergeable():
            raise UserError(Problem("--base_weights", "The model's layers are quantised: nothing can be merged into it.",
                                    "Merge the file into an unquantised model first, or load the model unquantised."))
        if weights_sd is not None:
            found, _ = keys.to_kohya(weights_sd, self.names)
            self._load(found)
            wanted = [a for a in self.adapters if a.lora_name in found]
        else:
            wanted = self.adapters
        for adapter in wanted:
            adapter.merge(dtype, device)

    # ------------------------------------------------------------------------------------------------- its training

    def prepare_network(self, args: Any) -> None:
        """Nothing to prepare; the contract asks for the method."""

    def prepare_optimizer_params(self, text_encoder_lr: float | Sequence[float] | None, unet_lr: float | None,
                                 default_lr: float | None = None) -> tuple[list[dict], list[str]]:
        """Parameter groups and their descriptions (``textencoder``, ``unet``, ``unet plus``, ``unet_block3``).

        Text encoders come first. A group of rate 0 is left out, and gets no gradients, which nothing would clear.
        """
        self._untrained = ()
        self.prepare_grad_etc()
        found = param_groups(self.adapters, self.plan.groups, (text_encoder_lr, unet_lr, default_lr))
        trained = {id(parameter) for group in found[0] for parameter in group["params"]}
        self._untrained = tuple(parameter for parameter in self.parameters() if id(parameter) not in trained)
        self._freeze_fixed()
        return found

    def prepare_optimizer_params_with_multiple_te_lrs(self, text_encoder_lr: Sequence[float] | float | None,
                                                      unet_lr: float | None, default_lr: float | None
                                                      ) -> tuple[list[dict], list[str]]:
        """The same as ``prepare_optimizer_params``, under the name newer callers use."""
        return self.prepare_optimizer_params(text_encoder_lr, unet_lr, default_lr)

    def _freeze_fixed(self) -> None:
        for parameter in (*(one for adapter in self.adapters for one in adapter.fixed_parameters()), *self._untrained):
            parameter.requires_grad_(False)

    def enable_gradient_checkpointing(self) -> None:
        """Adapters hold no activations of their own worth saving; the model's checkpointing covers them."""

    def prepare_grad_etc(self, text_encoder: Any = None, unet: Any = None) -> None:
        """Make the adapters' parameters trainable."""
        self.requires_grad_(True)
        self._freeze_fixed()

    def largest_change(self) -> float:
        """Largest Frobenius norm of an adapter's change of weight: 0 where nothing was learned yet."""
        with torch.no_grad():
            return max(float(adapter.norm()) for adapter in self.adapters)

    def on_epoch_start(self, text_encoder: Any = None, unet: Any = None) -> None:
        """Dropouts act from here on."""
        self.train()

    def on_step_start(self) -> None:
        """Nothing to do before a step; the contract asks for the method."""

    def get_trainable_params(self) -> Iterable[nn.Parameter]:
        """Every parameter that is trained."""
        return [p for p in self.parameters() if p.requires_grad]

    @torch.no_grad()
    def apply_max_norm_regularization(self, max_norm_value: float, device: Any = None) -> tuple[int, float, float]:
        """Shrink every module whose change of weight is larger than ``max_norm_value`` to that norm.

        Returns how many were shrunk, the mean and the largest norm afterwards.
        """
        adapters = self.adapters
        norms = torch.stack([a.norm() for a in adapters])
        ratios = (max_norm_value / norms).clamp(max=1.0)
        over = ratios < 1.0
        for index in over.nonzero().flatten().tolist():
            adapters[index].shrink(ratios[index])
        after = (norms * ratios).cpu()
        return int(over.sum()), float(after.mean()), float(after.max())

    # ------------------------------------------------------------------------------------------------- its file

    def load_weights(self, file: Path | str) -> LoadInfo:
        """Load a file of kohya's, diffusers' or ComfyUI's format.

        Raises UserError where it is no such file, or where a module has another rank or size than this network's.
        """
        return self.load_tensors(peft_files.read(file), str(file))

    def load_tensors(self, tensors: Mapping[str, torch.Tensor], source: str = "the file") -> LoadInfo:
        """Load tensors that were read already; ``source`` is what messages call them."""
        found, unknown = keys.to_kohya(tensors, self.names)
        mine = {a.lora_name for a in self.adapters}
        loaded = {name: parts for name, parts in found.items() if name in mine}
        if not loaded:
            what = say("None of its modules belongs to this model and network ({unknown}).", unknown=_example(unknown, found))
            raise UserError(Problem(source, what, "Use a LoRA of this model's architecture."))
        self._load(loaded, source)
        unknown += [name for name in found if name not in mine]
        return LoadInfo(tuple(sorted(mine - set(loaded))), tuple(unknown), len(loaded))

    def _load(self, modules: keys.Modules, source: str = "the file") -> None:
        own = self.state_dict()
        mine = {a.lora_name: a for a in self.adapters}
        new = keys.flatten({name: mine[name].from_file(parts) for name, parts in modules.items() if name in mine})
        self._refuse_other_kinds(new, own, source)
        problems = [
            Problem(source, say("{key} is {shape_text} there and {shape_text2} here.", key=key,
                                shape_text=keys.shape_text(v.shape), shape_text2=keys.shape_text(own[key].shape)),
                    "Give the --network_dim (and conv_dim) the file was made with, or --dim_from_weights.")
            for key, v in sorted(new.items()) if v.shape != own[key].shape]
        if problems:
            last = problems[min(2, len(problems) - 1)]
            what = say("{first} So are {count:more tensor|more tensors}.", first=last.what, count=len(problems) - 3)
            raise UserError(*problems[:2][:len(problems) - 1], replace(last, what=what) if len(problems) > 3 else last)
        self.load_state_dict(new, strict=False)
        for adapter in self.adapters:
            adapter.scale = float(adapter.alpha) / adapter.lora_dim

    def _refuse_other_kinds(self, new: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], source: str) -> None:
        """A file must have exactly the tensors of the modules it loads into: one too many or too few is another adapter."""
        loaded = {key.partition(".")[0] for key in new}
        wrong = sorted(set(new) - set(own)) + sorted(k for k in set(own) - set(new) if k.partition(".")[0] in loaded
                                                     and not k.endswith((f".{keys.ALPHA}", ".on_input")))
        if wrong:
            what = say("{name} is in it, but this adapter has no such part: the file is of another kind of adapter."
                       if wrong[0] in new else "{name} is not in it: the file is of another kind of adapter.", name=wrong[0])
            raise UserError(Problem(source, what, "Give the --network_module and --network_args (dora_wd, factor, ...) that it was "
                                    "made with, or --dim_from_weights."))

    @contextlib.contextmanager
    def alpha_times(self, factor: float) -> Iterator[None]:
        """Within this context files hold an alpha so many times as large; what the model computes stays as it is."""
        before = [(adapter, adapter.alpha.clone()) for adapter in self.adapters]
        try:
            for adapter, alpha in before:
                adapter.alpha = alpha * factor
            yield
        finally:
            for adapter, alpha in before:
                adapter.alpha = alpha

    def file_tensors(self, dtype: torch.dtype | None = None, fmt: keys.FileFormat = "kohya") -> dict[str, torch.Tensor]:
        """The tensors of the file to be saved, on the CPU, alpha included, in ``dtype`` (None: as they are)."""
        tensors: dict[str, torch.Tensor] = {}
        for adapter in self.adapters:
            parts = {k: v.detach().cpu() for k, v in adapter.state_dict().items()}
            tensors |= {f"{adapter.lora_name}.{k}": v.to(dtype) if dtype and v.is_floating_point() else v
                        for k, v in adapter.as_file(parts).items()}
        return keys.from_kohya(tensors, fmt, self.names)

    def save_weights(self, file: Path | str, dtype: torch.dtype | None, metadata: Mapping[str, str] | None) -> None:
        """Write the file: .safetensors with metadata and its two hashes, else a torch file without metadata."""
        write_tensors(file, self.file_tensors(dtype), metadata)


def _is_plain(layer: nn.Module) -> bool:
    weight = layer._parameters.get("weight")
    return type(weight) is nn.Parameter and weight.is_floating_point() and weight.element_size() > 1


def _refuse_doubles(targets: Sequence[Target]) -> None:
    names = [t.name for t in targets]
    assert len(names) == len(set(names)), f"modules share a name: {sorted(n for n in names if names.count(n) > 1)[:4]}"


def _example(unknown: Sequence[str], found: Mapping[str, object]) -> str:
    if unknown:
        return f"its first module is {unknown[0]}"
    return f"{next(iter(found))} is not adapted here" if found else "it holds no adapter"
