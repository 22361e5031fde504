"""Distil the few-step version: `python scripts/host.py run demo/distill.py`. It needs the flow version's weights.

The flow version is the teacher. First it draws `TRAJECTORIES` pictures from random noise, with guidance, and keeps all
their states. Then a copy of it learns to name the end of a trajectory from any state on it, without guidance:

    D(x_t, t) = x_t - t v(x_t, t) = x_0        (the consistency function of Song et al. 2023, learned from its values)

So it draws in one step, and in more by Euler's method or with fresh noise at each step. Trajectories do not meet. So
the function that is learned has an inverse at every level, which an inversion needs.

A run draws what trajectories are missing, trains for `--steps` and resumes when started again. `--decay N` finishes a
copy of it and `--export` writes the weights, as in `train.py`. The cache is `train.py`'s too.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY))  # after the host's own folder: both have a `nodes`

from demo import scenes, text  # noqa: E402
from demo.codec import CHANNELS, LappedCodec  # noqa: E402
from demo.train import (  # noqa: E402
    BATCH,
    CACHE,
    GRID,
    SHEET,
    SHEET_CFG,
    WARM_UP,
    WEIGHTS,
    Flow,
    State,
    Trainer,
    checkpoint,
    export_denoiser,
    new_denoiser,
    part,
)

VERSION = "turbo"
TRAJECTORIES, TEACHER_STEPS, SHARD = 4_500, 12, 300
LEARNING_RATE = 4e-4
SOFT = 0.05  # below this error the loss is a square, above it a distance: Song and Dhariwal's pseudo-Huber, 2024
LEVELS = {12: 0.30, 6: 0.20, 9: 0.15, 3: 0.10}
"""How often the states that 1, 2 and 4 steps start from are drawn, by twelfths of t; else t is uniform."""


class Student(Trainer):
    """`Trainer` on the teacher's trajectories."""

    WORKERS = 1

    def __init__(self, folder: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.version, self.step, self.folder, self.decay = VERSION, 0, folder, None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.objective, self.vocabulary = Flow(), text.Vocabulary(scenes.vocabulary())
        shared = {name: value.float() for name, value in load_file(WEIGHTS / "shared.safetensors").items()}
        self.codec, self.scale = LappedCodec(), shared["latent.scale"]
        self.codec.load_state_dict(part(shared, "codec."))
        self.encoder = text.TextEncoder(len(self.vocabulary.known)).to(self.device)
        self.encoder.load_state_dict(part(shared, "text."))
        self.encoder.requires_grad_(False)
        self.denoiser = new_denoiser(self.device, torch.Generator())
        self.denoiser.load_state_dict(load_file(WEIGHTS / "flow.safetensors"))
        self.trained = nn.ModuleDict({"unet": self.denoiser})
        self.prepare("muon")

    def learning_rate(self) -> float:
        rate = LEARNING_RATE * min(1.0, (self.step + 1) / WARM_UP)
        return rate * (1 - (self.step - self.decay[0]) / self.decay[1]) if self.decay else rate

    # --- the teacher ---

    def draw_trajectories(self) -> None:
        """What is missing of the trajectories, while the network still is the teacher."""
        tokens, states = [], []
        started = time.time()
        for first in range(0, TRAJECTORIES, SHARD):
            path = self.folder.parent / "trajectories" / f"{first:06d}.safetensors"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                drawn = self.trajectories(first, min(SHARD, TRAJECTORIES - first))
                save_file(drawn, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
                print(f"{first + SHARD} trajectories, {time.time() - started:.0f} s", flush=True)
            shard = load_file(path)
            tokens.append(shard["tokens"])
            states.append(shard["states"])
        self.tokens, self.states = torch.cat(tokens), torch.cat(states)

    @torch.no_grad()
    def trajectories(self, first: int, count: int) -> dict[str, Tensor]:
        """`tokens` (count, 10) of training's captions and `states` (count, 13, 32, 16, 16) at t = 0, 1/12, ... 1."""
        words = np.random.default_rng([3, first])
        captions = [scenes.training_caption(scenes.training_scene(first + i), words) for i in range(count)]
        tokens = torch.stack([self.token_row(caption) for caption in captions])
        noise = torch.randn(count, CHANNELS, GRID, GRID, generator=torch.Generator().manual_seed(10_000 + first))
        shown = [self.trajectory(*pair) for pair in zip(noise.split(20), tokens.split(20), strict=True)]
        return {"tokens": tokens, "states": torch.cat(shown).half().cpu()}

    def trajectory(self, noise: Tensor, tokens: Tensor) -> Tensor:
        """Adams and Bashforth's method of order 2, guided."""
        x, tokens = noise.to(self.device), tokens.to(self.device)
        both = torch.cat([tokens, torch.full_like(tokens, text.PAD)])
        states, before = [x], None
        for k in range(TEACHER_STEPS, 0, -1):
            timestep = torch.full((len(both),), 1000 * k / TEACHER_STEPS, device=self.device)
            with_words, without = self.predict(x.repeat(2, 1, 1, 1), timestep, both).chunk(2)
            v = without + SHEET_CFG * (with_words - without)
            x = x - (v if before is None else 1.5 * v - 0.5 * before) / TEACHER_STEPS
            states.append(x)
            before = v
        return torch.stack(states[::-1], 1)

    # --- the student ---

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        drawn = torch.randint(len(self.states), (BATCH,), generator=self.random)
        kind = torch.rand(BATCH, generator=self.random)
        twelfths = TEACHER_STEPS * torch.rand(BATCH, generator=self.random).clamp(min=0.02)
        share = 0.0
        for k, chance in LEVELS.items():
            twelfths = torch.where((kind >= share) & (kind < share + chance), float(k), twelfths)
            share += chance
        below = twelfths.floor().clamp(max=TEACHER_STEPS - 1).long()
        between = (twelfths - below)[:, None, None, None]
        x = torch.lerp(self.states[drawn, below].float(), self.states[drawn, below + 1].float(), between)
        t = twelfths / TEACHER_STEPS
        target = (x - self.states[drawn, 0].float()) / t[:, None, None, None]
        values = (x, 1000 * t, self.tokens[drawn], target)
        x, timestep, tokens, target = (value.to(self.device) for value in values)
        return x, timestep, tokens, target

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """A distance in each picture: so a level where the errors are small counts as much as another."""
        error = (predicted - target).square().mean((1, 2, 3))
        return ((error + SOFT**2).sqrt() - SOFT).mean()

    def snapshot(self) -> None:
        self.sample_sheet()

    def sample_sheet(self) -> None:
        """Twelve prompts in 1, 2 and 4 steps."""
        self.save_sheet(torch.cat([self.sample(SHEET, 1.0, 2, steps) for steps in (1, 2, 4)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_250, help="stop there")
    parser.add_argument("--decay", type=int, help="finish a copy of the run: so many steps, learning rate down to 0")
    parser.add_argument("--export", action="store_true", help="write the finished copy's weights, or the run's own")
    parser.add_argument(
        "--every", type=int, default=250, help="steps between checkpoints, each with a sheet of samples"
    )
    parser.add_argument("--to", type=Path, default=WEIGHTS, metavar="FOLDER", help="for --export")
    options = parser.parse_args()
    folder, final = CACHE / VERSION, CACHE / f"{VERSION}-final"
    state = checkpoint(final) if options.export or options.decay else None
    state = state or checkpoint(folder)
    if (options.export or options.decay) and state is None:
        raise SystemExit(f"no checkpoint in {folder}: train first")
    if options.export and state:
        export_denoiser(VERSION, state, options.to, "demo/distill.py")
        return print(f"weights of step {state.step} in {options.to}")

    student = Student(final if options.decay else folder)
    student.draw_trajectories()
    if state is not None:
        if options.decay and not state.decay:
            state = State(state.step, (state.step, options.decay), state.tensors)
        student.resume(state)
    student.run(options.steps, options.every, options.every)


if __name__ == "__main__":
    main()
