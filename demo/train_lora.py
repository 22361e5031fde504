"""Train a style for the demo model: `python scripts/host.py run demo/train_lora.py`

A LoRA (arXiv 2106.09685: W + up down, of low rank) of the v-prediction version's attention blocks that makes its
pictures grey. It learns from scenes without their colours, under the same captions, so what it learns is a style. It
has the keys that the host's LoRA loaders read, and stands in for a real one in the tests. A few minutes on one CPU
core; a sheet of samples is left in `.cache/demo/greyscale_lora/`.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

sys.path.append(str(Path(__file__).resolve().parents[1]))  # after the host's own folder: both have a `nodes`
from demo import scenes
from demo.train import CACHE, WEIGHTS, State, Trainer, part

FILE = scenes.HERE.parent / "tests" / "data" / "greyscale_lora.safetensors"
RANK, STEPS, LEARNING_RATE = 4, 300, 5e-3
SCENES = 2000  # of the training pool
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class LowRank(nn.Module):
    """A weight, (out, in), plus up (out, RANK) times down (RANK, in); nothing at first."""

    def __init__(self, weight: Tensor, random: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, weight.shape[1], generator=random) * weight.shape[1] ** -0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


class LoraTrainer(Trainer):
    """`Trainer` on grey pictures, with the network as it is and only the low-rank weights trained."""

    def __init__(self) -> None:
        version, folder = "v-prediction", CACHE / FILE.stem
        shared = {name: value.float() for name, value in load_file(WEIGHTS / "shared.safetensors").items()}
        super().__init__(version, folder, State(0, None, shared), count=SCENES)
        self.encoder.load_state_dict(part(shared, "text."))
        self.encoder.requires_grad_(False)
        self.denoiser.load_state_dict(load_file(WEIGHTS / f"{version}.safetensors"))
        self.denoiser.requires_grad_(False)
        self.latents, random = self.grey(self.latents), torch.Generator().manual_seed(0)
        self.trained = nn.ModuleDict()
        for name, layer in self.denoiser.named_modules():
            if "transformer_blocks" in name and isinstance(layer, nn.Linear):
                low = LowRank(layer.weight, random).to(self.device)
                parametrize.register_parametrization(layer, "weight", low)
                self.trained[name.replace(".", "_")] = low
        self.ema = {k: v.detach().clone() for k, v in self.trained.state_dict().items()}
        self.parameters = list(self.trained.parameters())
        self.optimizers = [torch.optim.AdamW(self.parameters, lr=1.0, weight_decay=0.01, fused=True)]

    def grey(self, latents: Tensor) -> Tensor:
        """The same pictures without their colours."""
        images = self.codec.decode(latents.float())
        luma = torch.einsum("nchw,c->nhw", images, torch.tensor(LUMA))
        return self.codec.encode(luma[:, None].expand_as(images))

    def learning_rate(self) -> float:
        return LEARNING_RATE * (1 - self.step / STEPS)

    def save_weights(self) -> None:
        weights: dict[str, Tensor] = {}
        for name in self.trained:
            key = f"lora_unet_{name}"
            weights |= {f"{key}.lora_{side}.weight": self.ema[f"{name}.{side}"] for side in ("up", "down")}
            weights[f"{key}.alpha"] = torch.tensor(float(RANK))
        provenance = {"source": scenes.index()["source"], "licence": "MIT", "trained": "demo/train_lora.py"}
        save_file({name: weight.half().cpu() for name, weight in weights.items()}, FILE, provenance)


def main() -> None:
    trainer = LoraTrainer()
    losses = []
    while trainer.step < STEPS:
        losses.append(trainer.train_step())
        if trainer.step % 20 == 0:
            print(f"{trainer.step}/{STEPS}  loss {sum(losses) / len(losses):.4f}", flush=True)
            losses = []
    trainer.sample_sheet()
    trainer.save_weights()
    print(f"{FILE}, samples in {trainer.folder}")


if __name__ == "__main__":
    main()
