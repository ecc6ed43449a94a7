from types import SimpleNamespace

import pytest
import torch

from library.train.encoding import ImageEncoder
from library.util.records import UserError


class Overflowing(torch.nn.Linear):
    """A VAE whose numbers overflow in half precision, and for the picture of ones in any."""

    def encode(self, pixels):
        bad = pixels.dtype != torch.float32
        return torch.where(pixels == 1, torch.nan, torch.full_like(pixels, torch.inf if bad else 0.5))


def encoder(dtype=torch.bfloat16):
    parts = SimpleNamespace(vae=Overflowing(1, 1).to(dtype))
    family = SimpleNamespace(encode_image=lambda parts, pixels: parts.vae.encode(pixels))
    return ImageEncoder(family, parts, torch.device("cpu"))


def test_a_vae_that_overflows_goes_on_in_full_precision(capsys):
    encode = encoder()
    assert torch.isfinite(encode(torch.zeros(2, 3, 8, 8), ["a.png", "b.png"])).all()
    assert encode.parts.vae.weight.dtype == torch.float32
    assert "--no_half_vae" in capsys.readouterr().err
    encode(torch.zeros(1, 3, 8, 8), ["c.png"])
    assert not capsys.readouterr().err


def test_a_picture_that_stays_without_numbers_is_named():
    pixels = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    with pytest.raises(UserError) as refused:
        encoder()(pixels, ["good.png", "bad.png"])
    assert "bad.png" in str(refused.value) and "good.png" not in str(refused.value)
