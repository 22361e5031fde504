"""The solvers on the trained demo models, through the host's guider: converged means the sampler alone comes back."""

import pytest
import torch
from graphs import Bench, demo, relative


@pytest.mark.once
@pytest.mark.parametrize("version", ["eps", "flow"])
def test_converged_round_trip(pack, version: str) -> None:
    bench: Bench = demo(pack, version)
    library, host = pack.inversion, pack.nodes.host
    found = {}

    def walk(denoiser, x, grid, callback):
        found["inversion"] = library.invert(denoiser, x, grid, library.FixedPoint(80, 5e-6, anderson=3))
        found["x0"] = x
        return library.sample(denoiser, found["inversion"].latent, grid)

    sigmas = host.scheduled_sigmas(bench.model, 20, "normal", 1.0)
    with torch.inference_mode():
        back = host.run(bench.model, bench.positive, None, 1.0, bench.latent["samples"], sigmas, walk, 20)
    assert found["inversion"].converged, found["inversion"].report()
    assert relative(back, bench.latent["samples"]) <= 1e-4
