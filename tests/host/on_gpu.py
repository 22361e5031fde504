"""A script: inverts and edits on the device that the host chooses, with models from the host's own loader.

`python on_gpu.py [--cpu]`, with the folders of the host, of this file and of the scripts on the path. Prints as JSON,
for each model, method and cfg: how far the same prompt comes back from the picture, relative ("back"), whether a second
inversion is the first to the last bit ("again"), and the device.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import inprocess

inprocess.boot(None, cpu="--cpu" in sys.argv)
import comfy.model_management
import comfy.sd
import torch
from families import FAMILIES, Family
from graphs import relative

# As small as the host's loader still recognises them.
SD15 = {
    "model_channels": 320, "context_dim": 768, "num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [1],
    "transformer_depth_output": [0, 0], "transformer_depth_middle": -2, "num_heads": 8, "num_head_channels": -1,
}  # fmt: skip
FLUX = {"hidden_size": 128, "num_heads": 1, "axes_dim": [16, 56, 56]}


def larger(name: str, network: dict[str, Any], **changes: Any) -> Family:
    known = FAMILIES[name]
    return replace(known, network={**known.network, **network}, **changes)


LOADED = {
    "SD1.5": larger("SD1.5 eps", SD15, width=768),
    "SD3": FAMILIES["SD3"],
    "Flux": larger("Flux dev", FLUX),
}
METHODS = ("EasyInv", "FixedPoint", "GuidedNR")


def main() -> list[dict[str, Any]]:
    pack, found = inprocess.load_pack(), []
    for family, small in LOADED.items():
        bench = small.bench(pack)
        weights = {name: weight.clone() for name, weight in bench.model.model.diffusion_model.state_dict().items()}
        bench.model = comfy.sd.load_diffusion_model_state_dict(weights)
        for method in METHODS:
            for cfg in (1.0, 3.0):
                given = {"steps": 6, "cfg": cfg, "negative": bench.negative}
                up, again = (bench.invert(method, **given)[0] for _ in range(2))
                back = bench.edit(latent=up, cfg=cfg, negative=bench.negative)[0]["samples"]
                found.append(
                    {
                        "what": f"{family}, {method}, cfg {cfg:g}",
                        "back": relative(back.cpu(), bench.latent["samples"]),
                        "again": torch.equal(up["samples"], again["samples"]),
                        "device": str(comfy.model_management.get_torch_device()),
                    }
                )
    return found


if __name__ == "__main__":
    with torch.inference_mode():
        print(json.dumps(main()))
