"""The picture of an Inversion Report: original, reconstruction, their difference, and the residuals of the steps."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..inversion.verdict import CLOSE, ROUGH, Grade

ROWS = 4  # pictures of a batch that are shown
LARGEST_FACTOR = 64  # of the difference: above it one would look at the rounding of 8-bit pictures
INK, FAINT, PAPER, LINE = (32, 32, 36), (125, 125, 132), (250, 250, 250), (38, 90, 190)
# What residuals up to a bound promise without the record, as the inversion's own verdict has it.
COLOURS: dict[Grade, tuple[int, int, int]] = {"good": (30, 122, 68), "fair": (166, 110, 0), "poor": (186, 44, 40)}
ZONES = ((CLOSE, "accurate", (223, 243, 226)), (ROUGH, "fair", (253, 243, 214)), (math.inf, "rough", (250, 222, 220)))


@dataclass(frozen=True)
class Layout:
    """Where things are on the drawing, in its pixels.

    Arguments:
        width, height: of a picture on it.
        rows: how many rows of pictures.
        lines: how many lines the verdict has.
    """

    width: int
    height: int
    rows: int
    lines: int

    @property
    def text(self) -> int:
        """The letters' size. It goes with the pictures', because a preview shrinks the drawing as a whole."""
        return round(self.width / 16)

    @property
    def large(self) -> int:
        """The size of the verdict's letters."""
        return round(self.width / 9)

    @property
    def banner(self) -> int:
        """The height of the verdict's colour."""
        return self.lines * round(1.3 * self.large) + self.text

    @property
    def line(self) -> int:
        return round(1.5 * self.text)

    @property
    def whole(self) -> int:
        """The width between the margins."""
        return 3 * self.width + 2 * self.text

    @property
    def headings(self) -> int:
        """The top of the columns' headings."""
        return self.banner + self.text // 2

    def cell(self, row: int, column: int) -> tuple[int, int]:
        """(left, top) of a picture; the columns are original, reconstruction, difference."""
        left = self.text + column * (self.width + self.text)
        return left, self.headings + self.line + row * (self.height + 2 * self.line)

    @property
    def plot(self) -> tuple[int, int]:
        """(width, height) of the residuals; they stand where one more row would begin."""
        return self.whole, round(0.5 * self.width)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of it all."""
        _, top = self.cell(self.rows, 0)
        return self.whole + 2 * self.text, top + self.plot[1] + self.text


def draw(
    original: Tensor,
    came: Tensor,
    near_by: list[str],
    residuals: Tensor,
    verdict: str,
    grade: Grade = "good",
    mask: Tensor | None = None,
) -> Tensor:
    """All of it as one picture, (1, H, W, 3).

    Arguments:
        original, came: pictures, (B, H, W, 3) from 0 to 1; of more than ROWS some are drawn, the first and last too.
        near_by: how near each came, in words.
        residuals: one for each step, clean end first, (N,).
        verdict: what it all says, in a sentence.
        grade: its colour.
        mask: outlined on the pictures, (B or 1, h, w) of their shape.
    """
    chosen = sorted({round(i) for i in torch.linspace(0, len(original) - 1, ROWS).tolist()})
    difference = (original[chosen] - came[chosen]).abs()
    factor = _factor(difference)
    columns = [_sized(images) for images in (original[chosen], came[chosen], (factor * difference).clamp(max=1))]
    height, width = columns[0].shape[1:3]
    if mask is not None:
        every = mask[chosen] if len(mask) == len(original) else mask.amax(0, keepdim=True)
        columns[:2] = [_outlined(images, every) for images in columns[:2]]

    layout = Layout(width, height, len(chosen), 1)
    font, large = ImageFont.load_default(layout.text), ImageFont.load_default(layout.large)
    words = _wrapped(verdict, large, layout.whole)
    layout = Layout(width, height, len(chosen), len(words))
    page = Image.new("RGB", layout.size, PAPER)
    pen = ImageDraw.Draw(page)
    pen.rectangle((0, 0, layout.size[0], layout.banner), COLOURS[grade])
    for i, line in enumerate(words):
        pen.text((layout.text, layout.text // 2 + i * round(1.3 * layout.large)), line, (255, 255, 255), large)
    for column, heading in enumerate(("original", "without the record", f"difference, {factor} times")):
        pen.text((layout.cell(0, column)[0], layout.headings), heading, FAINT, font)
        for row, i in enumerate(chosen):
            left, top = layout.cell(row, column)
            page.paste(_as_image(columns[column][row]), (left, top))
            below = ("" if len(original) == 1 else f"{i + 1} of {len(original)}", near_by[i], "")
            pen.text((left, top + height + layout.text // 4), below[column], FAINT, font)
    page.paste(_plot(layout, residuals), layout.cell(layout.rows, 0))
    return torch.from_numpy(np.asarray(page).astype(np.float32) / 255)[None]


def _factor(difference: Tensor) -> int:
    """How many times a difference can be enlarged, as a power of 2, with 999 values of 1000 staying below 1."""
    most = float(np.quantile(difference.numpy(), 0.999))
    return min(LARGEST_FACTOR, 2 ** max(0, math.floor(-math.log2(most)))) if most > 0 else LARGEST_FACTOR


def _sized(images: Tensor) -> Tensor:
    """Pictures (B, H, W, 3) at a size to look at: small ones with their pixels as squares, large ones averaged."""
    height, width = images.shape[1:3]
    larger = max(1, min(math.ceil(320 / width), 1600 // height))
    smaller = math.ceil(max(height, width) / 1024)
    if larger > 1:
        return images.repeat_interleave(larger, 1).repeat_interleave(larger, 2)
    size = (height // smaller, width // smaller)
    return torch.nn.functional.interpolate(images.movedim(-1, 1), size, mode="area").movedim(1, -1)


def _outlined(images: Tensor, mask: Tensor) -> Tensor:
    """The edge of a mask on pictures (B, H, W, 3): a white line in a dark one, around what is white in the mask."""
    size = images.shape[1:3]
    inside = torch.nn.functional.interpolate((mask[:, None] >= 0.5).float(), size, mode="nearest-exact")
    thick = max(1, round(size[1] / 200))
    rings = [torch.nn.functional.max_pool2d(inside, 2 * n * thick + 1, 1, n * thick) for n in (1, 2, 3)]
    dark, white = (rings[2] - inside).movedim(1, -1), (rings[1] - rings[0]).movedim(1, -1)
    return torch.where(white > 0, 1.0, torch.where(dark > 0, 0.1, images))


def _as_image(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().to(torch.uint8).numpy())


def _wrapped(words: str, font: Any, width: int) -> list[str]:
    """The words in lines that are no wider than that."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _plot(layout: Layout, residuals: Tensor) -> Image.Image:
    """The residuals over the steps on a logarithmic scale, and what they promise."""
    page = Image.new("RGB", (2 * layout.plot[0], 2 * layout.plot[1]), PAPER)  # twice the size, for smooth lines
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(2 * layout.text)
    line = 2 * layout.line
    left, top, right, bottom = 4 * layout.text, line, page.width, page.height - line

    values = residuals.cpu().double().nan_to_num(1e8).clamp(1e-8, 1e8).log10().tolist()
    lowest, highest = min(-3, math.floor(min(values))), max(0, math.ceil(max(values)))

    def height(decade: float) -> float:
        return bottom - (min(decade, highest) - lowest) / (highest - lowest) * (bottom - top)

    pen.text((left, 0), "residual of each step, 0 = exact", FAINT, font)
    legend = right
    for (bound, promise, colour), below in reversed([*zip(ZONES, (10.0**lowest, CLOSE, ROUGH), strict=True)]):
        pen.rectangle((left, height(math.log10(bound)), right, height(math.log10(below))), colour)
        pen.text((legend, 0), promise, FAINT, font, anchor="ra")
        legend -= round(font.getlength(promise)) + layout.text // 2
        pen.rectangle((legend - 2 * layout.text, 0, legend, 2 * layout.text), colour)
        legend -= 4 * layout.text
    for decade in range(highest, lowest - 1, -1 if highest - lowest <= 6 else -2):
        pen.line((left, height(decade), right, height(decade)), (225, 225, 228), 2)
        pen.text((left - layout.text // 2, height(decade)), f"1e{decade}", FAINT, font, anchor="rm")
    under = bottom + layout.text // 2
    pen.text((left, under), "step 1, clean", FAINT, font)
    pen.text((right, under), f"step {len(values)}, noisy", FAINT, font, anchor="ra")

    margin = 2 * layout.text
    across = [left + margin + (right - left - 2 * margin) * (i + 0.5) / len(values) for i in range(len(values))]
    points = [(x, height(value)) for x, value in zip(across, values, strict=True)]
    pen.line(points, LINE, max(2, layout.text // 3), joint="curve")
    if len(points) <= 100:
        for point in points:
            pen.circle(point, layout.text / 3, LINE)
    return page.resize(layout.plot, Image.Resampling.LANCZOS)
