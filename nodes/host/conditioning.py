"""A prompt that travels in an inversion record: a CONDITIONING as plain values and tensors, without live objects."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...inversion import InversionError
from ...inversion import fields as checked

KEY = "prompt"
MOST_ENTRIES = 16
MOST_TOKENS = 1 << 16
TENSORS = (
    "pooled_output", "attention_mask", "mask", "conditioning_llama3", "conditioning_lyrics", "t5xxl_ids",
    "t5xxl_weights", "concat_latent_image", "concat_mask",
)  # fmt: skip
NUMBERS = (
    "strength", "mask_strength", "guidance", "start_percent", "end_percent", "clip_start_percent", "clip_end_percent",
    "width", "height", "crop_w", "crop_h", "target_width", "target_height", "aesthetic_score", "lyrics_strength",
    "frame_rate",
)  # fmt: skip
FLAGS = ("set_area_to_bounds",)
CROSS_ATTENTION = "cross_attention"


def packed(conditioning: Any) -> tuple[dict[str, Any], str]:
    """A CONDITIONING as values for a record's dictionary, and a sentence for the report.

    The tensors keep their dtype. In half precision the source's prompt would no longer predict the source exactly.
    The values are empty where the prompt holds what a record does not take, such as a ControlNet; the sentence says so.
    """
    entries: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}

    def placed(name: str, value: Tensor) -> dict[str, str]:
        key = f"{KEY}.{len(tensors)}.{name}"
        tensors[key] = value.detach().cpu().contiguous()
        return {"tensor": key}

    for context, options in conditioning:
        entry: dict[str, Any] = {CROSS_ATTENTION: placed(CROSS_ATTENTION, context)}
        for name, value in options.items():
            if value is None:
                continue
            if name in TENSORS and isinstance(value, Tensor):
                entry[name] = placed(name, value)
            elif (name in FLAGS and isinstance(value, bool)) or (name in NUMBERS and type(value) in (int, float)):
                entry[name] = value
            elif name == "area" and _is_area(value):
                entry[name] = list(value)
            else:
                return {}, f"The prompt does not travel with the latent, because it holds {name!r}."
        entries.append(entry)
    if len(entries) > MOST_ENTRIES:
        return {}, f"The prompt does not travel with the latent, because it has more than {MOST_ENTRIES} parts."
    size = sum(value.nbytes for value in tensors.values())
    return {KEY: entries, **tensors}, f"The prompt travels with the latent ({max(size / 1e6, 0.1):.1f} MB)."


def unpacked(record: Mapping[str, Any]) -> list | None:
    """The CONDITIONING that `packed` put into a record's dictionary; None where there is none.

    Raises:
        InversionError: it is damaged.
    """
    if record.get(KEY) is None:
        return None
    made = []
    for i, entry in enumerate(checked.items("the prompt", record[KEY], 1, MOST_ENTRIES)):
        where = f"part {i + 1} of the prompt"
        entry = checked.mapping(where, entry)
        options: dict[str, Any] = {}
        for name, value in entry.items():
            called = f"{name[:40]} of {where}"
            if name == CROSS_ATTENTION or name in TENSORS:
                options[name] = _tensor(called, value, record, 3 if name == CROSS_ATTENTION else 1)
            elif name in NUMBERS:
                options[name] = checked.number(called, value, -1e6, 1e6)
                options[name] = value  # a whole number stays one
            elif name in FLAGS:
                options[name] = checked.flag(called, value)
            elif name == "area" and _is_area(value):
                options[name] = tuple(value)
            else:
                raise checked.damaged(where, name, "a value that a prompt has")
        if CROSS_ATTENTION not in options:
            raise checked.damaged(f"{CROSS_ATTENTION} of {where}", None, "a tensor")
        made.append([options.pop(CROSS_ATTENTION), options])
    return made


def picked(conditioning: list, places: list[int], batch: int) -> list:
    """A CONDITIONING of these pictures of a batch: what it has for each of `batch` pictures is picked, too."""

    def of(value: Any) -> Any:
        single = not isinstance(value, Tensor) or batch == 1 or value.ndim == 0 or len(value) != batch
        return value if single else value.index_select(0, torch.tensor(places, device=value.device))

    return [[of(context), {name: of(value) for name, value in options.items()}] for context, options in conditioning]


def check_alike(source: list, positive: Any) -> None:
    """See that a record's prompt is of the text encoder that made the edit's.

    Raises:
        InversionError: their tensors have different widths.
    """
    for context, options in source:
        for other, its in positive:
            for name, a, b in (
                ("embeddings", context, other),
                ("pooled embeddings", options.get("pooled_output"), its.get("pooled_output")),
            ):
                if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape[-1] != b.shape[-1]:
                    raise InversionError(
                        f"The inversion's prompt has {name} of width {a.shape[-1]}, the edit's of width {b.shape[-1]}. "
                        "Encode the new prompt with the text encoder of the inversion, or connect the old prompt as "
                        "`source` in Edit Settings."
                    )


def _tensor(called: str, value: Any, record: Mapping[str, Any], least: int) -> Tensor:
    key = checked.mapping(called, value).get("tensor")
    tensor = record.get(key) if isinstance(key, str) and key.startswith(f"{KEY}.") else None
    fits = "a tensor with finite values"
    if not isinstance(tensor, Tensor) or not least <= tensor.ndim <= 5 or not tensor.numel() > 0:
        raise checked.damaged(called, tensor, fits)
    if tensor.shape[-2 if tensor.ndim > 1 else -1] > MOST_TOKENS:
        raise checked.damaged(called, tensor, f"{fits}, of up to {MOST_TOKENS} tokens")
    if tensor.is_floating_point() and (tensor.element_size() < 2 or not checked.finite(tensor)):
        raise checked.damaged(called, tensor, fits)
    return tensor


def _is_area(value: Any) -> bool:
    """(height, width, top, left) and the like, or the same as shares after the word "percentage"."""
    if not isinstance(value, list | tuple) or len(value) not in (4, 5, 6, 7):
        return False
    numbers = value[1:] if value[0] == "percentage" else value
    return len(numbers) % 2 == 0 and all(type(n) in (int, float) and 0 <= n <= 1e6 for n in numbers)
