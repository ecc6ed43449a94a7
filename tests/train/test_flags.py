"""Flags that must change what is trained do, and flags that concern speed or memory alone do not."""

import pytest
import torch

from tests.train.conftest import ROOT, Run

CHANGES = {
    "max_token_length": {"max_token_length": 150, "caption_suffix": "red, " * 90},
    "caption_prefix": {"caption_prefix": "oil painting,"},
}
