"""The record of an inversion: one schema, read once. What does not fit is refused by its name."""

import math
from typing import Any

import pytest
import torch
from problems import Gaussian, grid
from torch import Tensor

from inversion import DDIM, EasyInv, Grid, Inversion, InversionError, invert, sample
from inversion.record import record_bytes, record_memory


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def inversion() -> Inversion:
    return invert(Gaussian(), noise(2, 3, 4), grid("flow", 4), EasyInv())


@pytest.fixture(scope="module")
def ancestral() -> Inversion:
    added = list(noise(4, 2, 3, 4, seed=1))
    levels = Grid.from_sigmas([10.0, 3.0, 1.0, 0.3, 0.0], "ve", ancestral=True)
    return invert(Gaussian(), noise(2, 3, 4), levels, DDIM(), noise=added)


def with_value(value: Tensor, number: float) -> Tensor:
    changed = value.clone()
    changed.view(-1)[-1] = number
    return changed


@pytest.mark.parametrize("name", ["trajectory", "points", "slopes", "residuals", "noise"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_refused(ancestral: Inversion, name: str, number: float) -> None:
    record = ancestral.to_dict()
    with pytest.raises(InversionError, match=f"damaged: {name} holds NaN or infinity"):
        Inversion.from_dict(record | {name: with_value(record[name], number)})


TWO = [[0.0, 1.0, None], [0.5, 0.5, None]]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"format": 5}, "format 5; this version reads 2, 3, 4"),
    ({"format": torch.zeros(2)}, r"format torch\.float32 of shape \(2,\)"),
    ({"format": True}, "format True"),
    ({"kind": ["ve"]}, r"its kind is \['ve'\]"),
    ({"ancestral": 1}, "ancestral is 1, not true or false"),
    ({"levels": None}, "levels is missing, not a list"),
    ({"levels": "abc"}, "levels is 'abc'"),
    ({"levels": [[1.0, 0.5]] * 5}, "level 1 is 2 values, not a list of 3"),
    ({"levels": [*TWO, *TWO, [1.0, 0.0, [1]]]}, r"level 5's timestep is \[1\], not a number"),
    ({"levels": [[10**400, 1.0, None]] * 5}, "level 1's alpha is 10000.*000, not a number"),
    ({"levels": [[math.nan, 1.0, None]] * 5}, "level 1's alpha is nan"),
    ({"levels": [["1", 1.0, None]] * 5}, "level 1's alpha is '1'"),
    ({"levels": [[1.0, 1.0, None]] * 10_002}, "levels is 10002 values"),
    ({"kind": "ve", "levels": [[0.0, 5.0 - i, None] for i in range(5)]}, "its levels are not those of kind 've'"),
    ({"trajectory": None}, "trajectory is missing"),
    ({"trajectory": "none"}, "trajectory is 'none'"),
    ({"trajectory": torch.zeros(5, 2)}, r"trajectory is .* not floating point of shape \(5, B, C, \.\.\.\)"),
    ({"trajectory": torch.zeros(5, 0, 3, 4)}, "residuals is .*not floating"),
    ({"points": torch.zeros(4, 2, 3, 4, dtype=torch.float64)}, r"points is torch\.float64 .*, not torch\.float32"),
    ({"slopes": torch.zeros(3, 2, 3, 4)}, r"slopes is torch\.float32 of shape \(3, 2, 3, 4\), not .* \(4, 2, 3, 4\)"),
    ({"slopes": torch.zeros(4, 2, 3, 4).to(torch.float8_e5m2)}, "slopes is .*16 bits"),
    ({"residuals": torch.zeros(4)}, r"residuals is .* \(4,\), not .* \(4, 2\)"),
    ({"residuals": -torch.ones(4, 2)}, "the least residual is -1.0, not 0 or more"),
    ({"noise": torch.zeros(4, 2, 3, 4)}, "noise is .*, not absent"),
    ({"partner": torch.zeros(1)}, "partner is"),
    ({"partner": 5}, "partner is 5"),
    ({"calls": [1, 1, 1]}, "calls is 3 values, not a list of 4"),
    ({"calls": [1, 1, 1, 1.5]}, r"call count 4 is 1\.5"),
    ({"calls": [1, 1, 1, 2**64]}, "call count 4 is 18446744073709551616"),
    ({"calls": "1111"}, "calls is '1111'"),
    ({"tolerance": math.nan}, "tolerance is nan, not a number from 0"),
    ({"tolerance": "0"}, "tolerance is '0'"),
    ({"method": 7}, "method is 7"),
    ({"method": "a" * 1_000_000}, "method is 'aaa.{0,80}aaa', not a name of up to 200"),
    ({"method": "[x](javascript:y)"}, "method is"),
    ({"notes": "none"}, "notes is 'none'"),
    ({"notes": ["a" * 2001]}, "note 1 is"),
    ({"notes": ["\ud800"]}, "note 1 is"),
    ({"notes": [""] * 101}, "notes is 101 values"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_named(inversion: Inversion, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InversionError, match=message) as refusal:
        Inversion.from_dict(inversion.to_dict() | change)
    assert len(str(refusal.value)) < 400


def test_every_part_is_needed(ancestral: Inversion) -> None:
    record = ancestral.to_dict()
    for name in record:
        with pytest.raises(InversionError, match=r"missing|no format"):
            Inversion.from_dict({key: value for key, value in record.items() if key != name})


def test_a_record_of_format_2_still_opens(inversion: Inversion) -> None:
    old = inversion.to_dict() | {"format": 2, "residuals": inversion.worst}
    read = Inversion.from_dict(old)
    assert read.residuals.shape == inversion.residuals.shape
    assert torch.equal(read.worst, inversion.worst)
    assert read.verdict == inversion.verdict
    assert torch.equal(sample(Gaussian(), read.latent, read.grid, source=read), inversion.trajectory[0])
    with pytest.raises(InversionError, match=r"residuals is .* not .* \(4,\)"):
        Inversion.from_dict(inversion.to_dict() | {"format": 2})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_states_are_of_one_type_whichever(inversion: Inversion, dtype: torch.dtype) -> None:
    record = inversion.to_dict()
    of_type = record | {name: record[name].to(dtype) for name in ("trajectory", "points", "slopes")}
    assert Inversion.from_dict(of_type).latent.dtype == dtype


def test_each_picture_has_its_residual_and_the_worst_is_named() -> None:
    pictures = noise(3, 2, 5)
    together = invert(Gaussian(), pictures, grid("ve", 5), DDIM())
    alone = [invert(Gaussian(), one[None], grid("ve", 5), DDIM()) for one in pictures]
    torch.testing.assert_close(together.residuals, torch.cat([one.residuals for one in alone], 1))
    worst = max(range(3), key=lambda i: float(alone[i].residuals.max()))
    assert f"of picture {worst + 1} of 3" in together.report()
    assert "picture" not in alone[0].report()


def test_it_is_shown_in_a_line_and_is_equal_to_itself_only(inversion: Inversion) -> None:
    assert repr(inversion).startswith("Inversion(EasyInv, 4 steps of 'flow' up to sigma ")
    assert len(repr(inversion)) < 200
    assert inversion == inversion
    assert inversion != Inversion.from_dict(inversion.to_dict())
    assert len({inversion, inversion}) == 1


def test_its_size_is_known_before_it_starts(inversion: Inversion, ancestral: Inversion) -> None:
    for made in (inversion, ancestral):
        states = [made.trajectory, made.points, made.slopes, *([] if made.noise is None else [made.noise])]
        assert record_bytes(made.latent, 4, made.grid.ancestral) == sum(state.nbytes for state in states)
    with pytest.raises(InversionError, match=r"10000 steps of \(1, 4, 1000000000\) takes 480016\.0 GB.*fewer steps"):
        record_memory(torch.zeros(1).expand(1, 4, 10**9), 10_000, torch.device("cpu"))
