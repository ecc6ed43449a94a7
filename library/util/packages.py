"""Which optional packages are at hand, without importing them."""

from __future__ import annotations

import importlib.util


def installed(module: str) -> bool:
    """Whether a top-level module could be imported."""
    return importlib.util.find_spec(module) is not None
