"""To the last bit on a GPU too: with models from the host's own loader, in a process that may use one."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import demo
from host import REPOSITORY, Host

HERE = Path(__file__).parent
EXACT = 1e-6  # relative; into the model's space and back a latent is rounded twice


def on(host: Host, *options: str) -> list[dict[str, Any]]:
    environment = host.environment()
    own = (HERE, REPOSITORY / "scripts")
    environment["PYTHONPATH"] += os.pathsep + os.pathsep.join(map(str, own))
    command = [str(host.python), str(HERE / "on_gpu.py"), *options]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def check(found: list[dict[str, Any]], device: str) -> None:
    assert len(found) == 18
    for one in found:
        assert one["device"].startswith(device), one
        assert one["back"] <= EXACT, one
        assert one["again"], one


@pytest.mark.once
def test_the_report_says_where_exactness_was_not_seen(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, host = demo(pack, "flow"), pack.nodes.host
    says = "Exactly means to rounding here"
    assert host.on_cpu(bench.model)
    assert says not in bench.invert(steps=2)[3]
    elsewhere = bench.model.clone()
    elsewhere.load_device = torch.device("cuda")
    assert not host.on_cpu(elsewhere)
    monkeypatch.setattr(host, "on_cpu", lambda model: False)
    assert says in bench.invert(steps=2)[3]


@pytest.mark.once
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_same_prompt_comes_back_to_the_last_bit_on_a_gpu(host: Host) -> None:
    check(on(host), "cuda")


@pytest.mark.once
def test_the_same_prompt_comes_back_to_the_last_bit_with_the_hosts_loader(host: Host) -> None:
    check(on(host, "--cpu"), "cpu")
