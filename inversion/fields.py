"""A record's values, each read as what it has to be or refused by its name. All raise InversionError."""

import re
import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import InversionError

LONGEST_NAME = 200  # characters
NAME = re.compile(rf"[\w.,+ -]{{1,{LONGEST_NAME}}}")  # of a class or two, a method: nothing that Markdown reads
ANEW = "Invert the picture again."
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def damaged(name: str, value: Any, fits: str) -> InversionError:
    """What to raise where `name` is `value` and should be what `fits` says."""
    return _damaged(name, shown(value), fits)


def _damaged(name: str, came: str, fits: str) -> InversionError:
    return InversionError(f"This inversion record is damaged: {name} is {came}, not {fits}. {ANEW}")


def shown(value: Any) -> str:
    """A value in a few words, however large it is."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if value is None:
        return "missing"
    try:
        return _short.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"a {type(value).__name__}"


def number(name: str, value: Any, least: float, most: float) -> float:
    """A finite number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise damaged(name, value, f"a number from {least:g} to {most:g}")
    return float(value)


def whole(name: str, value: Any, most: int) -> int:
    """An integer from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise damaged(name, value, f"a whole number from 0 to {most}")
    return value


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise damaged(name, value, "true or false")
    return value


def text(name: str, value: Any, longest: int) -> str:
    """A string of up to `longest` characters that can be written again (no lone surrogates)."""
    if not isinstance(value, str) or len(value) > longest or value != value.encode("utf-8", "replace").decode():
        raise damaged(name, value, f"a text of up to {longest} characters")
    return value


def title(name: str, value: Any) -> str:
    """The name of a class, a method or the like."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise damaged(name, value, f"a name of up to {LONGEST_NAME} letters and digits")
    return value


def items(name: str, value: Any, least: int, most: int) -> list[Any]:
    """A list of `least` to `most` values."""
    if not isinstance(value, list | tuple) or not least <= len(value) <= most:
        came = f"{len(value)} values" if isinstance(value, list | tuple) else shown(value)
        raise _damaged(name, came, f"a list of {least}" if least == most else f"a list of {least} to {most}")
    return list(value)


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise damaged(name, value, "values by name")
    return value


def floats(name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of finite floating-point numbers of 16 bits or more.

    Arguments:
        shape: that it must have; no size may be 0.
        dtype: that it must have; None for any.
    """
    if (
        not isinstance(value, Tensor)
        or not value.is_floating_point()
        or value.element_size() < 2
        or tuple(value.shape) != shape
        or not value.numel()
        or value.dtype != (dtype or value.dtype)
    ):
        raise damaged(name, value, f"{dtype or 'floating point'} of shape {shape}, with 16 bits or more")
    if not finite(value):
        raise InversionError(f"This inversion record is damaged: {name} holds NaN or infinity. {ANEW}")
    return value


def finite(value: Tensor) -> bool:
    """Whether all of a tensor's values are finite, with no copy of it: a record may take gigabytes."""
    return bool(torch.stack(value.aminmax()).isfinite().all())
