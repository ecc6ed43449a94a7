"""Learning rates by the role of a layer (``self_attn_lr=1e-5``), as patterns, and the switch of the text adapter.

They say what ``network_reg_lrs`` says with regular expressions, and are turned into these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from library.util.records import Problem, Target, UserError
from library.util.said import say

RATES: Mapping[str, str] = {
    "self_attn_lr": "self-attention",
    "cross_attn_lr": "cross-attention",
    "mlp_lr": "feed-forward",
    "mod_lr": "modulation",
    "llm_adapter_lr": "text-stream",
}
"""Argument -> the role of the layers that it speaks of."""
TEXT_ADAPTER = "train_llm_adapter"
_ALL_LAYERS = "Leave it out. Layers that carry no adapter by default get one with "
WAY_OUT: Mapping[str, str] = {
    "mod_lr": f"{_ALL_LAYERS}--slider_lora_target=full.",
    "llm_adapter_lr": f"{_ALL_LAYERS}--network_args {TEXT_ADAPTER}=True.",
}


def translated(args: Mapping[str, Any], targets: Sequence[Target]) -> dict[str, Any]:
    """The arguments with rates by role turned into ``network_reg_lrs``, behind the user's own patterns.

    The text adapter's switch is left out: the family has added its layers to the targets. Raises UserError that holds every
    rate that is no number, and every role that no layer has.
    """
    rest = {name: value for name, value in args.items() if name not in RATES and name != TEXT_ADAPTER}
    own = [target for target in targets if target.root == "denoiser"]
    problems, found = [], []
    for name in [name for name in RATES if args.get(name) is not None]:
        where, role = f"--{name} {args[name]}", RATES[name]
        paths = [target.path for target in own if target.role == role]
        try:
            rate = float(args[name])
        except ValueError:
            problems.append(Problem(where, "This is no number.", "Give a learning rate; 0 leaves these layers untrained."))
            continue
        if not paths:
            problems.append(Problem(where, say("No layer of this model's {role} carries an adapter.", role=role),
                                    WAY_OUT.get(name, "Leave it out.")))
        found.append(f"{pattern_of(paths)}={rate:g}")
    if args.get(TEXT_ADAPTER) not in (None, "False", "false") and not any(t.role == RATES["llm_adapter_lr"] for t in own):
        problems.append(Problem(f"--network_args {TEXT_ADAPTER}={args[TEXT_ADAPTER]}",
                                "This model has no adapter between text encoder and transformer.", "Leave it out."))
    if problems:
        raise UserError(*problems)
    theirs = [str(rest["network_reg_lrs"])] if rest.get("network_reg_lrs") else []
    return rest | ({"network_reg_lrs": ",".join([*theirs, *found])} if found else {})


def pattern_of(paths: Sequence[str]) -> str:
    """A regular expression that these paths match in full, whatever their numbers."""
    kinds = dict.fromkeys(re.sub(r"(?<=\.)\d+", "0", path) for path in paths)
    return "|".join(re.escape(kind).replace(r"\.0", r"\.\d+") for kind in kinds)


def refuse(args: Mapping[str, Any], module_name: str) -> None:
    """For network modules of other projects, which know nothing of these arguments."""
    wrong = [name for name in (*RATES, TEXT_ADAPTER) if name in args]
    if wrong:
        raise UserError(
            Problem(
                f"--{wrong[0]}",
                say("{module_name} cannot give the roles of layers rates of their own.", module_name=module_name),
                "Leave it out, or use --network_module=networks.lora.",
            )
        )
