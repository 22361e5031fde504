"""Gradients through the host's models: when they can be had, and the state that the host has to be in for them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import comfy.cli_args
import comfy.ldm.modules.attention
import comfy.model_management
import torch
from torch import Tensor, nn

from ...inversion import Denoiser, Grid, GuidedNewton, InversionError, Level
from ...inversion.gradient import backward_memory, gradient_error
from .guider import HostDenoiser, asks_one_prompt

# How near a right gradient is to a central difference at the least, and the length of that difference: below it
# rounding shows, above it curvature. A wrong gradient (a weight overwritten, a part held constant) is off by more.
AGREEMENT = (0.1, 3e-3)
AGREEMENT_IN_HALF_PRECISION = (0.3, 3e-2)
PROBE_CALLS = 4
# The host's switches against what takes a model call for one without a backward pass; newer versions have them.
COMPILERS = ("disable_comfy_compiler", "disable_cuda_graphs")


@contextlib.contextmanager
def prepared(
    method: GuidedNewton, automatic: bool, denoiser: HostDenoiser, x: Tensor, grid: Grid
) -> Iterator[tuple[GuidedNewton, Denoiser, Tensor, str]]:
    """The host ready for `method`: what to invert with, on what, from where, and a sentence on the gradient.

    Automatic: at cfg 1 the sign step, which does as well there as a gradient through the model, without its backward
    passes; guided, the minimum-norm step, which is the more robust one, where the host can differentiate the model.

    Arguments:
        method: its gradient counts if not `automatic`.
        x: the clean latent, as the host gave it.

    Raises:
        InversionError: the method wants a gradient that this model, as it is loaded, does not give.
    """
    sign = dataclasses.replace(method, gradient="sign")
    if method.iterations == 1:
        yield sign, denoiser, x, "Gradient: none, because with one iteration no step is taken from the first guess."
        return
    if automatic and asks_one_prompt(denoiser.guider, denoiser.options["model_options"]):
        yield sign, denoiser, x, "Gradient: the sign step (auto; at cfg 1 a gradient through the model gains nothing)."
        return
    if not automatic and method.gradient == "sign":
        yield sign, denoiser, x, "Gradient: the sign step."
        return
    wanted = dataclasses.replace(method, gradient="min-norm") if automatic else method
    with contextlib.ExitStack() as stack:
        reason = obstacle(denoiser)
        if reason is None:
            recorded = stack.enter_context(recording(denoiser))
            recordable = x.clone()  # not an inference tensor
            reason, finding = _probed(denoiser, recorded, recordable, grid)
            if reason is None:
                why = " (auto)" if automatic else ""
                yield wanted, recorded, recordable, f"Gradient: {wanted.gradient}{why}, through the model; {finding}."
                return
    if not automatic:
        raise InversionError(
            f"Gradient '{wanted.gradient}' differentiates the model, which cannot be done here: {reason}. "
            "Use gradient 'auto' or 'sign', or Invert Image (Fixed Point), which need no gradient."
        )
    yield sign, denoiser, x, f"Gradient: the sign step (auto; the model cannot be differentiated here: {reason})."


def obstacle(denoiser: HostDenoiser) -> str | None:
    """Why the model, as it is loaded, would give no gradient or a wrong one; None if nothing speaks against it."""
    options = denoiser.options["model_options"]
    if _plain_attention() is None:
        return "this ComfyUI has no PyTorch attention where the pack looks for it"
    if "multigpu_clones" in options:
        return "it runs on several GPUs"
    if "torch_compile_kwargs" in options:
        return "it is compiled"
    for patcher in _patchers(denoiser):
        if getattr(patcher, "is_dynamic", bool)():  # newer hosts
            return "its weights come and go while it runs (dynamic VRAM; --disable-dynamic-vram turns that off)"
        if getattr(patcher.model, "model_lowvram", False):
            return "a part of it is offloaded to main memory, and comes and goes while it runs"
        if any(hasattr(module, "_orig_mod") for module in patcher.model.modules()):
            return "it is compiled"
        quantised = [weight for weight in patcher.model.parameters() if _is_quantised(weight)]
        if quantised:
            kind = f"{type(quantised[0]).__name__} of {str(quantised[0].dtype).removeprefix('torch.')}"
            return f"its weights are quantised ({kind})"
    return None


@contextlib.contextmanager
def recording(denoiser: HostDenoiser) -> Iterator[Denoiser]:
    """The denoiser with gradients: at a state that requires one, the host is in the state in which it gives it.

    It runs nodes in inference mode, where nothing is recorded and weights that were loaded are marked as never to be;
    and some models write into tensors that the backward pass needs. At other states it computes as it always does, so
    that its estimate is, to the last bit, the one that it makes there on the way down. The weights are the host's own
    again afterwards.
    """

    def recorded(x: Tensor, level: Level) -> Tensor:
        with _training(denoiser) if x.requires_grad else contextlib.nullcontext():
            return denoiser(x, level)

    models = [patcher.model for patcher in _patchers(denoiser)]
    mutable = torch.autograd.graph.allow_mutation_on_saved_tensors()
    with _compilers_off(), torch.inference_mode(False), mutable, _unmarked(models):
        yield recorded


@contextlib.contextmanager
def _compilers_off() -> Iterator[None]:
    """The host's model compiler and CUDA graphs off, and as they were afterwards.

    Newer versions plan a model's memory from its first calls, which keep nothing for a backward pass. The host asks for
    both switches at each call.
    """
    switches = comfy.cli_args.args
    before = {name: getattr(switches, name) for name in COMPILERS if hasattr(switches, name)}
    for name in before:
        setattr(switches, name, True)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(switches, name, value)


@contextlib.contextmanager
def _training(denoiser: HostDenoiser) -> Iterator[None]:
    """The host computing only with what has a gradient, and as it was afterwards.

    Newer versions have a switch that their own training sets, without which fused kernels have no backward; and not
    every attention the user may have chosen has one.
    """
    management = comfy.model_management
    transformer = denoiser.options["model_options"].setdefault("transformer_options", {})
    training = getattr(management, "in_training", None)
    transformer.setdefault("optimized_attention_override", _differentiable_attention)
    if training is not None:
        management.in_training = True
    try:
        yield
    finally:
        if training is not None:
            management.in_training = training
        if transformer.get("optimized_attention_override") is _differentiable_attention:
            del transformer["optimized_attention_override"]


def _differentiable_attention(chosen: Callable, *args: Any, **kwargs: Any) -> Tensor:
    return (_plain_attention() or chosen)(*args, **kwargs)


def _plain_attention() -> Callable | None:
    """The host's attention that has a backward pass; None where it has another name."""
    return getattr(comfy.ldm.modules.attention, "attention_pytorch", None)


@contextlib.contextmanager
def _unmarked(models: list[nn.Module]) -> Iterator[None]:
    """Ordinary tensors on the same memory in place of inference tensors among the weights; shared ones stay shared."""
    ordinary: dict[int, Tensor] = {}  # by the id of what they stand for
    replaced: list[tuple[dict, str, Tensor]] = []
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (held, name, weight)
        for model in models
        for part in model.modules()
        for held in (part._parameters, part._buffers)
        for name, weight in held.items()
        if weight is not None and weight.is_inference()
    ]
    try:
        for held, name, weight in places:
            if id(weight) not in ordinary:
                same = torch.empty(0, dtype=weight.dtype, device=weight.device)
                same.set_(weight.untyped_storage(), weight.storage_offset(), weight.shape, weight.stride())
                ordinary[id(weight)] = nn.Parameter(same, False) if isinstance(weight, nn.Parameter) else same
            held[name] = ordinary[id(weight)]
            replaced.append((held, name, weight))
        yield
    finally:
        for held, name, weight in replaced:
            if held.get(name) is ordinary[id(weight)]:  # else somebody moved it meanwhile
                held[name] = weight


def _probed(denoiser: HostDenoiser, recorded: Denoiser, x: Tensor, grid: Grid) -> tuple[str | None, str]:
    """What speaks against the gradient at the first step, if anything, and else what was found."""
    lower, upper = grid.upward()[0]
    x = x * (grid.native(upper) / grid.native(lower))
    model = denoiser.guider.inner_model
    compute = model.manual_cast_dtype or model.get_dtype()
    tolerance, step = AGREEMENT if compute.itemsize >= 4 else AGREEMENT_IN_HALF_PRECISION
    try:
        error = gradient_error(recorded, x, upper, grid, step)
        kept = backward_memory(recorded, x, upper, model.parameters())
    except comfy.model_management.InterruptProcessingException:
        raise  # older hosts make it an Exception
    except comfy.model_management.OOM_EXCEPTION:
        comfy.model_management.soft_empty_cache()
        return "its backward pass needs more memory than there is", ""
    except Exception as reason:  # whatever the model, a patch or a kernel has against it
        return f"{type(reason).__name__}: {next(iter(str(reason).splitlines()), '')}", ""
    if not error <= tolerance:
        return f"its gradient is off by {error:.0%} from a central difference", ""
    found = f"it agrees with a central difference to {error:.0e} ({PROBE_CALLS} more model calls)"
    return None, f"{found} and keeps {kept / 2**20:.1f} MB for the backward pass"


def _patchers(denoiser: HostDenoiser) -> list[Any]:
    """The model and what was loaded with it, such as ControlNets."""
    return [denoiser.guider.model_patcher, *denoiser.guider.loaded_models]


def _is_quantised(weight: Tensor) -> bool:
    plain = type(weight) in (Tensor, nn.Parameter)
    return not plain or weight.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
