"""Pictures <-> latents: each 4 x 4 patch of pixels becomes the 16 leading coefficients of a fixed orthonormal basis.

Principal components of the training pictures' patches: linear, so the autoencoder's own error is known and small,
and an isometry on its range, so an error in the latent *is* the error in the picture (with pixels in [-1, 1]).
"""

import torch
from torch import Tensor, nn

PATCH = 4
CHANNELS = 16


class PatchCodec(nn.Module):
    """`encode` (B, 3, H, W) in [-1, 1] -> (B, 16, H/4, W/4); `decode` the other way."""

    mean: Tensor
    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3 * PATCH * PATCH))
        self.register_buffer("basis", torch.zeros(CHANNELS, 3 * PATCH * PATCH))  # orthonormal rows

    def fit(self, pictures: Tensor) -> float:
        """Set the basis from pictures (N, 3, H, W) in [-1, 1]; returns the share of variance it keeps."""
        patches = self._patches(pictures).double()
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        values, vectors = torch.linalg.eigh(covariance)  # ascending
        basis = vectors[:, -CHANNELS:].flip(1).T
        self.mean.copy_(mean)
        self.basis.copy_(basis * basis.sum(1, keepdim=True).sign())  # a sign convention, so that refits agree
        return float(values[-CHANNELS:].sum() / values.sum())

    @staticmethod
    def _patches(pictures: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(pictures, PATCH).movedim(1, -1).flatten(0, -2)

    def encode(self, pictures: Tensor) -> Tensor:
        if min(pictures.shape[-2:]) < PATCH:
            raise ValueError(
                f"The demo model takes pictures of {PATCH} x {PATCH} pixels or more (it was trained on 64 x 64), and "
                "this one is smaller. Scale it up."
            )
        patches = nn.functional.pixel_unshuffle(pictures, PATCH)
        centred = patches - self.mean.to(patches)[:, None, None]
        return torch.einsum("cp,bphw->bchw", self.basis.to(patches), centred)

    def decode(self, latents: Tensor) -> Tensor:
        if latents.shape[1] != len(self.basis):
            raise ValueError(
                f"The demo model takes latents of {len(self.basis)} channels, got {latents.shape[1]}, shape "
                f"{tuple(latents.shape)}. Decode what the demo model's own VAE or sampler made."
            )
        patches = torch.einsum("cp,bchw->bphw", self.basis.to(latents), latents)
        return nn.functional.pixel_shuffle(patches + self.mean.to(latents)[:, None, None], PATCH)
