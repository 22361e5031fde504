"""The solvers on the trained demo models, through the host's guider: converged means the sampler alone comes back."""

import pytest
from graphs import Bench, demo, relative


@pytest.mark.once
@pytest.mark.parametrize("version", ["v-prediction", "flow"])
def test_converged_round_trip(pack, version: str) -> None:
    bench: Bench = demo(pack, version)
    library, host = pack.inversion, pack.nodes.host

    def walk(denoiser, x, grid, callback):
        found = library.invert(denoiser, x, grid, library.FixedPoint(80, 5e-6, anderson=3))
        return library.sample(denoiser, found.latent, grid), found

    sigmas = host.scheduled_sigmas(bench.model, 20, "normal", 1.0)
    back, found = bench.through(walk, sigmas)
    assert found.converged, found.report()
    assert relative(back, bench.latent["samples"]) <= 1e-4
