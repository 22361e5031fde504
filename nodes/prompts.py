"""CONDITIONING of a batch of frames that leads from one prompt to another."""

import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..inversion import InversionError

REPEATS = 4  # of the shorter prompt at most, as when the host brings prompts to one length


def faded(first: Any, last: Any, t: Tensor) -> list:
    """One CONDITIONING for a batch of frames, from `first` at t 0 to `last` at t 1; all their tensors change evenly.

    Raises:
        InversionError: they differ in something else, with the way out.
    """
    if len(first) != len(last):
        raise _cannot(f"a number of entries ({len(first)} and {len(last)})")
    made = []
    for (x, x_options), (y, y_options) in zip(first, last, strict=True):
        length = math.lcm(x.shape[1], y.shape[1]) if x.ndim == y.ndim == 3 else 0
        if length > REPEATS * min(x.shape[1], y.shape[1]):
            raise _cannot(f"their length ({x.shape[1]} and {y.shape[1]} tokens)")
        if length:  # repeating all tokens leaves cross-attention as it is
            x, y = (part.repeat(1, length // part.shape[1], 1) for part in (x, y))
        names = dict.fromkeys(chain(x_options, y_options))
        options = {name: _faded(name, x_options.get(name), y_options.get(name), t) for name in names}
        made.append([_faded("their embeddings", x, y, t), options])
    return made


def _faded(name: str, x: Any, y: Any, t: Tensor) -> Any:
    if _same(x, y):
        return x
    tensors = isinstance(x, Tensor) and isinstance(y, Tensor)
    if not tensors or x.shape != y.shape or len(x) != 1 or not x.is_floating_point():
        raise _cannot(name)
    return torch.lerp(x, y.to(x), t.to(x).reshape(-1, *[1] * (x.ndim - 1)))


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x.shape == y.shape and torch.equal(x, y)
    if isinstance(x, list | tuple) and isinstance(y, list | tuple):
        return len(x) == len(y) and all(map(_same, x, y))
    plain = (int, float, str, type(None))
    return x is y or (isinstance(x, plain) and isinstance(y, plain) and x == y)


def _cannot(what: str) -> InversionError:
    return InversionError(
        f"The two prompts differ in {what}, which cannot be faded as embeddings. Set prompts to predictions, which "
        "takes any two prompts, or use the same one for both pictures."
    )


def shared(first: Any, last: Any, t: Tensor, dimensions: torch.Size) -> list:
    """A CONDITIONING of both prompts, each with as much of a say in a frame as `t` gives it.

    The host averages what prompts predict, weighted by their masks; here the weight is a frame's.

    Arguments:
        dimensions: of the latent, without batch and channels.

    Raises:
        InversionError: a prompt is for an area, whose edge the host would draw otherwise beside a mask.
    """
    made = []
    for prompt, weight in ((first, 1 - t), (last, t)):
        for tensor, options in prompt:
            if "area" in options and "mask" not in options:
                raise InversionError(
                    "A prompt for an area (Conditioning Set Area) has no weight for each frame. Use Conditioning Set "
                    "Mask in its place."
                )
            mask = options.get("mask", torch.ones(dimensions))
            mask = mask if mask.ndim > len(dimensions) else mask.unsqueeze(0)
            made.append([tensor, {**options, "mask": mask * weight.to(mask).reshape(-1, *[1] * len(dimensions))}])
    return made
