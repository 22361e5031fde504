"""Micro models, one for each family that the host can sample, in the host's own classes and with random weights.

Only the networks are small: the sampling rule, the latent format and what the prompts carry are each family's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import ModuleType
from typing import Any

import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.hunyuan_video.model
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy_extras import nodes_custom_sampler, nodes_model_advanced
from graphs import Bench
from torch import Tensor

TOKENS = 7
WIDTH = 16


@dataclass(frozen=True)
class Family:
    """A model family.

    Arguments:
        config: the class in comfy.supported_models.
        network: what that class reads from a checkpoint, here for a network of at most two million weights.
        latent: shape of one latent.
        last: the network's last layer.
        width: of the prompts' tokens.
        prompt: what else the prompts carry: the thing itself, or a shape to be filled at random.
        markers: likewise, the checkpoint's entries from which the config takes more than its network.
        patch: the host's node that changes the sampling rule.
        sigmas: (model, steps, denoise) -> SIGMAS, for families with a scheduler of their own.
        odd: other latent sides, such that the patches do not divide them where the network takes those.
        mixes: whether the network lets the items of a batch see one another.
        calm: factor on the last layer's random weights, which makes the ODE as gentle as a trained model's.
    """

    config: str
    network: Mapping[str, Any]
    latent: tuple[int, ...]
    last: str = "final_layer.linear"
    width: int = WIDTH
    prompt: Mapping[str, Any] = field(default_factory=dict)
    markers: Mapping[str, Any] = field(default_factory=dict)
    patch: Callable[[Any], Any] | None = None
    sigmas: Callable[[Any, int, float], Tensor] | None = None
    odd: tuple[int, ...] = (9, 7)
    mixes: bool = False
    calm: float = 0.05

    def bench(self, pack: ModuleType, batch: int = 1, sides: tuple[int, ...] = ()) -> Bench:
        """The model with prompts and a LATENT of `batch` pictures, whose last axes are `sides` if given."""
        random = torch.Generator().manual_seed(0)
        model = self.model(random)
        prompts = [self._prompt(random) for _ in range(3)]
        shape = (batch, *self.latent[: len(self.latent) - len(sides)], *sides)
        return Bench(pack, model, *prompts, {"samples": model.model.process_latent_out(picture(shape, random))})

    def schedule(self, bench: Bench, steps: int, denoise: float = 1.0) -> Tensor:
        if self.sigmas is not None:
            return self.sigmas(bench.model, steps, denoise)
        return bench.pack.nodes.host.scheduled_sigmas(bench.model, steps, "normal", denoise)

    def model(self, random: torch.Generator) -> Any:
        """The MODEL, on the host's own classes."""
        base = getattr(comfy.supported_models, self.config)
        given = {name: self.network.get(name, value) for name, value in base.unet_extra_config.items()}
        config = type(self.config, (base,), {"unet_extra_config": given})(understood(self.network))
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model(drawn(self.markers, random), "").eval()
        fill(model.diffusion_model, random)
        model.diffusion_model.get_submodule(self.last).weight.data.mul_(self.calm)
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        device = comfy.model_management.get_torch_device()
        made = patcher(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())
        return made if self.patch is None else self.patch(made)

    def _prompt(self, random: torch.Generator) -> list:
        return [[torch.randn(1, TOKENS, self.width, generator=random), drawn(self.prompt, random)]]


def drawn(wanted: Mapping[str, Any], random: torch.Generator) -> dict[str, Any]:
    """With the shapes filled at random."""
    return {
        name: torch.randn(value, generator=random) if isinstance(value, tuple) else value
        for name, value in wanted.items()
    }


def understood(network: Mapping[str, Any]) -> dict[str, Any]:
    """Without what an older host's networks do not ask for yet; they have the choice built in."""
    flux, chroma, hunyuan = comfy.ldm.flux.model, comfy.ldm.chroma.model, comfy.ldm.hunyuan_video.model
    parameters = {
        "flux": flux.FluxParams,
        "flux2": flux.FluxParams,
        "chroma": chroma.ChromaParams,
        "hunyuan_video": hunyuan.HunyuanVideoParams,
    }.get(network.get("image_model", ""))
    if parameters is None:
        return dict(network)
    names = {"image_model", *(f.name for f in fields(parameters))}
    return {name: value for name, value in network.items() if name in names}


def fill(network: torch.nn.Module, random: torch.Generator) -> None:
    """Random weights, norms near 1: the host's layers come with whatever was in memory."""
    saved = network.state_dict()  # what a checkpoint has, some buffers among it
    tables = [(name, table) for name, table in network.named_buffers() if name in saved]
    for name, weight in [*network.named_parameters(), *tables]:
        noise = torch.randn(weight.shape, generator=random)
        if weight.ndim >= 2:
            weight.data.copy_(noise * weight[0].numel() ** -0.5)
        else:
            weight.data.copy_(noise * 0.02 + name.endswith(("weight", "scale", "gamma")))


def picture(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Smooth fields with a little grain, of unit variance: what a picture's latent looks like to the model."""
    coarse = torch.randn(*shape[:2], *(max(2, side // 4) for side in shape[2:]), generator=random)
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[len(shape)]
    smooth = torch.nn.functional.interpolate(coarse, shape[2:], mode=mode, align_corners=True)
    state = smooth + 0.1 * torch.randn(shape, generator=random)
    return state / state.std()


def lcm(model: Any) -> Any:
    return nodes_model_advanced.ModelSamplingDiscrete().patch(model, "lcm", False)[0]


def edm(model: Any) -> Any:
    return nodes_model_advanced.ModelSamplingContinuousEDM().patch(model, "edm", 120.0, 0.002)[0]


def turbo(model: Any, steps: int, denoise: float) -> Tensor:
    return nodes_custom_sampler.SDTurboScheduler.execute(model, steps, denoise).args[0]


POOLED = {"pooled_output": (1, WIDTH)}
EVEN = (10, 6)  # for networks that refuse odd sides, whatever asks them
ALL_TOKENS = torch.ones(1, TOKENS, dtype=torch.long)
SEEN = {"attention_mask": ALL_TOKENS}

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1],
    "channel_mult": [1], "num_heads": 2, "num_head_channels": -1, "transformer_depth": [1],
    "transformer_depth_output": [1, 1], "transformer_depth_middle": 1, "context_dim": WIDTH,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False, "adm_in_channels": None,
    "use_checkpoint": False, "use_temporal_resblock": False, "use_temporal_attention": False,
}  # fmt: skip
SD15 = Family("SD15", UNET, (4, 8, 8), last="out.2", calm=0.003)
SDXL = replace(
    SD15,
    config="SDXL",
    network=UNET | {"use_linear_in_transformer": True, "adm_in_channels": 2816, "num_classes": "sequential"},
    prompt={"pooled_output": (1, 1280)},
)

MMDIT = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 1, "input_size": None, "adm_in_channels": WIDTH,
    "num_patches": 256, "pos_embed_max_size": 16, "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [],
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 64}},
}  # fmt: skip
STREAMS = {
    "patch_size": 2, "in_channels": 16, "out_channels": 16, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 4.0,
    "context_in_dim": WIDTH, "vec_in_dim": WIDTH, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12],
    "theta": 10000, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
FLUX = Family("Flux", STREAMS | {"image_model": "flux"}, (16, 8, 8), prompt=POOLED)
FLUX2 = STREAMS | {
    "image_model": "flux2", "patch_size": 1, "in_channels": 128, "out_channels": 128, "vec_in_dim": None,
    "axes_dim": [8, 8, 8, 8], "mlp_ratio": 3.0, "theta": 2000, "qkv_bias": False, "ops_bias": False,
    "global_modulation": True, "mlp_silu_act": True, "txt_ids_dims": [3],
}  # fmt: skip
CHROMA = STREAMS | {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "in_dim": 64, "out_dim": 64,
    "hidden_dim": 64, "n_layers": 1,
}  # fmt: skip
HUNYUAN = STREAMS | {
    "image_model": "hunyuan_video", "patch_size": [1, 2, 2], "theta": 256, "byt5": False, "meanflow": False,
    "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
HUNYUAN_IMAGE = HUNYUAN | {
    "patch_size": [1, 1], "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "axes_dim": [16, 16],
    "guidance_embed": False,
}  # fmt: skip
HUNYUAN15 = HUNYUAN | {  # next to the noise it is shown a first frame, here none, and a mask
    "patch_size": [1, 1, 1], "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "vision_in_dim": WIDTH,
    "guidance_embed": False, "use_cond_type_embedding": True, "meanflow_sum": True,
}  # fmt: skip
HYDIT = {
    "image_model": "hydit", "hidden_size": 64, "depth": 2, "num_heads": 2, "text_states_dim": WIDTH,
    "text_states_dim_t5": WIDTH, "text_len": TOKENS, "text_len_t5": TOKENS,
}  # fmt: skip
QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "attention_head_dim": 32,
    "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip
WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "in_dim": 16, "out_dim": 16, "dim": 64, "ffn_dim": 128,
    "freq_dim": 32, "text_dim": WIDTH, "text_len": 16, "num_heads": 2, "num_layers": 1,
}  # fmt: skip
LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "cap_feat_dim": WIDTH, "n_layers": 1,
    "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "multiple_of": 16, "ffn_dim_multiplier": 1.0,
    "qk_norm": True, "axes_dims": [8, 12, 12], "axes_lens": [300, 512, 512],
}  # fmt: skip
ZIMAGE = LUMINA | {  # its modulation is 256 wide
    "dim": 256, "n_heads": 8, "n_kv_heads": 8, "ffn_dim_multiplier": 0.5, "rope_theta": 256.0,
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
AURA = {
    "dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 64, "cond_seq_dim": WIDTH,
    "max_seq": 64,
}  # fmt: skip
LTXV = {
    "image_model": "ltxv", "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2,
    "cross_attention_dim": 64, "caption_channels": WIDTH,
}  # fmt: skip
PIXART = {
    "image_model": "pixart_sigma", "input_size": 64, "patch_size": 2, "hidden_size": 48, "depth": 1, "num_heads": 2,
    "caption_channels": WIDTH, "pe_interpolation": 1, "micro_condition": False, "model_max_length": 300,
}  # fmt: skip
COSMOS_PREDICT2 = {
    "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 1, "num_heads": 2,
    "concat_padding_mask": True, "crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d", "use_adaln_lora": True,
    "adaln_lora_dim": 8,
}  # fmt: skip
COSMOS = COSMOS_PREDICT2 | {
    "image_model": "cosmos", "block_config": "FA-CA-MLP", "block_x_format": "THWBD", "affline_emb_norm": True,
    "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
HIDREAM = {
    "image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1,
    "num_single_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": [WIDTH, WIDTH],
    "text_emb_dim": WIDTH, "axes_dims_rope": (16, 8, 8), "max_resolution": (128, 128), "llama_layers": [0, 1],
}  # fmt: skip
MOCHI = {  # its feed-forward is 12288 wide
    "image_model": "mochi_preview", "depth": 1, "patch_size": 2, "num_heads": 1, "hidden_size_x": 32,
    "hidden_size_y": 16, "mlp_ratio_x": 384.0, "mlp_ratio_y": 4.0, "learn_sigma": False, "in_channels": 12,
    "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "posenc_preserve_area": True,
    "timestep_scale": 1000.0, "use_t5": True, "t5_feat_dim": WIDTH,
}  # fmt: skip
CASCADE = {
    "stable_cascade_stage": "c", "c_cond": 64, "c_hidden": [64, 64], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]],
    "c_clip_text": WIDTH, "c_clip_text_pooled": WIDTH, "c_r": 16,
}  # fmt: skip
AUDIO = {
    "audio_model": "dit1.0", "embed_dim": 64, "project_cond_tokens": True, "depth": 1, "num_heads": 1,
}  # fmt: skip
NUMBERS = {
    f"conditioner.conditioners.{number}.embedder.embedding.{name}": shape
    for number in ("seconds_start", "seconds_total")
    for name, shape in (("0.weights", (128,)), ("1.weight", (768, 257)), ("1.bias", (768,)))
}
OMNIGEN = {
    "hidden_size": 48, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1,
    "multiple_of": 16, "axes_dim_rope": [8, 8, 8], "axes_lens": [1024, 1664, 1664], "timestep_scale": 1000.0,
}  # fmt: skip
OMNIGEN2 = OMNIGEN | {"image_model": "omnigen2", "text_feat_dim": WIDTH}
BOOGU = OMNIGEN | {"image_model": "boogu", "num_double_stream_layers": 1, "instruction_feat_dim": WIDTH}
KANDINSKY5 = {
    "image_model": "kandinsky5", "in_text_dim": WIDTH, "in_text_dim2": WIDTH, "time_dim": 32, "model_dim": 64,
    "ff_dim": 128, "visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": (8, 12, 12),
}  # fmt: skip
KREA2 = {
    "image_model": "krea2", "features": 64, "tdim": 32, "txtdim": WIDTH, "heads": 2, "kvheads": 1, "layers": 1,
    "txtlayers": 2, "txtheads": 1, "txtkvheads": 1,
}  # fmt: skip

ERNIE = {
    "image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 128,
    "text_in_dim": WIDTH, "rope_axes_dim": (8, 12, 12),
}  # fmt: skip
LENS = {
    "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 1, "attention_head_dim": 32,
    "num_attention_heads": 2, "enc_hidden_dim": WIDTH, "axes_dims_rope": (8, 12, 12),
    "multi_layer_encoder_feature": False, "selected_layer_index": (0,),
}  # fmt: skip
MAGE = QWEN | {"image_model": "mage_flow", "in_channels": 128, "out_channels": 128}
IDEOGRAM4 = {
    "image_model": "ideogram4", "in_channels": 128, "num_layers": 1, "num_attention_heads": 2,
    "attention_head_dim": 32, "intermediate_size": 128, "adaln_dim": 32, "llm_features_dim": WIDTH,
    "mrope_section": [8, 4, 4],
}  # fmt: skip
JOY = {
    "image_model": "joyimage", "hidden_size": 64, "num_attention_heads": 2, "text_dim": WIDTH, "num_layers": 1,
    "rope_dim_list": [8, 12, 12],
}  # fmt: skip
ACE15 = {
    "audio_model": "ace1.5", "hidden_size": 64, "text_hidden_dim": WIDTH, "num_dit_layers": 1, "num_lyric_layers": 1,
    "num_timbre_layers": 1, "num_tokenizer_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32,
    "intermediate_size": 128, "fsq_dim": 64, "encoder_hidden_size": 64, "encoder_intermediate_size": 128,
    "encoder_num_heads": 2,
}  # fmt: skip

FAMILIES = {
    "SD1.5 eps": SD15,
    "SD2 v": replace(SD15, config="SD20", markers={"output_blocks.11.1.transformer_blocks.0.norm1.bias": (64,)}),
    "SDXL eps": SDXL,
    "SDXL v, zero terminal SNR": replace(SDXL, markers={"v_pred": (), "ztsnr": ()}),
    "SDXL Turbo": replace(SDXL, sigmas=turbo),
    "LCM": replace(SD15, patch=lcm),
    "EDM": replace(SD15, patch=edm),
    "Playground 2.5 (EDM)": replace(SDXL, markers={"edm_mean": (), "edm_std": ()}),
    "CosXL (EDM v)": replace(SDXL, markers={"edm_vpred.sigma_max": torch.tensor(120.0)}),
    "SD3": Family("SD3", MMDIT, (16, 8, 8), prompt=POOLED),
    "Flux dev": FLUX,
    "Flux schnell": replace(FLUX, config="FluxSchnell", network={**FLUX.network, "guidance_embed": False}),
    "LongCat-Image": replace(
        FLUX,
        config="LongCatImage",
        network={**FLUX.network, "vec_in_dim": None, "guidance_embed": False, "txt_ids_dims": [1, 2]},
    ),
    "Flux.2": Family("Flux2", FLUX2, (128, 4, 4), prompt=POOLED, odd=(5, 3)),
    "Chroma": Family("Chroma", CHROMA, (16, 8, 8), prompt=POOLED),
    "Qwen-Image": Family("QwenImage", QWEN, (16, 1, 8, 8), last="proj_out"),
    "Z-Image": Family("ZImage", ZIMAGE, (16, 8, 8)),
    "Lumina 2": Family("Lumina2", LUMINA, (16, 8, 8)),
    "AuraFlow": Family("AuraFlow", AURA, (4, 8, 8), last="final_linear"),
    "HiDream": Family(
        "HiDream", HIDREAM, (16, 8, 8), prompt=POOLED | {"conditioning_llama3": (1, 2, TOKENS, WIDTH)}, calm=0.01
    ),
    "OmniGen2": Family("Omnigen2", OMNIGEN2, (16, 8, 8), last="norm_out.linear_2", prompt=SEEN),
    "HunyuanImage 2.1": Family("HunyuanImage21", HUNYUAN_IMAGE, (64, 8, 8)),
    "ERNIE-Image": Family("ErnieImage", ERNIE, (128, 4, 4), last="final_linear", odd=(5, 3)),
    "Lens": Family("Lens", LENS, (128, 4, 4), last="proj_out", odd=(5, 3)),
    "Mage-Flow": Family("MageFlow", MAGE, (128, 4, 4), last="proj_out", odd=(5, 3)),
    "Ideogram 4": Family("Ideogram4", IDEOGRAM4, (128, 4, 4), odd=(5, 3)),
    "Boogu-Image": Family("Boogu", BOOGU, (16, 8, 8), last="norm_out.linear_2", prompt=SEEN),
    "JoyImage": Family("JoyImage", JOY, (16, 1, 8, 8), last="proj_out", odd=EVEN),
    "Krea 2": Family("Krea2", KREA2, (16, 1, 8, 8), last="last.linear", width=2 * WIDTH),
    "Hunyuan-DiT": Family(
        "HunyuanDiT",
        HYDIT,
        (4, 8, 8),
        prompt=SEEN | {"conditioning_mt5xl": (1, TOKENS, WIDTH), "attention_mask_mt5xl": ALL_TOKENS},
    ),
    "PixArt Sigma": Family("PixArtSigma", PIXART, (4, 34, 34), odd=(38, 32)),
    "Stable Cascade, stage C": Family("Stable_Cascade_C", CASCADE, (16, 8, 8), last="clf.1", prompt=POOLED),
    "Wan 2.1": Family("WAN21_T2V", WAN, (16, 3, 8, 8), last="head.head"),
    "Wan 2.2 5B": Family("WAN22_T2V", WAN | {"in_dim": 48, "out_dim": 48}, (48, 3, 8, 8), last="head.head"),
    "HunyuanVideo": Family("HunyuanVideo", HUNYUAN, (16, 3, 8, 8), prompt=POOLED, odd=EVEN),
    "HunyuanVideo 1.5": Family("HunyuanVideo15", HUNYUAN15, (32, 3, 4, 4), prompt=POOLED, odd=(5, 3)),
    "LTX-Video": Family("LTXV", LTXV, (128, 3, 4, 4), last="proj_out", prompt=SEEN, odd=(5, 3)),
    "Cosmos": Family("CosmosT2V", COSMOS, (16, 3, 8, 8), odd=EVEN),
    "Cosmos Predict2": Family("CosmosT2IPredict2", COSMOS_PREDICT2, (16, 1, 8, 8), odd=EVEN),
    "Mochi": Family("GenmoMochi", MOCHI, (12, 3, 8, 8), prompt=SEEN, odd=EVEN),
    "Kandinsky 5": Family("Kandinsky5", KANDINSKY5, (16, 3, 8, 8), last="out_layer.out_layer", prompt=POOLED, odd=EVEN),
    "Stable Audio": Family(
        "StableAudio", AUDIO, (64, 32), last="transformer.project_out", width=768, markers=NUMBERS, odd=(31,)
    ),
    "ACE-Step 1.5": Family(
        "ACEStep15",
        ACE15,
        (64, 32),
        last="decoder.proj_out.1",
        prompt={"conditioning_lyrics": (1, 5, WIDTH)},
        odd=(31,),
        mixes=True,
    ),
}

ABSENT = {
    "0.33.0": {},
    "0.30.0": {},
    "0.3.75": dict.fromkeys(
        (
            "LongCat-Image",
            "ERNIE-Image",
            "Lens",
            "Mage-Flow",
            "Ideogram 4",
            "Boogu-Image",
            "JoyImage",
            "Krea 2",
            "Kandinsky 5",
            "ACE-Step 1.5",
        ),
        "newer than this ComfyUI",
    ),
}
"""Families above that a host lacks, and why."""

NOT_BUILT = {
    "ACE-Step": "its lyric encoder has 83 million weights whatever the checkpoint; a flow model like ACE-Step 1.5",
    "Anima": "its text adapter has 135 million weights whatever the checkpoint; Cosmos Predict2's network as a flow",
    "CogVideoX": "its sampling rule (V_PREDICTION_DDPM) is refused",
    "Lotus, Wan FlowRVS": "they turn a picture into another without noise: refused",
    "LTX-2, MiniMax H3, TripoSplat": "their LATENT holds several latents: refused",
    "Chroma Radiance, HiDream O1, PixelDiT, Z-Image in pixels": "they work on pixels; their latents need no VAE",
    "HunyuanImage 2.1 refiner": "it refines a given latent, which changes shape on the way into the model",
    "image-to-image and image-to-video variants": "the sampling rule and network of their text models, with a picture "
    "in the conditioning",
    "Hunyuan3D": "shapes, no pictures",
}
"""Families of the host that are not above, and why."""
