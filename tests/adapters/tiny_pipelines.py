"""diffusers' own pipelines with random weights, small enough for a test: nothing is downloaded."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = {word: i for i, word in enumerate(("<start>", "<end>", "<unknown>", "a", "red", "green", "heart", "blurry"))}
LENGTH = 8  # of a prompt, in words
WIDTH, POOLED = 16, 8  # of the text encoders' tokens, and of their pooled answers
# As the schedulers of the published models are set.
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PLAIN_DDIM = {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


def tokenizer() -> PreTrainedTokenizerFast:
    """In place of CLIP's and of T5's: prompts are lists of words."""
    words = Tokenizer(models.WordLevel(WORDS, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(word, WORDS[word]) for word in ("<start>", "<end>")]
    words.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    special = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>", "unk_token": "<unknown>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=LENGTH, **special)


def clip(projected: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=POOLED,
        bos_token_id=WORDS["<start>"],
        eos_token_id=WORDS["<end>"],
        pad_token_id=WORDS["<end>"],
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5() -> T5EncoderModel:
    sizes = {"d_model": 2 * WIDTH, "d_kv": 8, "d_ff": WIDTH, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(WORDS), **sizes)).eval()


def vae(channels: int, **config: float) -> AutoencoderKL:
    """Two pixels to a side of a latent pixel; the scale brings what random weights make of noise near 1."""
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **{"scaling_factor": 6.0, **config},
    ).eval()


def unet(**config: object) -> UNet2DConditionModel:
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
    network = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **{"cross_attention_dim": WIDTH, **sizes, **config},
    )
    with torch.no_grad():
        network.conv_out.weight *= 0.3  # random weights are too steep for steps as long as a test's
    return network.eval()


def sd() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae(4),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet(),
        scheduler=DDIMScheduler(**PLAIN_DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    return StableDiffusionXLPipeline(
        vae=vae(4),
        text_encoder=clip(),
        text_encoder_2=clip(projected=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(cross_attention_dim=2 * WIDTH, projection_class_embeddings_input_dim=POOLED + 6 * 4, **added),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
    )


def sd3() -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * POOLED,
            pos_embed_max_size=8,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16, shift_factor=0.06),
        text_encoder=clip(projected=True),
        tokenizer=tokenizer(),
        text_encoder_2=clip(projected=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5(),
        tokenizer_3=tokenizer(),
    )


def flux(distilled: bool = True) -> FluxPipeline:
    """As Flux dev, or as Flux schnell, which is told no guidance and shifts no sigmas."""
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=distilled),
        vae=vae(16, shift_factor=0.11),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=distilled,
            axes_dims_rope=(4, 6, 6),
        ).eval(),
    )


PIPELINES = {"sd": sd, "sdxl": sdxl, "sd3": sd3, "flux": flux}


def build(name: str, **options: bool) -> DiffusionPipeline:
    """The same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = PIPELINES[name](**options)
    pipe.set_progress_bar_config(disable=True)
    return pipe
