"""Are the layers that an adapter will hang on all found, and named as LoRA files must name them?

Libraries rename and regroup their layers from version to version. An adapter that matches fewer layers, or saves them
under other names, trains without any error and does nothing elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from library.families.interface import FamilySpec
from library.preflight.machine import Machine
from library.preflight.registry import Context, check, problem_of
from library.util.records import Problem, Target


def judge_targets(spec: FamilySpec, encoders: Sequence[Any], targets: Sequence[Target]) -> list[Problem]:
    """Judge the targets of a loaded model: each text layer gives equally many, all under the prefix that files have.

    ``encoders`` are the text encoders in the order of the spec's slots, None where one is not loaded.
    """
    machine, found = Machine.read(), []
    for slot, encoder in zip(spec.text_slots, encoders, strict=False):
        if not slot.trainable or encoder is None:
            continue
        names = [t.name for t in targets if t.root == slot.part and not t.conv_only]
        stem = f"{slot.lora_prefix}_{slot.canonical_prefix}".replace(".", "_").rstrip("_")
        layers = encoder.config.num_hidden_layers
        if not names or len(names) % layers or not all(n.startswith(stem) for n in names):
            version = machine.packages.get("transformers", "?")
            example = names[0] if names else "-"
            values = {"version": version, "found": len(names), "layers": layers, "example": example, "stem": stem}
            found.append(problem_of("stop", "layers_probe.text", "transformers", python=machine.executable, **values))
    if not any(t.root == "denoiser" for t in targets):
        version = machine.packages.get("diffusers", "?")
        found.append(
            problem_of("stop", "layers_probe", "diffusers", version=version, title=spec.title, python=machine.executable)
        )
    return found


@check("layers_probe", level="installation", row="F34")
def check_layers(context: Context) -> Iterator[Problem]:
    """The adapter finds the layers of a tiny model of every architecture under the names that files must have."""
    from library.families import registry

    for name in registry.names():
        family = registry.get(name)
        parts = family.tiny(0)
        yield from judge_targets(family.SPEC, parts.text_encoders, family.adapter_targets(parts))
