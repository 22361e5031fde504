"""Compact records: half the size, and the same prompt gives the clean latent back to rounding."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import KINDS, Mixture, grid
from torch import Tensor

from inversion import DDIM, EasyInv, FixedPoint, Grid, Inversion, InversionError, Level, invert, psnr, sample
from inversion.files import write_record

METHODS = {"DDIM": DDIM(), "EasyInv": EasyInv(0.5, 0.2, 0.3), "fixed point": FixedPoint(3)}
STEPS, BLENDED = 20, list(range(5, 10))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def size(record: dict[str, Any]) -> int:
    return sum(part.nbytes for part in record.values() if isinstance(part, Tensor))


def inverted(kind: str = "flow", method: str = "EasyInv") -> Inversion:
    return invert(Mixture(), noise(2, 3, 40), grid(kind, STEPS), METHODS[method])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_half_the_size_and_the_latent_back_to_rounding(kind: str, method: str, tmp_path: Path) -> None:
    full = inverted(kind, method)
    record = full.to_dict(compact=True)
    assert record["bent"] == (BLENDED if method == "EasyInv" else [])
    assert size(record) / size(full.to_dict()) < (1.5 * STEPS + 2 + len(record["bent"]) / 2) / (3 * STEPS + 1)
    write_record(tmp_path / "compact", record)
    read = Inversion.load(tmp_path / "compact")
    assert torch.equal(read.trajectory, full.trajectory)
    back = sample(Mixture(), read.latent, read.grid, source=read)
    assert psnr(full.trajectory[0], back) > 90
    exact = sample(Mixture(), full.latent, full.grid, source=full)
    assert psnr(full.trajectory[0], exact) > psnr(full.trajectory[0], back)
    for name in ("points", "slopes"):
        torch.testing.assert_close(getattr(read, name), getattr(full, name), rtol=1e-3, atol=1e-3)
    again = Inversion.from_dict(read.to_dict(compact=True))  # nothing more is lost the second time
    assert psnr(again.points, read.points) > 120


def test_ancestral_steps_and_steps_that_do_not_move() -> None:
    ancestral = Grid.from_sigmas([10.0, 3.0, 1.0, 0.3, 0.0], "ve", ancestral=True)
    still = Grid((Level(0.6, 0.8), Level(0.8, 0.6), Level(0.8, 0.6)), "vp")
    for levels, added in ((ancestral, list(noise(4, 2, 3, 40, seed=1))), (still, None)):
        full = invert(Mixture(), noise(2, 3, 40), levels, DDIM(), noise=added)
        record = full.to_dict(compact=True)
        read = Inversion.from_dict(record)
        torch.testing.assert_close(read.slopes, full.slopes, rtol=1e-3, atol=1e-3)
        assert psnr(full.trajectory[0], sample(Mixture(), read.latent, levels, source=read)) > 90
        if levels is still:
            with pytest.raises(InversionError, match=r"bent is .*, not with step 0, which does not move"):
                Inversion.from_dict(record | {"bent": []})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": None}, "offsets is missing"),
        ({"offsets": torch.zeros(STEPS, 2, 3, 40)}, r"offsets is torch\.float32 .*, not torch\.float16"),
        ({"offsets": torch.zeros(STEPS, 2, 3, 41).half()}, "offsets is .* of shape"),
        ({"offsets": torch.full((STEPS, 2, 3, 40), math.nan).half()}, "offsets holds NaN"),
        ({"bends": None}, "bends is missing"),
        ({"bends": torch.zeros(1, 2, 3, 40).half()}, "bends is .* of shape"),
        ({"bent": None}, "bent is missing"),
        ({"bent": [STEPS]}, f"a bent step is {STEPS}, not a whole number from 0 to {STEPS - 1}"),
        ({"bent": [1, 1]}, r"bent is \[1, 1\], not each step once"),
        ({"trajectory": torch.full((STEPS + 1, 2, 3, 40), 3e38)}, None),
        ({"trajectory": 3e38 * noise(STEPS + 1, 2, 3, 40).sign()}, "holds NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str | None) -> None:
    record = inverted().to_dict(compact=True) | change
    if message is None:
        assert Inversion.from_dict(record).points.isfinite().all()
        return
    with pytest.raises(InversionError, match=message):
        Inversion.from_dict(record)
