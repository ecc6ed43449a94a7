"""Network modules of other packages behind the same face as ours.

Such a module offers a part of kohya's contract, in an older or newer signature. Here, and only here, is asked what it
has; the rest of the program sees a ``ForeignNetwork`` with every method. What single packages need beyond that stands
in ``networks.lycoris_fixes``.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from library.util.records import Problem, UserError
from library.util.said import say
from library.util.tensorfile import write_tensors
from networks import keys, lycoris_fixes, peft_files
from networks.base import LoadInfo

if TYPE_CHECKING:
    from networks.request import NetworkRequest


def create_foreign(module: ModuleType, module_name: str, request: NetworkRequest) -> ForeignNetwork:
    """Make a foreign module's network.

    Raises UserError where the module lacks ``create_network`` or refuses its arguments.
    """
    create = _function(module, module_name, "create_network")
    fixes = lycoris_fixes if module_name.partition(".")[0] == "lycoris" else None
    dim, alpha, args = request.dim, request.alpha, dict(request.args)
    if fixes is not None:
        dim, alpha, args = fixes.arguments(request)
    if request.dropout is not None:
        word = "neuron_dropout" if "neuron_dropout" in inspect.signature(create).parameters else "dropout"
        args[word] = request.dropout
    inner = _call(module_name, create, request.multiplier, dim, alpha, request.vae, one_or_list(request.text_encoders),
                  request.denoiser, **args)
    names = keys.Names.of([*request.targets, *request.extra_targets])
    rename_modules(inner, names)
    return ForeignNetwork(inner, names, request.multiplier)


def create_foreign_from_weights(module: ModuleType, module_name: str, request: NetworkRequest,
                                weights: Path | Mapping[str, Any], for_inference: bool
                                ) -> tuple[ForeignNetwork, dict[str, Any]]:
    """Make a foreign module's network with the modules of a file -> (network, the file's tensors).

    Raises UserError where the module cannot do that.
    """
    create = _function(module, module_name, "create_network_from_weights")
    tensors = dict(weights) if isinstance(weights, Mapping) else peft_files.read(weights)
    names = keys.Names.of([*request.targets, *request.extra_targets])
    spelled = spelled_as_modules(tensors, names, request)
    if module_name.partition(".")[0] == "lycoris":
        lycoris_fixes.before_file()
    inner, _ = _call(module_name, create, request.multiplier, None, request.vae, one_or_list(request.text_encoders),
                     request.denoiser, spelled, for_inference, **request.args)
    rename_modules(inner, names)
    return ForeignNetwork(inner, names, request.multiplier), tensors


def one_or_list(models: Sequence[Any]) -> Any:
    """Text encoders as kohya's trainers hand them over: one by itself, several as a list."""
    return models[0] if len(models) == 1 else list(models)


def _function(module: ModuleType, module_name: str, name: str) -> Callable[..., Any]:
    function = vars(module).get(name)
    if function is None:
        raise UserError(Problem(f"--network_module {module_name}", say("This module has no function {name}.", name=name),
                                "See docs/network-modules.md for what a network module must offer."))
    return function


def _call(module_name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call into the foreign module; its complaints about arguments become ours, with its name in front."""
    try:
        return function(*args, **kwargs)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise UserError(
            Problem(
                f"--network_module {module_name}",
                say("It refused to make a network: {kind}: {error}", kind=type(error).__name__, error=error),
                "Check --network_args against its documentation.",
            )
        ) from error


def adapters_of(inner: Any) -> list[Any]:
    """The adapter modules of a foreign network, text encoders first, by the two lists kohya's trainers rely on."""
    return [*getattr(inner, "text_encoder_loras", []), *getattr(inner, "unet_loras", [])]


def rename_modules(inner: Any, names: keys.Names) -> None:
    """Give a foreign network's modules the names kohya's files have, before they are registered under them.

    Packages build names from the loaded model's own paths, which lost ``text_model_`` in transformers 5.6.
    """
    for adapter in adapters_of(inner):
        adapter.lora_name = names.find(adapter.lora_name) or adapter.lora_name


def spelled_as_modules(tensors: Mapping[str, torch.Tensor], names: keys.Names, request: NetworkRequest
                       ) -> dict[str, torch.Tensor]:
    """A file's tensors under the names a package builds from the loaded model's own module paths."""
    path_of = {}
    for number, model in enumerate(request.text_encoders, start=1):
        prefix = "lora_te" if len(request.text_encoders) == 1 else f"lora_te{number}"
        path_of |= {id(m): f"{prefix}_{path.replace('.', '_')}" for path, m in model.named_modules()}
    if request.denoiser is not None:
        path_of |= {id(m): f"lora_unet_{path.replace('.', '_')}" for path, m in request.denoiser.named_modules()}
    own = {t.name: path_of[id(t.module)] for t in [*request.targets, *request.extra_targets] if id(t.module) in path_of}
    spelled = {}
    for stem, parts in keys.group(tensors).items():
        name = names.find(stem)
        spelled |= {f"{own.get(name, stem)}.{suffix}": tensor for suffix, tensor in parts.items()}
    return spelled


class ForeignNetwork(nn.Module):
    """A foreign network with every method of the contract; its modules, parameters and keys are the foreign one's."""

    def __init__(self, inner: Any, names: keys.Names, multiplier: float):
        super().__init__()
        self._inner = (inner,)
        self.names = names
        self._multiplier = multiplier
        self._start: list[float] = []
        # One set of modules and parameters under two faces, so that state_dict has the file's keys.
        for registry in ("_modules", "_parameters", "_buffers"):
            self.__dict__[registry] = inner.__dict__[registry]

    @property
    def inner(self) -> Any:
        """The foreign network."""
        return self._inner[0]

    @property
    def adapters(self) -> list[Any]:
        return adapters_of(self.inner)

    @property
    def text_encoder_loras(self) -> list[Any]:
        return list(getattr(self.inner, "text_encoder_loras", []))

    @property
    def unet_loras(self) -> list[Any]:
        return list(getattr(self.inner, "unet_loras", []))

    def _method(self, name: str) -> Callable[..., Any] | None:
        method = getattr(self.inner, name, None)
        return method if callable(method) else None

    def _maybe(self, name: str, *args: Any) -> Any:
        method = self._method(name)
        return None if method is None else method(*args)

    # ------------------------------------------------------------------------------------------------- its strength

    @property
    def multiplier(self) -> float | torch.Tensor:
        return self._multiplier

    @multiplier.setter
    def multiplier(self, value: float | torch.Tensor) -> None:
        self.set_multiplier(value)

    def set_multiplier(self, multiplier: float | torch.Tensor) -> None:
        """Set the strength of every adapter."""
        self._multiplier = multiplier
        if self._maybe("set_multiplier", multiplier) is None:
            for adapter in self.adapters:
                adapter.multiplier = multiplier

    @contextlib.contextmanager
    def at(self, multiplier: float | torch.Tensor) -> Iterator[ForeignNetwork]:
        """Within this context the network has another strength."""
        before = self._multiplier
        self.set_multiplier(multiplier)
        try:
            yield self
        finally:
            self.set_multiplier(before)

    def set_enabled(self, is_enabled: bool) -> None:
        """Switch all adapters on or off, by strength where the package has no switch."""
        if self._method("set_enabled") is not None:
            self.inner.set_enabled(is_enabled)
        elif is_enabled:
            self.set_multiplier(self._multiplier)
        else:
            kept = self._multiplier
            self.set_multiplier(0.0)
            self._multiplier = kept

    # ------------------------------------------------------------------------------------------------- on the model

    def prepare_network(self, args: Any) -> None:
        self._maybe("prepare_network", args)

    def apply_to(self, text_encoder: Any = None, unet: Any = None, apply_text_encoder: bool = True,
                 apply_unet: bool = True) -> None:
        """Hang the adapters on the model."""
        models = one_or_list(text_encoder) if isinstance(text_encoder, (list, tuple)) and text_encoder else text_encoder
        self.inner.apply_to(models, unet, apply_text_encoder, apply_unet)

    def remove(self) -> None:
        """Take the adapters off the model again.

        Raises UserError where the package has no way to.
        """
        if self._method("restore") is None:
            raise UserError(Problem("--network_module", say("{kind} cannot be taken off a model.", kind=type(self.inner).__name__),
                                    "Use one of this program's own network modules for this."))
        self.inner.restore()

    def is_mergeable(self) -> bool:
        """As the package says; one that does not say is taken to be."""
        answer = self._maybe("is_mergeable")
        return True if answer is None else bool(answer)

    def merge_to(self, text_encoder: Any = None, unet: Any = None, weights_sd: Mapping | None = None,
                 dtype: torch.dtype | None = None, device: Any = None) -> None:
        """Add the weights to the model for good, at the present multiplier."""
        if lycoris_fixes.is_lycoris(self.inner):
            # Its own method merges at strength 1 whatever was set.
            for adapter in self.adapters:
                lycoris_fixes.merge(adapter, float(self._multiplier))
            return
        self.inner.merge_to(text_encoder, unet, weights_sd, dtype, device)

    # ------------------------------------------------------------------------------------------------- its training

    def prepare_optimizer_params(self, text_encoder_lr: float | Sequence[float] | None, unet_lr: float | None,
                                 default_lr: float | None = None) -> tuple[list[dict], list[str]]:
        """Parameter groups and descriptions, whichever of the contract's signatures the package has."""
        self.requires_grad_(True)
        newer = self._method("prepare_optimizer_params_with_multiple_te_lrs")
        if newer is not None:
            return _groups(newer(_as_list(text_encoder_lr), unet_lr, default_lr))
        first = text_encoder_lr[0] if isinstance(text_encoder_lr, Sequence) and text_encoder_lr else text_encoder_lr
        text_lr = None if isinstance(first, Sequence) else first
        method = self.inner.prepare_optimizer_params
        if len(inspect.signature(method).parameters) >= 3:
            return _groups(method(text_lr, unet_lr, default_lr))
        return _groups(method(default_lr if text_lr is None else text_lr, default_lr if unet_lr is None else unet_lr))

    def prepare_optimizer_params_with_multiple_te_lrs(self, text_encoder_lr: Sequence[float] | float | None,
                                                      unet_lr: float | None, default_lr: float | None
                                                      ) -> tuple[list[dict], list[str]]:
        """The same as ``prepare_optimizer_params``."""
        return self.prepare_optimizer_params(text_encoder_lr, unet_lr, default_lr)

    def enable_gradient_checkpointing(self) -> None:
        self._maybe("enable_gradient_checkpointing")

    def prepare_grad_etc(self, text_encoder: Any = None, unet: Any = None) -> None:
        self.requires_grad_(True)
        self._maybe("prepare_grad_etc", text_encoder, unet)
        self._start = self._sums()

    def largest_change(self) -> float:
        """How far the sum of a weight's magnitudes has moved since training began, the farthest one's.

        What the weights amount to only the package knows; that none has moved shows in their sums.
        """
        return max((abs(now - start) for now, start in zip(self._sums(), self._start, strict=True)), default=0.0)

    def _sums(self) -> list[float]:
        with torch.no_grad():
            return [float(weight.double().abs().sum()) for weight in self.parameters()]

    def on_epoch_start(self, text_encoder: Any = None, unet: Any = None) -> None:
        self.train()
        self._maybe("on_epoch_start", text_encoder, unet)

    def on_step_start(self) -> None:
        self._maybe("on_step_start")

    def train(self, mode: bool = True) -> ForeignNetwork:
        """Training or evaluation mode, of the foreign network too."""
        self.inner.train(mode)
        return super().train(mode)

    def get_trainable_params(self) -> Iterable[nn.Parameter]:
        """Every parameter that is trained."""
        return [p for p in self.parameters() if p.requires_grad]

    def apply_max_norm_regularization(self, max_norm_value: float, device: Any = None) -> tuple[int, float, float]:
        """Shrink what is larger than ``max_norm_value``.

        Raises UserError where the package cannot.
        """
        method = self._method("apply_max_norm_regularization")
        if method is None:
            raise UserError(Problem("--scale_weight_norms", say("{kind} cannot scale its weights.", kind=type(self.inner).__name__),
                                    "Leave --scale_weight_norms out with this network module."))
        count, mean, largest = method(max_norm_value, device)
        return int(count), float(mean), float(largest)

    # ------------------------------------------------------------------------------------------------- its file

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's; the foreign network's own method, which may hold more than its modules' tensors, does the work.

        Packages that save other tensors than they hold would fail a strict comparison; it is not asked of them.
        """
        if lycoris_fixes.is_lycoris(self.inner):
            lycoris_fixes.before_load(self.adapters, state_dict)
        answer = self.inner.load_state_dict(dict(state_dict), False)
        if lycoris_fixes.is_lycoris(self.inner):
            lycoris_fixes.after_load(self.adapters, state_dict)
        return answer

    def load_weights(self, file: Path | str) -> LoadInfo:
        """Load a file of any format whose modules this network has.

        Raises UserError where it is no such file or the shapes differ.
        """
        return self.load_tensors(peft_files.read(file), str(file))

    def load_tensors(self, tensors: Mapping[str, torch.Tensor], source: str = "the file") -> LoadInfo:
        """Load tensors that were read already; the adapters must have been applied before."""
        found, unknown = keys.to_kohya(tensors, self.names)
        modules = found | {stem: parts for stem, parts in keys.group(tensors).items() if stem in set(unknown)}
        mine = {key.rpartition(".")[0].split(".")[0] for key in self.inner.state_dict()}
        loaded = {stem: parts for stem, parts in modules.items() if stem in mine}
        if not loaded:
            raise UserError(Problem(source, "None of its modules belongs to this model and network.",
                                    "Use a file of this network module and of this model's architecture."))
        if lycoris_fixes.is_lycoris(self.inner):
            lycoris_fixes.before_loading(self.adapters)
        try:
            self.load_state_dict(keys.flatten(loaded), strict=False)
        except RuntimeError as error:
            raise UserError(Problem(source, say("It does not fit this network: {value}", value=str(error).splitlines()[-1].strip()),
                                    "Give the dims the file was made with, or --dim_from_weights.")) from error
        return LoadInfo(tuple(sorted(mine - set(loaded))), tuple(sorted(set(modules) - mine)), len(loaded))

    def file_tensors(self, dtype: torch.dtype | None = None, fmt: keys.FileFormat = "kohya") -> dict[str, torch.Tensor]:
        """The tensors of the file to be saved, on the CPU, in ``dtype`` (None: as they are)."""
        tensors = {k: v.detach().to("cpu", dtype or v.dtype) for k, v in self.inner.state_dict().items()}
        return keys.from_kohya(tensors, fmt, self.names)

    def save_weights(self, file: Path | str, dtype: torch.dtype | None, metadata: Mapping[str, str] | None) -> None:
        """Write the file as our own networks do."""
        write_tensors(file, self.file_tensors(dtype), metadata)


def _as_list(rates: float | Sequence[float] | None) -> list[float] | None:
    if rates is None:
        return None
    return list(rates) if isinstance(rates, Sequence) else [rates]


def _groups(answer: Any) -> tuple[list[dict], list[str]]:
    """(groups, descriptions) from what a package returns: both, or groups alone in older ones."""
    groups, words = answer if isinstance(answer, tuple) else (answer, None)
    groups = [{**group, "params": list(group["params"])} for group in groups]
    if words is None:
        words = ["textencoder", "unet"] if len(groups) == 2 else [f"group{i}" for i in range(len(groups))]
    return groups, list(words)
