"""What ``lycoris.kohya`` needs to work on models of today's diffusers and transformers, and its configurations by file.

Found with lycoris-lora 4.1.3: its preset ``full`` names ``time_embedding.linear_1`` twice on a diffusers U-Net (by name
and by the class it stands in) and stops; its class names know the original code of most transformers, not diffusers'; its
preset ``ia3`` names modules by their last part, but names are compared with whole paths, so it adapts nothing;
a full matrix that is made from a file and then loads it holds its change twice.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys

if TYPE_CHECKING:
    import torch

    from networks.request import NetworkRequest

logger = logging.getLogger(__name__)

_OWN_PRESET = "this-model"
# Every key of a preset: lycoris keeps the last one's on its class, so one that leaves keys out would inherit them.
_NOTHING: dict[str, Any] = {
    "enable_conv": True, "unet_target_module": [], "unet_target_name": [], "text_encoder_target_module": [],
    "text_encoder_target_name": [], "module_algo_map": {}, "name_algo_map": {}, "use_fnmatch": False,
    "exclude_name": [],
}

Arguments = tuple[int | None, float | None, dict[str, Any]]


def facts_of_config(module_name: str, args: Mapping[str, str]) -> dict[str, Any]:
    """What a saved file tells of a configuration file: its dim and alpha in the usual places, and the whole of it."""
    if "config" not in args or module_name.partition(".")[0] != "lycoris":
        return {}
    config = _read_config(Path(args["config"]))
    sizes = {"ss_network_dim": config.get("linear_dim"), "ss_network_alpha": config.get("linear_alpha")}
    return {name: value for name, value in sizes.items() if value is not None} | {"ss_lycoris_config": config}


def is_lycoris(network: Any) -> bool:
    """Whether a foreign network is lycoris'."""
    return type(network).__module__.partition(".")[0] == "lycoris"


def arguments(request: NetworkRequest) -> Arguments:
    """(dim, alpha, keyword arguments) for lycoris' ``create_network``, with a preset that fits the loaded model."""
    dim, alpha, args = _with_config(request)
    chosen = request.exact and not {"preset", "preset_table"} & set(args)
    preset, word = _preset(args)
    preset = _with_paths(preset, request)
    fitted = _exactly(preset, request, "conv_dim" in args) if chosen else _on_this_model(preset, word, request)
    preset = _without_doubles(fitted, request)
    from lycoris.config import PRESET

    PRESET[_OWN_PRESET] = _NOTHING | preset
    # A built-in preset lists the classes of every architecture: that most match nothing is no news.
    return dim, alpha, {**args, "preset": _OWN_PRESET, "warn_on_unmatched": word == ""}


def before_file() -> None:
    """Prepare lycoris for making a network from a file: it first makes one by its last preset and throws it away."""
    from lycoris.kohya import LycorisNetworkKohya
    from lycoris.modules import IA3Module

    LycorisNetworkKohya.apply_preset(_NOTHING)
    IA3Module.make_module_from_state_dict = classmethod(_ia3_from_file)


def _ia3_from_file(cls: Any, name: str, layer: Any, weight: torch.Tensor, on_input: torch.Tensor | None = None) -> Any:
    """lycoris' own takes no ``on_input``, which it is handed, and so makes no (IA)^3 from a file at all."""
    module = cls(name, layer, 1, train_on_input=bool(on_input))
    module.weight.data.copy_(weight)
    return module


def before_load(adapters: Iterable[Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what a file's changes are added to: a full module that was made from a file holds them already."""
    for adapter in adapters:
        if type(adapter).__name__ == "FullModule" and not adapter.is_diff and f"{adapter.lora_name}.diff" in tensors:
            adapter.weight.data.copy_(adapter.org_weight)
            if adapter.bias is not None and adapter.org_bias is not None:
                adapter.bias.data.copy_(adapter.org_bias[0])


def before_loading(adapters: Iterable[Any]) -> None:
    """Take what full matrices have learned back: their loading adds a file's change to what they hold already."""
    for adapter in adapters:
        if type(adapter).__name__ != "FullModule":
            continue
        for own, first in ((adapter.weight, adapter._org_weight), (adapter.bias, adapter.org_bias)):
            if own is not None:
                own.data.copy_(own.new_zeros(own.shape) if adapter.is_diff else first[0])


def merge(adapter: Any, multiplier: float) -> None:
    """Add one adapter's change to its layer's weight for good.

    LoHa and LoKr multiply their scale in twice on this way; its root in both places is the scale once.
    """
    if type(adapter).__name__ not in ("LohaModule", "LokrModule"):
        adapter.merge_to(multiplier)
        return
    scale = adapter.scale
    adapter.scale = math.sqrt(scale)
    try:
        adapter.merge_to(multiplier)
    finally:
        adapter.scale = scale


def after_load(adapters: Iterable[Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Load what lycoris leaves out: DyLoRA saves two matrices and holds them in blocks, but reads none back."""
    for adapter in adapters:
        up, down = (tensors.get(f"{adapter.lora_name}.{suffix}") for suffix in (keys.UP, keys.DOWN))
        if type(adapter).__name__ != "DyLoraModule" or up is None or down is None:
            continue
        size = adapter.block_size
        for i, (up_block, down_block) in enumerate(zip(adapter.up_list, adapter.down_list, strict=True)):
            up_block.data.copy_(up.flatten(1)[:, i * size:(i + 1) * size])
            down_block.data.copy_(down.flatten(1)[i * size:(i + 1) * size])


def _with_config(request: NetworkRequest) -> Arguments:
    """Read ``config=file.json`` (the form of lycoris' Python interface) into kohya-style arguments."""
    args = dict(request.args)
    dim, alpha = request.dim, request.alpha
    file = args.pop("config", None)
    if file is None:
        return dim, alpha, args
    config = _read_config(Path(file))
    args["preset_table"] = _preset_of_config(config.pop("apply_preset", {}))
    dim, alpha = config.pop("linear_dim", dim), config.pop("linear_alpha", alpha)
    if (dim, alpha) != (request.dim, request.alpha):
        logger.info("lycoris config: dim %s and alpha %s are taken from %s, not from --network_dim and --network_alpha",
                    dim, alpha, Path(file).name)
    config.pop("multiplier", None)
    return dim, alpha, {**{k: v for k, v in config.items() if v is not None}, **args}


def _read_config(path: Path) -> dict[str, Any]:
    where = f"--network_args config={path}"
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(Problem(where, "There is no such file.", "Check the path.")) from error
    except json.JSONDecodeError as error:
        raise UserError(Problem(where, say("This is not JSON: {error}", error=error), "Mend the line named.")) from error
    if not isinstance(config, dict):
        raise UserError(Problem(where, "This is not a JSON object.", "Write {\"algo\": \"lokr\", ...}."))
    return config


def _preset_of_config(preset: Mapping[str, Any]) -> dict[str, Any]:
    """``apply_preset`` of a configuration file as lycoris' kohya interface spells it.

    Entries of ``target_module`` are class names; module paths that stand there (``attn1.to_q``) would match nothing
    and are taken as what they mean.
    """
    classes = [entry for entry in preset.get("target_module", []) if not _is_path(entry)]
    paths = [entry for entry in preset.get("target_module", []) if _is_path(entry)]
    if paths:
        logger.warning("lycoris config: %d entries of target_module are module paths, not classes; they are taken as "
                       "target_name: %s", len(paths), ", ".join(paths))
    names = [_path_pattern(path) for path in paths] + list(preset.get("target_name", []))
    table = {"enable_conv": True, "unet_target_module": classes, "unet_target_name": names,
             "text_encoder_target_module": [], "text_encoder_target_name": []}
    return table | {k: v for k, v in preset.items() if k not in ("target_module", "target_name")}


def _is_path(entry: str) -> bool:
    return "." in entry or entry[:1].islower()


def _path_pattern(path: str) -> str:
    return rf"(.*\.)?{re.escape(path)}$"


def _preset(args: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The preset that is asked for: a table, one of lycoris' own by name, or a TOML file."""
    if "preset_table" in args:
        return dict(args.pop("preset_table")), ""
    word = str(args.pop("preset", "full"))
    from lycoris.config import PRESET
    from lycoris.utils.preset import read_preset

    found = PRESET[word] if word in PRESET else read_preset(word)
    if found is None:
        known = ", ".join(sorted(name for name in PRESET if name != _OWN_PRESET))
        raise UserError(Problem(f"--network_args preset={word}", "This is neither a preset of lycoris nor a TOML file.",
                                say("Its presets are {known}.", known=known)))
    return dict(found), word


def _with_paths(preset: dict[str, Any], request: NetworkRequest) -> dict[str, Any]:
    """Names that are the end of module paths only (``to_k``) become patterns that match these."""
    models = [m for m in (request.denoiser, *request.text_encoders) if m is not None]
    paths = {path for model in models for path, _ in model.named_modules()}
    ends = {part for path in paths for part in _ends(path)} - paths

    def spelled(name: str) -> str:
        return _path_pattern(name) if name in ends else name

    lists = {key: [spelled(name) for name in preset[key]] for key in ("unet_target_name", "text_encoder_target_name")
             if key in preset}
    maps = {key: {spelled(name): value for name, value in preset[key].items()} for key in ("name_algo_map",) if key in preset}
    return preset | lists | maps


def _ends(path: str) -> Iterable[str]:
    parts = path.split(".")
    return (".".join(parts[n:]) for n in range(1, len(parts)))


def _on_this_model(preset: dict[str, Any], word: str, request: NetworkRequest) -> dict[str, Any]:
    """Where none of a built-in preset's classes holds a module that an adapter is for, adapt the modules this program would."""
    if not word or request.denoiser is None or not preset.get("unet_target_module"):
        return preset
    known = set(preset["unet_target_module"])
    blocks = tuple(f"{path}." for path, module in request.denoiser.named_modules() if type(module).__name__ in known)
    # A class that many models have (TimestepEmbedding) does not make a preset fit: it must reach what an adapter is for.
    if blocks and any(f"{t.path}.".startswith(blocks) for t in request.targets if t.root == "denoiser"):
        return preset
    paths = [t.path for t in request.targets if t.root == "denoiser" and not t.conv_only]
    logger.info("lycoris preset %s knows no class of %s: its %d default modules are adapted", word,
                type(request.denoiser).__name__, len(paths))
    return preset | {"unet_target_module": [], "unet_target_name": [f"{re.escape(path)}$" for path in paths]}


def _exactly(preset: dict[str, Any], request: NetworkRequest, with_conv: bool) -> dict[str, Any]:
    """The chosen modules by name (``target_name``: ``target_module`` would compare them with class names and match none)."""
    paths = [t.path for t in request.targets if t.root == "denoiser" and (with_conv or not t.conv_only)]
    text = {} if request.train_text_encoder else {"text_encoder_target_module": [], "text_encoder_target_name": []}
    return preset | text | {"unet_target_module": [], "unet_target_name": [f"{re.escape(path)}$" for path in paths]}


def _without_doubles(preset: dict[str, Any], request: NetworkRequest) -> dict[str, Any]:
    """Drop classes inside which the preset also names modules one by one; the names stay."""
    if request.denoiser is None:
        return preset
    names = set(preset.get("unet_target_name", []))
    classes = list(preset.get("unet_target_module", []))
    doubled = {type(module).__name__ for path, module in request.denoiser.named_modules()
               if type(module).__name__ in classes and any(name.startswith(f"{path}.") for name in names)}
    return preset | {"unet_target_module": [c for c in classes if c not in doubled]}
