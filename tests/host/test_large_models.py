"""The benchmark of real checkpoints, on one of few layers and random weights: what a GPU runs, without one."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import comfy.taesd.taesd
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from test_workflows import random_weights, text_encoder, unet
from torch import Tensor

from benchmarks import large_models

__all__ = ["text_encoder"]  # a fixture
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, text_encoder: dict[str, Tensor]) -> Path:
    """A models folder with a tiny SD 1.x under the name that the benchmark looks for."""
    parts = {
        "model.diffusion_model.": random_weights(unet()),
        "first_stage_model.": random_weights(comfy.taesd.taesd.TAESD(latent_channels=4)),
        "cond_stage_model.transformer.": text_encoder,
    }
    folder = tmp_path_factory.mktemp("models")
    (folder / "checkpoints").mkdir()
    weights = {before + name: weight for before, part in parts.items() for name, weight in part.items()}
    save_file(weights, folder / "checkpoints" / large_models.CHECKPOINTS["SD1.5"].file)
    return folder


@pytest.mark.once
def test_it_says_which_checkpoints_it_needs(models: Path, tmp_path: Path) -> None:
    every = [checkpoint.file for checkpoint in large_models.CHECKPOINTS.values()]
    assert large_models.missing(tmp_path) == every
    assert large_models.missing(models) == every[1:]
    assert str(models / "checkpoints" / every[1]) in large_models.needs(models)
    assert every[0] not in large_models.needs(models)


@pytest.mark.once
def test_a_table_has_every_method_beside_the_papers_numbers(
    pack: ModuleType, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = large_models.CHECKPOINTS["SD1.5"]
    small = large_models.Checkpoint(known.file, 64, 2, "normal", False, known.paper)
    monkeypatch.setitem(large_models.CHECKPOINTS, "SD1.5", small)
    shown = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    Image.fromarray(shown).save(tmp_path / "one.png")
    (tmp_path / "one.txt").write_text("a picture of noise\n", encoding="utf-8")
    (picture, text) = next(large_models.captioned(tmp_path, 64))
    assert picture.shape == (1, 64, 64, 3)
    assert text == "a picture of noise"

    lines = {
        line[1]: line for line in large_models.round_trips(pack, "SD1.5", models / "checkpoints" / known.file, tmp_path)
    }
    assert {"VAE alone", "DDIM or Euler", "EasyInv, SD1.x", "GNRI, paper, 2", *large_models.MANY} <= lines.keys()
    bound = float(lines["VAE alone"][4])
    exact = lines["ours: Fixed Point, up to 80, to 5e-6"]
    assert float(exact[4]) == pytest.approx(bound, abs=0.2)  # a gentle random model: its exact inverse is found
    assert float(exact[2]) > float(lines["DDIM or Euler"][2]) == 1
    assert lines["GNRI, paper, 2"][2] == "4.0"  # two calls and a backward pass
    assert lines["EasyInv, SD1.x"][-1].startswith("30.189 dB")


@pytest.mark.once
def test_the_command_says_what_it_needs() -> None:
    """As a person runs it, without a GPU."""
    if large_models.GPU:
        pytest.skip("with a GPU it measures")
    run = subprocess.run([sys.executable, large_models.__file__], capture_output=True, text=True, env=environment())
    assert "measures on an NVIDIA GPU, and this machine has none" in run.stderr
    assert "sd_xl_turbo_1.0_fp16.safetensors" in run.stdout


def environment() -> dict[str, str]:
    """As `scripts/benchmark.py` has it: the host's own packages and `nodes` come first."""
    host = [str(Path(os.environ["COMFYUI_ROOT"])), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = [REPOSITORY, *(REPOSITORY / name for name in ("benchmarks", "scripts", "tests/core", "tests/host"))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*host, *map(str, own)])}
