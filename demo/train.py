"""Train the demo model: `python scripts/host.py run demo/train.py flow`, then `v-prediction`.

`flow` trains the denoiser and the text encoder; `v-prediction` starts from the flow denoiser and keeps its text encoder
and codec, so the two versions share them. A run goes on until it is stopped or has done `--steps`, and resumes from its
checkpoint when started again. It keeps its checkpoint, `log.txt`, snapshots of the weights and sheets of samples in
`.cache/demo/VERSION/`, or in the folder that `INVERSION_DEMO_CACHE` names.

The learning rate is constant after a warm-up, so that any run can be made longer. `--decay N` lets it fall to 0 over
the N steps from where the checkpoint is, which is worth doing once, before the weights are taken; it works on a copy
(`VERSION-final/`), so the run itself can still be resumed. `--export` writes the fp16 weights to `demo/weights/`,
or to the folder that `--to` names.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY))  # after the host's own folder: both have a `nodes`

from demo import network, scenes, text  # noqa: E402
from demo.codec import CHANNELS, PATCH, LappedCodec  # noqa: E402

WEIGHTS = Path(__file__).parent / "weights"
CACHE = Path(os.environ.get("INVERSION_DEMO_CACHE", REPOSITORY / ".cache" / "demo"))
POOL = 50_000  # rendered scenes; each is seen a few times at most, under a caption drawn anew
FIT = 4_000  # scenes that the codec is fitted to
BATCH = 32
LEARNING_RATE = {"flow": 1e-3, "v-prediction": 5e-4}
WARM_UP = 200
EMA = 0.999
GRID = scenes.SIZE // PATCH
PROVENANCE = {"source": scenes.index()["source"], "licence": "MIT"}
SHEET_CFG = 4.0
SHEET = [
    "a red heart, blue wall",
    "a blue heart, white wall",
    "a fox, green wall",
    "a cat with a crown, purple wall",
    "a dog, yellow wall",
    "a thumbs up dark skin, grey wall",
    "a thumbs up light skin, red wall",
    "a pizza, orange wall",
    "a car, green wall",
    "an elephant, blue wall",
    "a panda with a hat, orange wall",
    "a house, grey wall",
]


# --- the pool of rendered scenes ---


def _render(span: tuple[int, int]) -> np.ndarray:
    """Scenes of the training pool as bytes, (count, 128, 128, 3)."""
    return np.stack([(scenes.picture(scenes.training_scene(i)) * 255).round().astype(np.uint8) for i in range(*span)])


def as_input(pictures: np.ndarray) -> Tensor:
    """Bytes (B, 128, 128, 3) -> (B, 3, 128, 128) in [-1, 1]."""
    return torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1


def pool(known: dict[str, Tensor] | None, count: int) -> tuple[LappedCodec, Tensor]:
    """The codec and the latents of the first training scenes, (count, 32, 16, 16) in half precision; made once.

    `known` is the codec of a run that goes on: a pool made with another one, on another machine say, is made again.
    """
    world = hashlib.sha256(_render((0, 32)).tobytes()).hexdigest()[:12]  # another world, another pool
    path = CACHE / f"pool-{count}-{world}.safetensors"
    codec = LappedCodec()
    if known:
        codec.load_state_dict(known)
    if not path.exists() or (known and not torch.equal(load_file(path)["codec.basis"], codec.basis)):
        CACHE.mkdir(parents=True, exist_ok=True)
        started, step = time.time(), 500
        latents = torch.empty(count, CHANNELS, GRID, GRID, dtype=torch.float16)
        spans = [(i, min(i + step, count)) for i in range(0, count, step)]
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as workers:
            first: list[np.ndarray] = []
            for (a, b), pictures in zip(spans, workers.imap(_render, spans), strict=True):
                if a < FIT and not known:
                    first.append(pictures)
                    if b < FIT:
                        continue
                    print(f"codec keeps {codec.fit(as_input(np.concatenate(first))):.4f} of the variance", flush=True)
                    latents[:b] = codec.encode(as_input(np.concatenate(first))).half()
                else:
                    latents[a:b] = codec.encode(as_input(pictures)).half()
                print(f"\r{b}/{count} scenes, {(time.time() - started):.0f} s", end="", flush=True)
        print()
        state = {f"codec.{k}": v.contiguous() for k, v in codec.state_dict().items()}
        save_file(state | {"latents": latents}, path)
    state = load_file(path)
    codec.load_state_dict(part(state, "codec."))
    return codec, state["latents"]


# --- the network, the objectives, the optimiser ---


def plain_attention(_: object, q: Tensor, k: Tensor, v: Tensor, heads: int, **kwargs: object) -> Tensor:
    """Attention from matrix products: on CPUs its backward is far faster than the fused kernel's at 16-64 tokens."""
    b, _, c = q.shape
    q, k, v = (t.reshape(b, -1, heads, c // heads).transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    weights = torch.softmax(torch.bmm(q, k.mT).float() * (c // heads) ** -0.5, -1).to(v.dtype)
    return torch.bmm(weights, v).unflatten(0, (b, heads)).transpose(1, 2).reshape(b, -1, c)


def new_denoiser(device: torch.device, random: torch.Generator) -> nn.Module:
    """The host's class, with zeros where Stable Diffusion's training has them."""
    options, sys.argv = sys.argv, [sys.argv[0], *(["--cpu"] if not torch.cuda.is_available() else [])]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    sys.argv = options
    unet = UNetModel(**network.UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    network.initialise(unet, random)
    zeroed = [m.out_layers[-1] for m in unet.modules() if hasattr(m, "out_layers")]
    zeroed += [m.proj_out for m in unet.modules() if hasattr(m, "proj_out")] + [unet.out[-1]]
    for layer in zeroed:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return unet.to(device)


class Flow:
    """x = (1 - s) x0 + s n; the network predicts the velocity n - x0 and is told 1000 s."""

    def noised(self, x0: Tensor, noise: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.lerp(x0, noise, s[:, None, None, None])
        return x, s * network.FLOW_SAMPLING["multiplier"], noise - x0

    def sampling_levels(self, steps: int) -> tuple[Tensor, Tensor]:
        s = torch.linspace(1, 0, steps + 1)
        return s, s * network.FLOW_SAMPLING["multiplier"]

    def start(self, noise: Tensor, sigma: Tensor) -> Tensor:
        return noise * sigma

    def denoised(
        self, network_output: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, timestep: Tensor
    ) -> Tensor:
        return x - sigma * network_output(x, timestep)


class VPrediction:
    """z = a x0 + b n with a^2 + b^2 = 1 on a discrete schedule; the network predicts a n - b x0."""

    def __init__(self) -> None:
        d = network.DISCRETE_SAMPLING
        betas = torch.linspace(d["linear_start"] ** 0.5, d["linear_end"] ** 0.5, d["timesteps"]).double() ** 2
        self.alphas_cumprod = torch.cumprod(1 - betas, 0).float()
        self.sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def noised(self, x0: Tensor, noise: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sigma = (s / (1 - s)).clamp(1e-3, 1e3)  # the same signal-to-noise ratio as flow time s
        t = torch.searchsorted(self.sigmas.to(s), sigma).clamp(max=len(self.sigmas) - 1)
        a = self.alphas_cumprod.to(s)[t].sqrt()[:, None, None, None]
        b = (1 - a * a).sqrt()
        return a * x0 + b * noise, t.float(), a * noise - b * x0

    def sampling_levels(self, steps: int) -> tuple[Tensor, Tensor]:
        t = torch.linspace(len(self.sigmas) - 1, 0, steps).round().long()
        return torch.cat([self.sigmas[t], torch.zeros(1)]), torch.cat([t, torch.zeros(1)]).float()

    def start(self, noise: Tensor, sigma: Tensor) -> Tensor:
        return noise * (1 + sigma**2).sqrt()

    def denoised(
        self, network_output: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, timestep: Tensor
    ) -> Tensor:
        scale = (1 + sigma**2).sqrt()
        return x / scale**2 - network_output(x / scale, timestep) * sigma / scale


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024).

    Convolutions count as matrices of (out, in x height x width). The step has the size that AdamW's would have (Liu et
    al. 2025), so both take the same learning rate.
    """

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": 1.0, "momentum": momentum, "weight_decay": weight_decay})

    @staticmethod
    def orthogonal(stack: Tensor) -> Tensor:
        """Matrices (n, rows, columns), rows <= columns, with all singular values near 1."""
        x = stack.bfloat16()
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(5):
            gram = x @ x.mT
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return x.float()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, int, bool], list[nn.Parameter]] = {}
            for p in group["params"]:
                rows, columns = len(p), p[0].numel()
                shapes.setdefault((min(rows, columns), max(rows, columns), rows > columns), []).append(p)
            for (_, columns, turned), alike in shapes.items():
                updates = []
                for p in alike:
                    assert p.grad is not None
                    momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    momentum.lerp_(p.grad, 1 - group["momentum"])
                    update = torch.lerp(p.grad, momentum, group["momentum"]).flatten(1)
                    updates.append(update.T if turned else update)
                stack = self.orthogonal(torch.stack(updates)) * (0.2 * columns**0.5)
                for p, update in zip(alike, stack, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_((update.T if turned else update).reshape(p.shape), alpha=group["lr"])


@dataclass
class State:
    """A run's state: the step it is at, from which step and over how many its learning rate falls, and its tensors."""

    step: int
    decay: tuple[int, int] | None
    tensors: dict[str, Tensor]


class Trainer:
    # On a CPU each worker takes a share of the batch with one thread: they wait for one another once a step, not after
    # every operation, which is what costs when others use the machine too.
    WORKERS = 1 if torch.cuda.is_available() else 2

    def __init__(
        self, version: str, folder: Path, known: State | None, optimizer: str = "muon", count: int = POOL
    ) -> None:
        """`known` is the state to go on from, or the flow version's; its codec and scale stay."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.version, self.step, self.folder = version, 0, folder
        self.objective = Flow() if version == "flow" else VPrediction()
        self.decay: tuple[int, int] | None = None  # from which step, over how many
        self.folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary = text.Vocabulary(scenes.vocabulary())
        self.codec, self.latents = pool(part(known.tensors, "codec.") if known else None, count)
        # Half-way between raw and whitened: raw drowns the detail, whitened drowns what the eye sees.
        self.scale = known.tensors["latent.scale"] if known else self.latents[::10].float().std((0, 2, 3)).rsqrt()
        started = time.time()
        self.scenes = [scenes.training_scene(i) for i in range(count)]
        print(f"{len(scenes.things())} objects, {len(self.vocabulary.known)} words, {count} scenes "
              f"({time.time() - started:.0f} s)", flush=True)  # fmt: skip

        start = torch.Generator().manual_seed(0)
        self.encoder = text.TextEncoder(len(self.vocabulary.known))
        network.initialise(self.encoder, start)
        self.encoder.to(self.device)
        self.denoiser = new_denoiser(self.device, start)
        self.trained = nn.ModuleDict({"unet": self.denoiser})
        if version == "flow":
            self.trained["text"] = self.encoder
        self.prepare(optimizer)

    def prepare(self, optimizer: str) -> None:
        """The averaged weights, the optimisers and the workers of what is `trained`."""
        self.ema = {k: v.detach().clone() for k, v in self.trained.state_dict().items()}
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, p in self.trained.named_parameters():
            inner = (
                p.ndim >= 2 and name.startswith("unet.") and not name.startswith(("unet.input_blocks.0.", "unet.out."))
            )
            (matrices if inner and optimizer == "muon" else others).append(p)
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, weight_decay=0.01, fused=True)]
        if matrices:  # in as many parts as there are workers; equal shapes stay together
            matrices.sort(key=lambda p: tuple(p.shape))
            self.optimizers += [Muon(matrices[i :: self.WORKERS]) for i in range(self.WORKERS)]
        self.parameters = list(self.trained.parameters())
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        self.workers = ThreadPoolExecutor(self.WORKERS)
        self.random = torch.Generator().manual_seed(1)
        self.words = np.random.default_rng(1)

    def start_from_flow(self, state: State) -> None:
        """Take the averaged flow weights, and its text encoder as it is."""
        self.encoder.load_state_dict(part(state.tensors, "ema.text."))
        self.encoder.requires_grad_(False)
        self.denoiser.load_state_dict(part(state.tensors, "ema.unet."))
        self.ema = {k: v.detach().clone() for k, v in self.trained.state_dict().items()}

    def token_row(self, caption: str) -> Tensor:
        tokens, left_out = self.vocabulary.tokens(caption)
        assert not left_out, left_out
        return torch.tensor(tokens + [text.PAD] * (text.TOKENS - len(tokens)))

    def learning_rate(self) -> float:
        rate = LEARNING_RATE[self.version] * min(1.0, (self.step + 1) / WARM_UP)
        return rate * (1 - (self.step - self.decay[0]) / self.decay[1]) if self.decay else rate

    def predict(self, x: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            context, pooled = self.encoder(tokens)
            override = {"optimized_attention_override": plain_attention}
            return self.denoiser(x, timestep, context=context, y=pooled, transformer_options=override).float()

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States, timesteps, tokens and what the network shall say."""
        drawn = torch.randint(len(self.latents), (BATCH,), generator=self.random)
        captions = [scenes.training_caption(self.scenes[i], self.words) for i in drawn.tolist()]
        tokens = torch.stack([self.token_row(caption) for caption in captions]).to(self.device)
        normal = torch.randn(BATCH, generator=self.random)
        uniform = torch.rand(BATCH, generator=self.random)
        # Times crowd the middle, where the picture is decided; one in ten is uniform, so that the ends are seen too.
        s = torch.where(torch.rand(BATCH, generator=self.random) < 0.1, uniform, torch.sigmoid(1.2 * normal))
        x0 = (self.latents[drawn].float() * self.scale[:, None, None]).to(self.device)
        noise = torch.randn(x0.shape, generator=self.random).to(self.device)
        x, timestep, target = self.objective.noised(x0, noise, s.to(self.device))
        return x, timestep, tokens, target

    def train_step(self) -> float:
        shares = zip(*(values.chunk(self.WORKERS) for values in self.batch()), strict=True)
        losses, gradients = zip(*self.workers.map(self.gradient, shares), strict=True)
        for p, *parts in zip(self.parameters, *gradients, strict=True):
            p.grad = torch.stack(parts).mean(0) if len(parts) > 1 else parts[0]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.learning_rate()
        list(self.workers.map(lambda optimizer: optimizer.step(), self.optimizers))
        self.step += 1
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            state = self.trained.state_dict()
            torch._foreach_lerp_(list(self.ema.values()), [state[k] for k in self.ema], 1 - decay)
        return sum(losses) / len(losses)

    def gradient(self, share: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[float, tuple[Tensor, ...]]:
        """The loss of a share of the batch and its gradient."""
        x, timestep, tokens, target = share
        with torch.enable_grad():
            loss = self.loss(self.predict(x, timestep, tokens), target)
            return float(loss.detach()), torch.autograd.grad(loss, self.parameters)

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted - target).square().mean()

    @torch.no_grad()
    def sample(self, captions: list[str], cfg: float, seed: int, steps: int = 20) -> Tensor:
        """Pictures (B, 3, 128, 128) in [0, 1], by Euler's method with the averaged weights."""
        current = {k: v.clone() for k, v in self.trained.state_dict().items()}
        self.trained.load_state_dict(self.ema)
        tokens = torch.stack([self.token_row(caption) for caption in captions]).to(self.device)
        sigmas, timesteps = self.objective.sampling_levels(steps)
        noise = torch.randn(len(tokens), CHANNELS, GRID, GRID, generator=torch.Generator().manual_seed(seed))
        x = self.objective.start(noise, sigmas[0]).to(self.device)
        both = torch.cat([tokens, torch.full_like(tokens, text.PAD)])

        def guided(z: Tensor, t: Tensor) -> Tensor:
            if cfg == 1:
                return self.predict(z, t.expand(len(tokens)), tokens)
            conditional, unconditional = self.predict(z.repeat(2, 1, 1, 1), t.expand(len(both)), both).chunk(2)
            return unconditional + cfg * (conditional - unconditional)

        for i in range(steps):
            denoised = self.objective.denoised(guided, x, sigmas[i], timesteps[i].to(self.device))
            x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        self.trained.load_state_dict(current)
        return self.codec.decode(x.cpu() / self.scale[:, None, None]).clamp(-1, 1).add(1).div(2)

    def run(self, steps: int, every: int, sheets: int) -> None:
        """Train to step `steps`, or to the end of the decay, with a checkpoint and a snapshot every so many steps."""
        last = sum(self.decay) if self.decay else steps
        started, first, losses = time.time(), self.step, []
        while self.step < last:
            losses.append(self.train_step())
            if self.step % 50 == 0 or self.step == last:
                pace = (time.time() - started) / (self.step - first)
                self.log(f"{self.step}  loss {np.mean(losses):.4f}  {pace:.2f} s/step  {time.strftime('%H:%M')}")
                losses = []
            if self.step % every == 0 or self.step == last:
                self.save_checkpoint()
            if self.step % sheets == 0 or self.step == last:
                self.snapshot()

    def snapshot(self) -> None:
        """The weights as they are, and what they draw."""
        export(self.version, self.state(), self.folder / f"{self.step:06d}")
        self.sample_sheet()

    def sample_sheet(self) -> None:
        """Twelve prompts: two noises at cfg 4, one at cfg 1."""
        self.save_sheet(torch.cat([self.sample(SHEET * 2, SHEET_CFG, 2), self.sample(SHEET, 1.0, 2)]))

    def save_sheet(self, pictures: Tensor) -> None:
        """Three rows of twelve."""
        shown = pictures.mul(255).byte()
        grid = shown.unflatten(0, (3, len(SHEET))).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
        Image.fromarray(grid.numpy()).save(self.folder / f"{self.step:06d}.png")

    def moments(self) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        """What keeps the optimisers' memory apart: each parameter's name, its optimiser and itself."""
        names = {p: name for name, p in self.trained.named_parameters()}
        for optimizer in self.optimizers:
            for p in optimizer.param_groups[0]["params"]:
                yield names[p], optimizer, p

    def state(self) -> State:
        tensors = {f"model.{k}": v for k, v in self.trained.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        if "text" not in self.trained:
            tensors |= {f"text.{k}": v for k, v in self.encoder.state_dict().items()}
        tensors |= {f"codec.{k}": v for k, v in self.codec.state_dict().items()}
        tensors |= {"latent.scale": self.scale, "random": self.random.get_state()}
        for name, optimizer, p in self.moments():
            tensors |= {f"moment.{name}.{k}": v for k, v in optimizer.state[p].items()}
        return State(self.step, self.decay, {k: v.detach().contiguous().cpu() for k, v in tensors.items()})

    def save_checkpoint(self) -> None:
        temporary, state = self.folder / "checkpoint.part", self.state()
        save_file(state.tensors, temporary, {"step": str(state.step), "decay": json.dumps(state.decay)})
        temporary.replace(self.folder / "checkpoint.safetensors")

    def resume(self, state: State) -> None:
        self.step, self.decay, tensors = state.step, state.decay, state.tensors
        self.ema = {k: v.to(self.device) for k, v in part(tensors, "ema.").items()}
        self.trained.load_state_dict(part(tensors, "model."))
        if "text" not in self.trained:
            self.encoder.load_state_dict(part(tensors, "text."))
        for name, optimizer, p in self.moments():
            optimizer.state[p] = {k: v.to(self.device) for k, v in part(tensors, f"moment.{name}.").items()}
        self.random.set_state(tensors["random"])
        self.words = np.random.default_rng([1, self.step])
        print(f"resuming from step {self.step}", flush=True)

    def log(self, line: str) -> None:
        print(line, flush=True)
        with open(self.folder / "log.txt", "a") as log:
            log.write(line + "\n")


def export(version: str, state: State, folder: Path) -> None:
    """The averaged weights in half precision, and what the versions share."""
    half = export_denoiser(version, state, folder, "demo/train.py")
    encoder = part(half, "text.") or {k: v.half() for k, v in part(state.tensors, "text.").items()}  # or kept as it was
    shared = {f"text.{k}": v for k, v in encoder.items()} | {"latent.scale": state.tensors["latent.scale"]}
    shared |= {f"codec.{k}": v for k, v in part(state.tensors, "codec.").items()}
    vocabulary = {"vocabulary": json.dumps(scenes.vocabulary())}
    save_file(shared, folder / "shared.safetensors", PROVENANCE | {"trained": "demo/train.py"} | vocabulary)


def export_denoiser(version: str, state: State, folder: Path, script: str) -> dict[str, Tensor]:
    """Write a denoiser's averaged weights in half precision. Returns all averaged weights so."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {k: v.half() for k, v in part(state.tensors, "ema.").items()}
    trained = f"{script} {version}, {state.step} steps of batch {BATCH}"
    save_file(part(half, "unet."), folder / f"{version}.safetensors", PROVENANCE | {"trained": trained})
    return half


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def checkpoint(folder: Path) -> State | None:
    """What a run in this folder left, or nothing."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        known = file.metadata()
    decay = json.loads(known["decay"])
    return State(int(known["step"]), decay and tuple(decay), load_file(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", choices=list(LEARNING_RATE))
    parser.add_argument("--steps", type=int, default=10**9, help="stop there (default: when interrupted)")
    parser.add_argument("--decay", type=int, help="finish a copy of the run: so many steps, learning rate down to 0")
    parser.add_argument("--export", action="store_true", help="write the finished copy's weights, or the run's own")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--sheets", type=int, default=1000, help="steps between snapshots with a sheet of samples")
    parser.add_argument("--to", type=Path, default=WEIGHTS, metavar="FOLDER", help="for --export")
    parser.add_argument("--name", help="the folder in the cache (default: the version)")
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    options = parser.parse_args()
    folder = CACHE / (options.name or options.version)
    final = folder.with_name(folder.name + "-final")
    if options.export:
        state = checkpoint(final) or checkpoint(folder)
        if state is None:
            raise SystemExit(f"no checkpoint in {folder}: train first")
        export(options.version, state, options.to)
        return print(f"weights of step {state.step} in {options.to}")

    state = checkpoint(final if options.decay else folder)
    if options.decay and state is None:
        state = checkpoint(folder)
        if state is None:
            raise SystemExit(f"no checkpoint in {folder}: train first")
        state.decay = (state.step, options.decay)
    flow = None
    if state is None and options.version == "v-prediction":
        flow = checkpoint(CACHE / "flow-final") or checkpoint(CACHE / "flow")
        if flow is None:
            raise SystemExit("train the flow version first")
    trainer = Trainer(options.version, final if options.decay else folder, state or flow, options.optimizer)
    if state is not None:
        trainer.resume(state)
    elif flow is not None:
        trainer.start_from_flow(flow)
    trainer.run(options.steps, options.every, options.sheets)


if __name__ == "__main__":
    main()
