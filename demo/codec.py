"""Pictures <-> latents: a linear transform of overlapping windows, 32 numbers for each 8 x 8 pixels.

Two orthonormal steps. First each line of pixels is mixed across the borders of its 8-pixel blocks (the pre-filter of a
lapped orthogonal transform). Then each block is described by the leading principal components of the training
pictures' blocks. Together they describe windows of 16 x 16 pixels that overlap and fade out, so a wrong latent shows
soft blobs, no blocks. Both steps are isometries: an error in the latent *is* the error in the picture (with pixels in
[-1, 1]), and `encode(decode(latent))` gives the latent back.
"""

import math
from functools import cache

import torch
from torch import Tensor, nn

PATCH = 8
CHANNELS = 32


def _cosines(kind: int, n: int) -> Tensor:
    """The orthonormal discrete cosine transform of type 2 or 4, (n, n): one basis function a row."""
    k, t = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64) + 0.5
    if kind == 4:
        return math.sqrt(2 / n) * torch.cos(math.pi / n * (k + 0.5) * t)
    rows = math.sqrt(2 / n) * torch.cos(math.pi / n * k * t)
    rows[0] /= math.sqrt(2)
    return rows


@cache
def border_mix(size: int) -> Tensor:
    """The orthogonal matrix that mixes the pixels of a line on both sides of each block border, (size, size).

    Of Tran, Liang and Tu's time-domain lapped transforms (2003) the orthogonal one. It leaves constants as they are,
    and the half blocks at both ends of the line.
    """
    half = PATCH // 2
    one, flip = torch.eye(half, dtype=torch.float64), torch.eye(half, dtype=torch.float64).flip(0)
    butterfly = torch.cat([torch.cat([one, flip], 1), torch.cat([flip, -one], 1)]) / math.sqrt(2)
    turn = flip @ _cosines(2, half).T @ _cosines(4, half) @ flip
    mix = butterfly @ torch.block_diag(one, turn) @ butterfly
    ends = torch.eye(half, dtype=torch.float64)
    return torch.block_diag(ends, *[mix] * (size // PATCH - 1), ends)


class LappedCodec(nn.Module):
    """`encode` (B, 3, H, W) in [-1, 1] -> (B, 32, H/8, W/8); `decode` the other way."""

    mean: Tensor
    basis: Tensor

    def __init__(self, channels: int = CHANNELS, lapped: bool = True) -> None:
        """Without `lapped` it is the plain transform of blocks, to compare with."""
        super().__init__()
        self.channels, self.lapped = channels, lapped
        self.register_buffer("mean", torch.zeros(3 * PATCH * PATCH))
        self.register_buffer("basis", torch.zeros(channels, 3 * PATCH * PATCH))  # orthonormal rows

    def fit(self, pictures: Tensor) -> float:
        """Set the basis from pictures (N, 3, H, W) in [-1, 1]; returns the share of variance it keeps."""
        patches = self._patches(pictures).movedim(1, -1).flatten(0, -2).double()
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        values, vectors = torch.linalg.eigh(covariance)  # ascending
        basis = vectors[:, -self.channels :].flip(1).T
        self.mean.copy_(mean)
        self.basis.copy_(basis * basis.sum(1, keepdim=True).sign())  # a sign convention, so that refits agree
        return float(values[-self.channels :].sum() / values.sum())

    def _mixes(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """What mixes the rows and the columns of these pictures."""
        height, width = pictures.shape[-2:]
        if not self.lapped:
            return torch.eye(height).to(pictures), torch.eye(width).to(pictures)
        return border_mix(height).to(pictures), border_mix(width).to(pictures)

    def _patches(self, pictures: Tensor) -> Tensor:
        rows, columns = self._mixes(pictures)
        return nn.functional.pixel_unshuffle(rows @ pictures @ columns.T, PATCH)

    def encode(self, pictures: Tensor) -> Tensor:
        if min(pictures.shape[-2:]) < PATCH:
            raise ValueError(
                f"The demo model takes pictures of {PATCH} x {PATCH} pixels or more (it was trained on 128 x 128), and "
                "this one is smaller. Scale it up."
            )
        centred = self._patches(pictures) - self.mean.to(pictures)[:, None, None]
        return torch.einsum("cp,bphw->bchw", self.basis.to(pictures), centred)

    def decode(self, latents: Tensor) -> Tensor:
        if latents.shape[1] != len(self.basis):
            raise ValueError(
                f"The demo model takes latents of {len(self.basis)} channels, got {latents.shape[1]}, shape "
                f"{tuple(latents.shape)}. Decode what the demo model's own VAE or sampler made."
            )
        patches = torch.einsum("cp,bchw->bphw", self.basis.to(latents), latents)
        mixed = nn.functional.pixel_shuffle(patches + self.mean.to(latents)[:, None, None], PATCH)
        rows, columns = self._mixes(mixed)
        return rows.T @ mixed @ columns
