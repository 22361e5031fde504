"""Keeping the source's layout: the edit borrows the source's self-attention.

In self-attention, queries and keys say which places belong together, and values what is there. Computed for the source,
queries and keys make the edit arrange its own values as the source does (Plug-and-Play, arXiv 2211.12572, and the
self-attention part of Prompt-to-Prompt, arXiv 2208.01626).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...inversion import Inversion, InversionError, Level
from .guider import HostDenoiser

OVERRIDE = "optimized_attention_override"


@dataclass(frozen=True)
class Structure:
    """How much of the source's self-attention an edit borrows.

    Arguments:
        steps: share of the steps, from the noisy end.
        layers: share of the self-attention layers, from the last.
    """

    steps: float = 0.0
    layers: float = 1.0


Item = tuple[int, int]
"""Which prompt of a call (0: positive, 1: negative) and, where it has several parts, which of them."""


class SharedAttention:
    """A `Denoiser` of the edit that borrows from an evaluation of the source just before.

    Where the edit asks the model about the source's prompt anyway, this evaluation is the one to borrow from, at no
    further cost. Otherwise the source's own state is evaluated under the edit's prompt, which is a call more. So it is,
    too, where text and picture attend to each other as one (Flux, SD3): there two prompts' tokens cannot be told from
    the picture's, but under one prompt they can. They are those at either end that both evaluations have in common, and
    their queries and keys stay the edit's.

    Queries and keys of one evaluation are kept until the edit has used them, on the device that they are on. Fewer
    `layers` need less of it.

    It works wherever the host asks for attention: its one override of every model's attention function, on this run's
    own options, and chained with an override that is there already. Self-attention is told by as many keys as queries.

    Arguments:
        denoiser: the host's.
        source: the inversion; its points are the source's states.
        structure: how many steps and layers share.
    """

    def __init__(self, denoiser: HostDenoiser, source: Inversion, structure: Structure) -> None:
        self.denoiser, self.layers = denoiser, structure.layers
        count = round(structure.steps * source.grid.steps)
        self.points = dict(zip(source.grid.levels[:count], source.points.flip(0), strict=False))
        self.evaluations = 0
        self._kept: dict[Item, list[tuple[Tensor, Tensor] | None]] = {}  # queries and keys of each layer
        self._joint = True  # whether text and picture attend to each other as one, and no prompt is looked up apart
        self._sizes: set[int] = set()  # numbers of tokens that attention was kept for
        self._first = 0  # the first layer that borrows, once their number is known
        # Of attention over so many tokens: how many of the first and of the last are text.
        self._text: dict[int, tuple[int, int]] = {}

    def of_source(self, x: Tensor, level: Level) -> Tensor:
        """The model under the source's prompt, to borrow from next."""
        if level not in self.points:
            return self.denoiser.of_source(x, level)
        with self._attention(self._keep):
            denoised = self.denoiser.of_source(x, level)
        if self._joint:
            self._forget()
        return denoised

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        if level not in self.points:
            return self.denoiser(x, level)
        if not self._kept:
            self.evaluations += 1
            with self._attention(self._keep):
                self.denoiser(self.points[level].to(x), level)
        if not self._kept:
            raise InversionError(
                "This model's self-attention cannot be shared, which structure needs. Set structure to 0. The other "
                "settings and masks work with every model."
            )
        try:
            with self._attention(self._borrow):
                return self.denoiser(x, level)
        finally:
            self._forget()

    @contextmanager
    def _attention(self, change: Callable[[list[Item], int, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Iterator[None]:
        """While this lasts, queries and keys of self-attention go through `change`: (items, layer, q, k) -> (q, k)."""
        options = self.denoiser.options["model_options"].setdefault("transformer_options", {})
        before = options.get(OVERRIDE)
        call: Any = None  # the host's own list of a call's prompts is new in every call
        layer, items = 0, list[Item]()
        parts: Counter[int] = Counter()

        def shared(attention: Callable, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Tensor:
            nonlocal call, layer, items
            prompts = named["transformer_options"]["cond_or_uncond"]
            if prompts is not call:
                call, layer, items = prompts, 0, []
                for prompt in prompts:
                    items.append((prompt, parts[prompt]))
                    parts[prompt] += 1
            if q.shape == k.shape:
                q, k = change(items, layer, q, k)
                layer += 1
            else:
                self._joint = False
            if before is not None:
                return before(attention, q, k, v, *rest, **named)
            return attention(q, k, v, *rest, **named)

        options[OVERRIDE] = shared
        try:
            yield
        finally:
            if before is None:
                del options[OVERRIDE]
            else:
                options[OVERRIDE] = before

    def _keep(self, items: list[Item], layer: int, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        # What no layer borrows is not kept, but for the first of each size, in which text is told from picture.
        needed = layer >= self._first or q.shape[-2] not in self._sizes
        self._sizes.add(q.shape[-2])
        for item, *pair in zip(items, q.chunk(len(items)), k.chunk(len(items)), strict=True):
            self._kept.setdefault(item, []).append((pair[0], pair[1]) if needed else None)
        return q, k

    def _forget(self) -> None:
        self._kept.clear()
        self._sizes.clear()
        self._text.clear()

    def _borrow(self, items: list[Item], layer: int, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        any_item = next(iter(self._kept.values()))  # for an item that the source does not have, such as a negative
        self._first = math.ceil(len(any_item) * (1 - self.layers))
        pairs = [pair for item in items if (pair := self._kept.get(item, any_item)[layer])]
        if not pairs:
            return q, k
        source_q, source_k = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        if source_q.shape != q.shape:
            raise InversionError(
                "structure borrows from the original's prompt, and that covers another part of the picture than the "
                "new prompt. Set structure to 0, or set both prompts for the whole picture."
            )
        tokens = q.shape[-2]
        if tokens not in self._text:
            self._text[tokens] = _in_common(source_q, q) if self._joint else (0, 0)
        if layer < self._first:
            return q, k
        text = self._text[tokens]
        return _picture(source_q, q, *text), _picture(source_k, k, *text)


def _picture(source: Tensor, edit: Tensor, first: int, last: int) -> Tensor:
    """The source's tokens, but for so many first and last ones, which are the edit's."""
    end = source.shape[-2] - last
    return torch.cat([edit[..., :first, :], source[..., first:end, :], edit[..., end:, :]], -2)


def _in_common(source: Tensor, edit: Tensor) -> tuple[int, int]:
    """How many tokens at the beginning or (the other is 0) at the end source and edit have in common; 0 if all."""
    same = (source == edit).movedim(-2, 0).flatten(1).all(1).long()
    first, last = (int(run.cumprod(0).sum()) for run in (same, same.flip(0)))
    if first == len(same):
        return 0, 0
    return (first, 0) if first >= last else (0, last)
