"""Gradients through the host's own models: right, refused where they would not be, and without traces."""

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import comfy.cli_args
import comfy.ldm.modules.attention
import comfy.model_management
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from families import FAMILIES, Family
from graphs import Bench, demo
from torch import Tensor, nn

import nodes

MANAGEMENT = comfy.model_management
ARCHITECTURES = {"UNet": "SD1.5 eps", "MMDiT": "SD3", "Flux": "Flux dev"}


def loaded(pack: types.ModuleType, family: str) -> Bench:
    """As the host has it: made in inference mode, so that its weights are inference tensors."""
    chosen: Family = FAMILIES[family]
    with torch.inference_mode():
        return chosen.bench(pack)


@pytest.fixture
def bench(pack) -> Bench:
    return loaded(pack, "SD1.5 eps")


def invert(bench: Bench, gradient: str, model: Any = None, **inputs: Any) -> str:
    """The report of an inversion with guidance, where gradients matter."""
    inputs = {"steps": 2, "cfg": 2.0, "negative": bench.negative, **inputs}
    return bench.invert("GuidedNR", gradient=gradient, model=model or bench.model, **inputs)[3]


@contextlib.contextmanager
def nothing_left_behind(bench: Bench) -> Iterator[None]:
    def state() -> tuple:
        return getattr(MANAGEMENT, "in_training", None), str(bench.model.model_options), torch.get_rng_state().tolist()

    weights = {name: weight.clone() for name, weight in bench.model.model.state_dict().items()}
    wanted = [weight.requires_grad for weight in bench.model.model.parameters()]
    before = state()
    yield
    assert state() == before
    assert not torch.is_inference_mode_enabled()
    after = bench.model.model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert [weight.requires_grad for weight in bench.model.model.parameters()] == wanted


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gradient_agrees_with_central_differences(pack, architecture: str) -> None:
    """Of the inversion step's residual, with a smooth norm in place of L1, in three random directions."""
    bench = loaded(pack, ARCHITECTURES[architecture])
    assert any(weight.is_inference() for weight in bench.model.model.parameters())
    errors = []

    def walk(denoiser: Any, x: Tensor, grid: Any, callback: Any) -> tuple[Tensor, None]:
        lower, upper = grid.upward()[1]
        with pack.nodes.host.gradient.recording(denoiser) as recorded:
            start = x.clone()

            def residual(y: Tensor) -> Tensor:
                slope = grid.slope(y, recorded(y, upper), upper)
                return (grid.move(start, lower, upper, slope) - y).double().square().sum()

            with torch.enable_grad():
                y = (start + 0.3 * torch.randn(x.shape, generator=random)).requires_grad_()
                (g,) = torch.autograd.grad(residual(y), y)
            with torch.no_grad():
                for _ in range(3):
                    d = torch.randn(x.shape, generator=random)
                    h = 1e-2
                    numeric = (residual(y + h * d) - residual(y - h * d)) / (2 * h)
                    exact = (g.double() * d.double()).sum()
                    errors.append(float((numeric - exact).abs() / (g.double().norm() * d.double().norm())))
        return x, None

    random = torch.Generator().manual_seed(1)
    with nothing_left_behind(bench):
        bench.through(walk, pack.nodes.host.scheduled_sigmas(bench.model, 3, "normal", 1.0), cfg=2.0)
    assert max(errors) <= 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("gradient", ["autograd", "min-norm", "auto"])
def test_the_node_differentiates_and_leaves_nothing_behind(pack, architecture: str, gradient: str) -> None:
    bench = loaded(pack, ARCHITECTURES[architecture])
    with nothing_left_behind(bench):
        report = invert(bench, gradient)
    name = "min-norm (auto)" if gradient == "auto" else gradient
    assert f"Gradient: {name}, through the model; it agrees with a central difference" in report
    assert "MB for the backward pass" in report


def test_sampling_is_bit_identical_before_and_after(pack) -> None:
    bench = demo(pack, "v-prediction")

    def ksampler() -> Tensor:
        with torch.inference_mode():
            given = (bench.model, 3, 3, 2.0, "euler", "normal", bench.other, bench.negative, bench.latent, 1.0)
            return nodes.KSampler().sample(*given)[0]["samples"]

    before = ksampler()
    invert(bench, "autograd")
    assert torch.equal(ksampler(), before)


@pytest.mark.parametrize("what", ["error", "interrupt"])
@pytest.mark.parametrize("at", [1, 2, 6])
def test_an_exception_in_the_middle_leaves_nothing_behind(bench: Bench, what: str, at: int) -> None:
    calls = 0

    def fail(apply_model: Any, given: dict) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            if what == "error":
                raise KeyError("a patch of the user's")
            MANAGEMENT.interrupt_current_processing()
        return apply_model(given["input"], given["timestep"], **given["c"])

    model = bench.model.clone()
    model.set_model_unet_function_wrapper(fail)
    raised = MANAGEMENT.InterruptProcessingException if what == "interrupt" else Exception
    try:
        with nothing_left_behind(bench), pytest.raises(raised):
            invert(bench, "autograd", model)
    finally:
        MANAGEMENT.interrupt_current_processing(False)


@pytest.mark.parametrize("ends", ["well", "with an error"])
def test_the_hosts_compilers_are_off_while_a_gradient_is_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Their switches are newer hosts'; one that has neither gets none."""
    switches = comfy.cli_args.args
    monkeypatch.setattr(switches, "disable_comfy_compiler", False, raising=False)
    monkeypatch.delattr(switches, "disable_cuda_graphs", raising=False)
    seen = []

    def look(apply_model: Any, given: dict) -> Tensor:
        seen.append((given["input"].requires_grad, switches.disable_comfy_compiler))
        if ends != "well" and len(seen) == 8:
            raise KeyError("a patch of the user's")
        return apply_model(given["input"], given["timestep"], **given["c"])

    model = bench.model.clone()
    model.set_model_unet_function_wrapper(look)
    with contextlib.nullcontext() if ends == "well" else pytest.raises(KeyError):
        invert(bench, "autograd", model, check=True)
    assert {off for recorded, off in seen if recorded} == {True}
    assert (seen[-1][1] is False) == (ends == "well")  # the check afterwards is the host's own way
    assert switches.disable_comfy_compiler is False
    assert not hasattr(switches, "disable_cuda_graphs")


def replaced(bench: Bench, change: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A MODEL that the host cannot differentiate, or not rightly."""
    model = bench.model.clone()
    network = model.model.diffusion_model
    if change == "dynamic VRAM":
        monkeypatch.setattr(type(model), "is_dynamic", lambda self: True, raising=False)
    elif change == "offloaded":
        monkeypatch.setattr(
            type(model.model), "model_lowvram", property(lambda self: True, lambda self, value: None), False
        )
    elif change == "compiled":
        set_torch_compile_wrapper(model, backend="eager")
    elif change == "compiled in place":
        part = torch.compile(network.out, backend="eager")
        monkeypatch.setitem(network._modules, "out", part)
    elif change == "quantised":
        layer = network.time_embed[0]
        monkeypatch.setitem(layer._parameters, "weight", nn.Parameter(layer.weight.to(torch.float8_e4m3fn), False))
        cast = type(layer.weight).to
        monkeypatch.setattr(
            layer, "forward", lambda x: nn.functional.linear(x, cast(layer.weight, x.dtype), layer.bias)
        )
    elif change == "no gradient":
        run = torch.no_grad()(lambda apply_model, given: apply_model(given["input"], given["timestep"], **given["c"]))
        model.set_model_unet_function_wrapper(run)
    elif change == "a wrong gradient":

        def halved(apply_model: Any, given: dict) -> Tensor:
            out = apply_model(given["input"], given["timestep"], **given["c"])
            return out.detach() + 0.5 * (out - out.detach())

        model.set_model_unet_function_wrapper(halved)
    elif change == "a renamed attention":
        monkeypatch.delattr(comfy.ldm.modules.attention, "attention_pytorch")
    elif change == "too little memory":

        def full(apply_model: Any, given: dict) -> Tensor:
            if torch.is_grad_enabled():
                raise MANAGEMENT.OOM_EXCEPTION("out of memory")
            return apply_model(given["input"], given["timestep"], **given["c"])

        model.set_model_unet_function_wrapper(full)
    return model


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("dynamic VRAM", "dynamic VRAM"),
        ("offloaded", "offloaded to main memory"),
        ("a renamed attention", "no PyTorch attention"),
        ("compiled", "it is compiled"),
        ("compiled in place", "it is compiled"),
        ("quantised", "weights are quantised .*float8_e4m3fn"),
        ("no gradient", "gives none"),
        ("a wrong gradient", "off by .* from a central difference"),
        ("too little memory", "more memory than there is"),
    ],
)
def test_where_it_cannot_be_done_the_reason_is_given(
    bench: Bench, change: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replaced(bench, change, monkeypatch)
    with pytest.raises(bench.pack.inversion.InversionError, match=f"which cannot be done here: .*{reason}"):
        invert(bench, "min-norm", model)
    assert not getattr(MANAGEMENT, "in_training", False)
    report = invert(bench, "auto", model)
    assert "Gradient: the sign step (auto; the model cannot be differentiated here: " in report


def test_several_gpus_are_refused(bench: Bench) -> None:
    """Without several GPUs the host cannot run such a model, so only the question itself can be asked."""
    guider = types.SimpleNamespace(model_patcher=bench.model, loaded_models=[])
    denoiser = bench.pack.nodes.host.HostDenoiser(guider, {"model_options": {"multigpu_clones": {}}}, None)
    assert bench.pack.nodes.host.gradient.obstacle(denoiser) == "it runs on several GPUs"
