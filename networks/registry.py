"""From the word behind ``--network_module`` to a network on the model."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys, role_rates
from networks.ranks import with_included
from networks.request import NetworkRequest
from networks.role_dims import with_outer

# word behind --network_module -> our module; kohya has one LoRA file per architecture, here the targets differ
_OURS: dict[str, str] = {
    "networks.lora": "networks.lora",
    "networks.lora_flux": "networks.lora",
    "networks.lora_sd3": "networks.lora",
    "networks.lora_lumina": "networks.lora",
    "networks.lora_hunyuan_image": "networks.lora",
    "networks.lora_anima": "networks.lora",
    "networks.lora_flux_2": "networks.lora",
    "networks.lora_qwen_image": "networks.lora",
    "networks.lora_wan": "networks.lora",
    "networks.lora_zimage": "networks.lora",
    "networks.lora_fa": "networks.lora_fa",
    "networks.dylora": "networks.dylora",
    "networks.loha": "networks.loha",
    "networks.lokr": "networks.lokr",
    "networks.oft": "networks.oft",
    "networks.oft_flux": "networks.oft",
    "networks.ia3": "networks.ia3",
}


PLAIN = frozenset({"networks.lora", "networks.lora_fa", "networks.dylora"})
"""Modules whose files hold ``lora_down`` and ``lora_up`` alone."""


def names() -> list[str]:
    """Every word of ours that ``--network_module`` takes."""
    return sorted(_OURS)


def is_ours(module_name: str) -> bool:
    """Whether a network module is one of this program's own."""
    return module_name in _OURS


JOINED = PLAIN | {"networks.loha", "networks.oft", "networks.ia3"}
"""Modules whose adapters of q, k and v make one, where an original checkpoint holds these as one."""


def readers(module_name: str, loads_in: Mapping[str, Sequence[str]], fmt: str) -> tuple[str, ...]:
    """Which programs read what this module saves in a format; ``loads_in``: those that read a plain LoRA of this model.

    diffusers' LoRA loaders refuse files of other adapters ("not correctly renamed"). Where the original checkpoint fuses
    layers (``apart`` stands in ``loads_in``), adapters that stay apart have names that fewer programs know.
    """
    own, programs = _OURS.get(module_name), tuple(loads_in.get(fmt, ()))
    if own in PLAIN:
        return programs
    known = programs if own in JOINED else tuple(loads_in.get("apart", programs))
    return tuple(program for program in programs if program in known and program != "diffusers")


_OF_KIND = {"lora": "networks.lora", "loha": "networks.loha", "lokr": "networks.lokr", "oft": "networks.oft",
            "ia3": "networks.ia3"}
"""Kind of adapter in a file -> the module of ours that runs it; lycoris runs the others."""


def module_of(tensors: Mapping[str, Any]) -> str:
    """The network module that runs a file's adapter, by its tensors."""
    kind = str(keys.identify(tensors).kind)
    if kind == "oft" and not any(keys.is_kohyas_oft(key) for key in tensors):
        return "lycoris.kohya"  # its diag-oft and BOFT have kohya's suffixes and other rules
    return _OF_KIND.get(kind, "lycoris.kohya")


def load_module(module_name: str) -> ModuleType:
    """Import the module behind a word: ours by table, any other dotted path as it is.

    Raises UserError where there is no such module, with the near names and what to install.
    """
    known = _OURS.get(module_name)
    try:
        return importlib.import_module(known or module_name)
    except ModuleNotFoundError as error:
        raise _unknown_module(module_name, error) from error


def _unknown_module(module_name: str, error: ModuleNotFoundError) -> UserError:
    where = f"--network_module {module_name}"
    package = module_name.partition(".")[0]
    if package != "networks" and error.name == package:
        wheel = {"lycoris": "lycoris-lora"}.get(package, package)
        return UserError(
            Problem(
                where,
                say("The package {package!r} is not installed.", package=package),
                say("Run: pip install {wheel}", wheel=wheel),
            )
        )
    near = difflib.get_close_matches(module_name, names(), n=2, cutoff=0.6)
    hint = say("Did you mean {near}? ", near=' or '.join(near)) if near else ""
    return UserError(
        Problem(
            where,
            say("There is no such module ({error}).", error=error),
            say("{hint}Ours are {names}.", hint=hint, names=", ".join(names())),
        )
    )


def create(module_name: str, request: NetworkRequest) -> Any:
    """Make the network, not yet applied to the model.

    Modules of all targets are made, text encoders first, so that random numbers are drawn in the same order whatever
    is trained; ``attach`` drops what is not wanted.
    """
    module = load_module(module_name)
    if not is_ours(module_name):
        from networks.external import create_foreign

        role_rates.refuse(request.args, module_name)
        return create_foreign(module, module_name, request)
    targets = with_outer(request.args, request.targets, request.extra_targets)
    targets = with_included(targets, request.extra_targets, request.args.get("include_patterns"))
    return module.create_network(request.multiplier, request.dim, request.alpha, request.vae,
                                 list(request.text_encoders), request.denoiser, request.dropout, targets=targets, **request.args)


def create_from_weights(module_name: str, request: NetworkRequest, weights: Path | Mapping[str, Any],
                        for_inference: bool = False) -> tuple[Any, dict[str, Any]]:
    """Make a network with the modules, ranks and alphas of a file.

    Returns the network, without the weights yet, and the file's tensors.
    """
    module = load_module(module_name)
    file, tensors = (None, weights) if isinstance(weights, Mapping) else (weights, None)
    if not is_ours(module_name):
        from networks.external import create_foreign_from_weights

        return create_foreign_from_weights(module, module_name, request, weights, for_inference)
    known = {target.name for target in request.targets}
    every = [*request.targets, *(target for target in request.extra_targets if target.name not in known)]
    return module.create_network_from_weights(request.multiplier, file, request.vae, list(request.text_encoders),
                                              request.denoiser, tensors, for_inference, targets=every, **request.args)


def attach(module_name: str, request: NetworkRequest) -> Any:
    """Make the network, load ``request.weights`` where given, and hang it on the model."""
    if request.dim_from_weights and request.weights is None:
        raise UserError(Problem("--dim_from_weights", "There is no file to take the dim from.",
                                "Give --network_weights too, or --network_dim instead."))
    if request.dim_from_weights:
        network, tensors = create_from_weights(module_name, request, request.weights)
    else:
        network, tensors = create(module_name, request), None
    network.apply_to(list(request.text_encoders), request.denoiser, request.train_text_encoder, request.train_denoiser)
    if tensors is not None:
        network.load_tensors(tensors, str(request.weights))
    elif request.weights is not None:
        network.load_weights(request.weights)
    return network


def merge_base(module_name: str, request: NetworkRequest, files: Sequence[tuple[Path, float]]) -> None:
    """Merge LoRA files into the model for good, each at its multiplier (``--base_weights``)."""
    for file, multiplier in files:
        network, tensors = create_from_weights(module_name, request, file, for_inference=True)
        network.set_multiplier(multiplier)
        network.merge_to(list(request.text_encoders), request.denoiser, tensors)
