"""Latents, masks and numbers of every kind into every node: computed with, or refused in plain words."""

import pytest
import torch
from graphs import METHODS, Bench, demo, relative


@pytest.fixture(scope="module")
def bench(pack) -> Bench:
    return demo(pack, "flow")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_the_layout_in_memory_makes_no_difference(bench: Bench, method: str, dtype: torch.dtype) -> None:
    samples = torch.cat([bench.latent["samples"], bench.latent["samples"].flip(-1)]).to(dtype)
    plain, other = ({"samples": x} for x in (samples, samples.contiguous(memory_format=torch.channels_last)))
    up, same = (bench.invert(method, steps=3, latent=latent)[0] for latent in (plain, other))
    assert torch.equal(up["samples"], same["samples"])
    down, again = (bench.edit(latent=latent)[0]["samples"] for latent in (up, same))
    assert torch.equal(down, again)
    assert relative(again, samples) <= 1e-7
