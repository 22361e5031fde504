"""Keeping the source's layout: the edit borrows the source's self-attention.

In self-attention, queries and keys say which places belong together, and values what is there. Computed from the
source's states, queries and keys make the edit arrange its own values as the source does (Plug-and-Play, arXiv
2211.12572, and the self-attention part of Prompt-to-Prompt, arXiv 2208.01626).
"""

from collections.abc import Callable
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


class SharedAttention:
    """A `Denoiser` that evaluates the source's state beside the edit's, in one batch, and shares its attention.

    It works wherever the host asks for attention: its one override of every model's attention function, on this run's
    own options, and chained with an override that is there already. Self-attention is told by as many keys as queries.
    The host may put the two conditionings of guidance into one call or two, in either order: within each, the first
    half of the items is the source.

    Where text and picture attend to each other as one (Flux, SD3), the text's queries and keys stay the edit's. They
    are the tokens at either end that source and edit have in common when they are first asked about: both are shown the
    edit's prompt, and the states of their pictures differ.

    Arguments:
        denoiser: the host's.
        source: the inversion; its states are the source's at every level.
        structure: how many steps and layers share.
    """

    def __init__(self, denoiser: HostDenoiser, source: Inversion, structure: Structure) -> None:
        self.denoiser, self.layers = denoiser, structure.layers
        count = round(structure.steps * source.grid.steps)
        self.points = dict(zip(source.grid.levels[:count], source.points.flip(0), strict=False))
        self.seen = self.total = self.evaluations = 0
        self.joint = True  # whether text and picture attend to each other as one, and no prompt is looked up apart
        self.text: dict[int, tuple[int, int]] = {}  # of attention over so many tokens: how many first and last are text

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        if level not in self.points:
            return self.denoiser(x, level)
        options = self.denoiser.options["model_options"].setdefault("transformer_options", {})
        before = options.get(OVERRIDE)
        self.seen, self.evaluations = 0, self.evaluations + 1
        self.text.clear()
        options[OVERRIDE] = self._attention(before)
        try:
            both = self.denoiser(torch.cat([self.points[level].to(x), x]), level)
        finally:
            if before is None:
                del options[OVERRIDE]
            else:
                options[OVERRIDE] = before
        if not self.seen:
            raise InversionError(
                "This model's self-attention cannot be shared, which structure needs. Set structure to 0. The other "
                "settings and masks work with every model."
            )
        self.total = self.seen  # at the first step source and edit are one state, so nothing is lost by counting there
        return both.chunk(2)[1]

    def _attention(self, before: Callable | None) -> Callable:
        def shared(attention: Callable, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Tensor:
            self.joint &= q.shape == k.shape
            if q.shape == k.shape:
                self.seen += 1
                prompts, tokens = len(named["transformer_options"]["cond_or_uncond"]), q.shape[-2]
                if tokens not in self.text:
                    self.text[tokens] = _in_common(q, prompts) if self.joint else (0, 0)
                if self.seen > self.total * (1 - self.layers):
                    q, k = (_of_source(part, prompts, *self.text[tokens]) for part in (q, k))
            if before is not None:
                return before(attention, q, k, v, *rest, **named)
            return attention(q, k, v, *rest, **named)

        return shared


def _of_source(part: Tensor, prompts: int, first: int = 0, last: int = 0) -> Tensor:
    """For each prompt's items, (source, edit), both made the source's but for so many tokens: (prompts * 2 B, ...)."""
    items = part.unflatten(0, (prompts, 2, -1))
    end = items.shape[-2] - last
    made = items[:, :1].expand_as(items)
    return torch.cat([items[..., :first, :], made[..., first:end, :], items[..., end:, :]], -2).flatten(0, 2)


def _in_common(part: Tensor, prompts: int) -> tuple[int, int]:
    """How many tokens at the beginning or (the other is 0) at the end source and edit have in common; 0 if all."""
    items = part.unflatten(0, (prompts, 2, -1))
    same = (items[:, 0] == items[:, 1]).movedim(-2, 0).flatten(1).all(1).long()
    first, last = (int(run.cumprod(0).sum()) for run in (same, same.flip(0)))
    if first == len(same):
        return 0, 0
    return (first, 0) if first >= last else (0, last)
