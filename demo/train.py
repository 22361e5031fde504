"""Train the demo model: `python scripts/host.py run demo/train.py flow`, then the same with `vprediction`.

`flow` trains the denoiser, the text encoder and the latent codec; `vprediction` starts from the flow denoiser and keeps
its text encoder and codec, so the two versions share them. Each run keeps `checkpoint.safetensors`, a `log.txt` and a
sheet of samples in `.cache/demo/VERSION/`, resumes from there when started again, and at its end writes fp16 weights to
`demo/weights/`. Two CPU cores with bf16 matrix instructions need about half an hour for
the first and a quarter for the second; a GPU is used where there is one.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1]))  # after the host's own folder: both have a `nodes`
sys.argv, arguments = [sys.argv[0], "--cpu"] if not torch.cuda.is_available() else sys.argv[:1], sys.argv[1:]
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.ops  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

from demo import network, pictures, text  # noqa: E402
from demo.codec import PatchCodec  # noqa: E402

WEIGHTS = Path(__file__).parent / "weights"
CACHE = Path(__file__).parents[1] / ".cache" / "demo"
STEPS = {"flow": 3000, "vprediction": 1500}
LEARNING_RATE = {"flow": 8e-4, "vprediction": 4e-4}
BATCH = 64
CAPTION_DROPOUT = 0.1
EMA = 0.999
SHEET = [("red heart", "blue"), ("blue heart", "white"), ("fox", "green"), ("pizza", "purple"), ("panda", "orange")]
SHEET += [("thumbs up light skin tone", "grey"), ("thumbs up dark skin tone", "red"), ("tiger face", "yellow")]


def plain_attention(_: object, q: Tensor, k: Tensor, v: Tensor, heads: int, **kwargs: object) -> Tensor:
    """Attention from matrix products: on CPUs its backward is far faster than the fused kernel's at 16-64 tokens."""
    b, n, c = q.shape
    q, k, v = (t.reshape(b, -1, heads, c // heads).transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    weights = torch.softmax(torch.bmm(q, k.mT).float() * (c // heads) ** -0.5, -1).to(v.dtype)
    return torch.bmm(weights, v).unflatten(0, (b, heads)).transpose(1, 2).reshape(b, n, c)


def new_denoiser(device: torch.device) -> UNetModel:
    """The host's class with PyTorch's default initialisation and zeros where Stable Diffusion's training has them."""
    ops = comfy.ops.disable_weight_init
    unet = UNetModel(**network.UNET, dtype=torch.float32, device=device, operations=ops)
    for module in unet.modules():
        if hasattr(module, "reset_parameters"):
            super(type(module), module).reset_parameters()  # the host's own override does nothing
    zeroed = [m.out_layers[-1] for m in unet.modules() if hasattr(m, "out_layers")]
    zeroed += [m.proj_out for m in unet.modules() if hasattr(m, "proj_out")] + [unet.out[-1]]
    for layer in zeroed:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return unet


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


class Trainer:
    def __init__(self, version: str, steps: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.version, self.steps, self.step = version, steps, 0
        self.objective = Flow() if version == "flow" else VPrediction()
        self.folder = CACHE / version
        self.folder.mkdir(parents=True, exist_ok=True)

        names = pictures.index()["names"]
        known = sorted({w for pair in pictures.pairs() for w in text.words(pictures.caption(*pair))})
        self.vocabulary = text.Vocabulary(known)
        self.tokens = torch.stack([self.token_row(pictures.caption(*pair)) for pair in pictures.pairs()])
        rare = set(pictures.index()["rare"])
        self.weight = torch.tensor(
            [0.0 if pictures.held_out(*p) else 1.0 / pictures.RARITY if p[0] in rare else 1.0 for p in pictures.pairs()]
        )
        images = torch.from_numpy(np.stack([pictures.picture(*p) for p in pictures.pairs()])).movedim(-1, 1) * 2 - 1

        torch.manual_seed(0)
        self.codec, self.encoder = PatchCodec(), text.TextEncoder(len(known))
        self.denoiser = new_denoiser(self.device)
        if version == "flow":
            kept = self.codec.fit(images[self.weight > 0])
            latents = self.codec.encode(images)
            # Half-way between raw and whitened: raw drowns the detail, whitened drowns what the eye sees.
            self.scale = latents[self.weight > 0].std((0, 2, 3)).rsqrt()
            print(f"{len(names)} emoji, {len(known)} words, codec keeps {kept:.4f} of the variance")
        else:
            shared = load_file(WEIGHTS / "shared.safetensors")
            self.codec.load_state_dict(part(shared, "codec."))
            self.encoder.load_state_dict(part(shared, "text."))
            self.encoder.requires_grad_(False)
            self.scale = shared["latent.scale"]
            self.denoiser.load_state_dict(load_file(WEIGHTS / "flow.safetensors"))
            latents = self.codec.encode(images)
        self.latents = (latents * self.scale[:, None, None]).to(self.device)
        self.tokens, self.encoder = self.tokens.to(self.device), self.encoder.to(self.device)
        self.trained = nn.ModuleDict({"unet": self.denoiser})
        if version == "flow":
            self.trained["text"] = self.encoder
        self.ema = {k: v.detach().clone() for k, v in self.trained.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), lr=1.0, weight_decay=0.01, fused=True)
        self.random = torch.Generator().manual_seed(1)

    def token_row(self, caption: str) -> Tensor:
        tokens, _ = self.vocabulary.tokens(caption)
        return torch.tensor(tokens + [text.PAD] * (text.TOKENS - len(tokens)))

    def learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / 200)
        return LEARNING_RATE[self.version] * warm * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))

    def predict(self, x: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            context, pooled = self.encoder(tokens)
            override = {"optimized_attention_override": plain_attention}
            return self.denoiser(x, timestep, context=context, y=pooled, transformer_options=override).float()

    def train_step(self) -> float:
        drawn = torch.multinomial(self.weight, BATCH, replacement=True, generator=self.random)
        tokens = self.tokens[drawn.to(self.device)].clone()
        tokens[torch.rand(BATCH, generator=self.random).to(self.device) < CAPTION_DROPOUT] = text.PAD
        normal = torch.randn(BATCH, generator=self.random)
        uniform = torch.rand(BATCH, generator=self.random)
        # Times crowd the middle, where the picture is decided; one in ten is uniform, so that the ends are seen too.
        s = torch.where(torch.rand(BATCH, generator=self.random) < 0.1, uniform, torch.sigmoid(1.2 * normal))
        x0 = self.latents[drawn.to(self.device)]
        noise = torch.randn(x0.shape, generator=self.random).to(self.device)
        x, timestep, target = self.objective.noised(x0, noise, s.to(self.device))
        loss = (self.predict(x, timestep, tokens) - target).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate()
        self.optimizer.step()
        self.step += 1
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        for name, value in self.trained.state_dict().items():
            self.ema[name].lerp_(value, 1 - decay)
        return float(loss.detach())

    @torch.no_grad()
    def sample_sheet(self) -> None:
        """Eight prompts, three noises each, 20 Euler steps at cfg 2 with the averaged weights."""
        current = {k: v.clone() for k, v in self.trained.state_dict().items()}
        self.trained.load_state_dict(self.ema)
        tokens = torch.stack([self.token_row(pictures.caption(*p)) for p in SHEET]).repeat(3, 1).to(self.device)
        sigmas, timesteps = self.objective.sampling_levels(20)
        noise = torch.randn(len(tokens), *self.latents.shape[1:], generator=torch.Generator().manual_seed(2))
        x = self.objective.start(noise, sigmas[0]).to(self.device)
        both = torch.cat([tokens, torch.full_like(tokens, text.PAD)])

        def guided(z: Tensor, t: Tensor) -> Tensor:
            conditional, unconditional = self.predict(z.repeat(2, 1, 1, 1), t.expand(len(both)), both).chunk(2)
            return unconditional + 2.0 * (conditional - unconditional)

        for i in range(20):
            denoised = self.objective.denoised(guided, x, sigmas[i], timesteps[i].to(self.device))
            x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        images = self.codec.decode(x.cpu() / self.scale[:, None, None]).clamp(-1, 1).add(1).mul(127.5).byte()
        grid = images.unflatten(0, (3, len(SHEET))).permute(0, 3, 1, 4, 2).reshape(3 * 64, len(SHEET) * 64, 3)
        Image.fromarray(grid.numpy()).resize((len(SHEET) * 128, 3 * 128)).save(self.folder / f"{self.step:05d}.png")
        self.trained.load_state_dict(current)

    def save_checkpoint(self) -> None:
        parameters = dict(self.trained.named_parameters())
        state = {f"model.{k}": v for k, v in self.trained.state_dict().items()}
        state |= {f"ema.{k}": v for k, v in self.ema.items()}
        for k, p in parameters.items():
            if p in self.optimizer.state:
                state |= {f"moment.{k}.{m}": self.optimizer.state[p][m] for m in ("exp_avg", "exp_avg_sq", "step")}
        state |= {"random": self.random.get_state(), "scale": self.scale}
        state |= {f"codec.{k}": v for k, v in self.codec.state_dict().items()}
        temporary = self.folder / "checkpoint.part"
        save_file({k: v.contiguous().cpu() for k, v in state.items()}, temporary, {"step": str(self.step)})
        temporary.replace(self.folder / "checkpoint.safetensors")

    def resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            self.step = int(file.metadata()["step"])
        state = load_file(path)
        self.trained.load_state_dict(part(state, "model."))
        self.ema = {k: v.to(self.device) for k, v in part(state, "ema.").items()}
        for k, p in self.trained.named_parameters():
            moments = part(state, f"moment.{k}.")
            self.optimizer.state[p] = {m: v.to(self.device if m != "step" else "cpu") for m, v in moments.items()}
        self.random.set_state(state["random"])
        print(f"resuming from step {self.step}")

    def save_weights(self) -> None:
        WEIGHTS.mkdir(exist_ok=True)
        provenance = {
            "source": pictures.index()["source"],
            "licence": "Apache-2.0",
            "trained": f"demo/train.py {self.version}, {self.step} steps of batch {BATCH}",
        }
        half = {k: v.half().contiguous().cpu() for k, v in self.ema.items()}
        save_file(part(half, "unet."), WEIGHTS / f"{self.version}.safetensors", provenance)
        if self.version == "flow":
            shared = {f"text.{k}": v for k, v in part(half, "text.").items()}
            shared |= {f"codec.{k}": v.float().contiguous() for k, v in self.codec.state_dict().items()}
            shared["latent.scale"] = self.scale.float()
            vocabulary = {"vocabulary": json.dumps(self.vocabulary.known)}
            save_file(shared, WEIGHTS / "shared.safetensors", provenance | vocabulary)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", choices=list(STEPS))
    parser.add_argument("--steps", type=int, help="default: 3000 for flow, 1500 for vprediction")
    options = parser.parse_args(arguments)
    trainer = Trainer(options.version, options.steps or STEPS[options.version])
    trainer.resume()
    started, first, losses = time.time(), trainer.step, []
    while trainer.step < trainer.steps:
        losses.append(trainer.train_step())
        if trainer.step % 50 == 0 or trainer.step == trainer.steps:
            pace = (time.time() - started) / (trainer.step - first)
            left = pace * (trainer.steps - trainer.step) / 60
            line = f"{trainer.step}/{trainer.steps}  loss {np.mean(losses):.4f}  {pace:.2f} s/step  {left:.0f} min left"
            print(line, flush=True)
            with open(trainer.folder / "log.txt", "a") as log:
                log.write(line + "\n")
            losses = []
        if trainer.step % 500 == 0 or trainer.step == trainer.steps:
            trainer.save_checkpoint()
            trainer.sample_sheet()
    trainer.save_weights()
    print(f"weights in {WEIGHTS}, samples in {trainer.folder}")


if __name__ == "__main__":
    main()
