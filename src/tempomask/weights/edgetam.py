"""Key tables of EdgeTAM: the official checkpoint (`.pt`, under `model`) and that of `transformers`.

Both keep timm's names for the encoder. They name parts by stage; our blocks stand in one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tempomask.models.config import EDGETAM as CONFIG
from tempomask.models.config import RepViTConfig, SegmenterConfig
from tempomask.weights.layout import Conversion, Layout, Rules, extra_axes, rules
from tempomask.weights.sam2 import AFTER_ENCODER, CONVERSIONS, NECK, POINT_STACK
from tempomask.weights.sam2 import UNREAD as OFFICIAL_UNREAD
from tempomask.weights.transformers_sam2 import AFTER_TRUNK, COPIES, UNREAD, check_settings

# Ours and timm's within a block; conv and norm are c and bn there.
BLOCK = """
    mixer.{depthwise,pointwise}.conv  token_mixer.{conv,conv1}.c
    mixer.{depthwise,pointwise}.norm  token_mixer.{conv,conv1}.bn
    {squeeze,excite}                  se.{fc1,fc2}
    {expand,expand_norm}              channel_mixer.conv1.{c,bn}
    {contract,contract_norm}          channel_mixer.conv2.{c,bn}
"""
DOWNSAMPLER = """
    {halve,widen}.conv        {spatial,channel}_downsample.c
    {halve,widen}.norm        {spatial,channel}_downsample.bn
    {expand,expand_norm}      ffn.conv1.{c,bn}
    {contract,contract_norm}  ffn.conv2.{c,bn}
"""
STEM = "stem.{0,2}.conv stem.{conv1,conv2}.c\nstem.{0,2}.norm stem.{conv1,conv2}.bn"


def trunk(config: RepViTConfig, prefix: str) -> Rules:
    """The rows of an encoder whose names start with a prefix in their files."""
    places: list[tuple[str, str]] = []
    for stage, depth in enumerate(config.stages):
        if stage:
            before = f"stages_{stage}.downsample."
            places += [(f"{before}pre_block.", BLOCK), (before, DOWNSAMPLER)]
        places += [(f"stages_{stage}.blocks.{index}.", BLOCK) for index in range(depth)]
    table = rules(f"encoder. {prefix}\n{STEM}")
    for index, (place, rows) in enumerate(places):
        table += rules(f"encoder.blocks.{index}. {prefix}{place}\n{rows.strip()}")
    return table


def trunk_conversions(config: RepViTConfig) -> dict[str, Conversion]:
    """Their 1x1 convolutions that are linear layers here."""
    blocks = sum(config.stages) + 2 * (len(config.stages) - 1)
    return {
        f"encoder.blocks.{index}.{name}.weight": extra_axes(2, 3)
        for index in range(blocks)
        for name in ("expand", "contract")
    }


ENCODER = RepViTConfig()
ALL_CONVERSIONS = {**CONVERSIONS, **trunk_conversions(ENCODER)}

OFFICIAL_PERCEIVER = rules(
    """
    perceiver.                            spatial_perceiver.
      {latents,grid_latents,norm}         {latents,latents_2d,norm}
    perceiver.layers.*.                   spatial_perceiver.layers.*.
      {latent,memory}_norm                attn.norm_{latents,x}
      self_norm                           self_attn.norm
      cross_mlp.{norm,expand,contract}    ff.{0,1,3}
      self_mlp.{norm,expand,contract}     self_ff.{0,1,3}
    perceiver.layers.*.cross_attention.   spatial_perceiver.layers.*.attn.
      {query,key_value,output}            {to_q,to_kv,to_out}
    perceiver.layers.*.self_attention.    spatial_perceiver.layers.*.self_attn.
      {query,key_value,output}            {to_q,to_kv,to_out}
    """
)
EDGETAM = Layout(
    title="official EdgeTAM",
    marks=("image_encoder.trunk.body.stem.conv1.c.weight", "spatial_perceiver.latents"),
    rules=(
        *trunk(ENCODER, "image_encoder.trunk.body."),
        *NECK,
        *OFFICIAL_PERCEIVER,
        *AFTER_ENCODER,
    ),
    stacks=(POINT_STACK,),
    conversions=ALL_CONVERSIONS,
    unread=OFFICIAL_UNREAD,
    counters=True,
)

PERCEIVER = rules(
    """
    perceiver.                                      spatial_perceiver.
      {latents,grid_latents,norm}                   {latents_1d,latents_2d,layer_norm}
    perceiver.layers.*.                             spatial_perceiver.layers.*.
      {latent,memory,self}_norm                     layer_norm_{latents,input,self}
      {cross,self}_attention.query                  {cross,self}_attention.q_proj
      {cross,self}_attention.output                 {cross,self}_attention.o_proj
      {cross,self}_mlp.norm                         {mlp,self_mlp}.layer_norm
      {cross,self}_mlp.expand                       {mlp,self_mlp}.up_proj
      {cross,self}_mlp.contract                     {mlp,self_mlp}.down_proj
    memory_attention.layers.*.                      memory_attention.layers.*.
      {expand,contract}                             mlp.{up_proj,down_proj}
    """
)
TRANSFORMERS_EDGETAM = Layout(
    title="transformers EdgeTAM",
    marks=(
        "vision_encoder.backbone.timm_model.stem.conv1.c.weight",
        "spatial_perceiver.latents_1d",
    ),
    rules=(*trunk(ENCODER, "vision_encoder.backbone.timm_model."), *PERCEIVER, *AFTER_TRUNK),
    stacks=tuple(
        (
            f"perceiver.layers.*.{kind}_attention.key_value",
            tuple(f"spatial_perceiver.layers.*.{kind}_attention.{x}_proj" for x in "kv"),
        )
        for kind in ("cross", "self")
    ),
    conversions=ALL_CONVERSIONS,
    copies=COPIES,
    unread=UNREAD,
    counters=True,
)

# There is one size; only the side of the image varies.
SETTINGS = {
    "enable_occlusion_spatial_embedding": False,
    "enable_temporal_pos_encoding_for_object_pointers": False,
    "num_maskmem": CONFIG.memory_frames,
    "max_object_pointers_in_encoder": CONFIG.max_pointers,
    "multimask_min_pt_num": CONFIG.multimask_min_points,
    "multimask_max_pt_num": CONFIG.multimask_max_points,
    "memory_attention_num_layers": 2,
    "memory_attention_mlp_hidden_size": 2048,
    "memory_attention_rope_k_sizes": [16, 16],
    "memory_encoder_output_channels": 64,
    "perceiver_resampler_num_latents": 256,
    "perceiver_resampler_num_latents_2d": 256,
    "perceiver_resampler_num_layers": 2,
    "perceiver_resampler_num_attention_heads": 1,
    "vision_config.backbone_channel_list": [384, 192, 96, 48],
    "vision_config.backbone_config.architecture": "repvit_m1",
}


def edgetam_config_of(config: Mapping[str, Any]) -> SegmenterConfig:
    """Our configuration for the parsed config.json of an EdgeTamVideoModel.

    Raises:
        InputError: The file describes another kind of model, or another size of it.
    """
    check_settings(config, "edgetam_video", "an EdgeTAM video model", SETTINGS)
    side = config.get("image_size", CONFIG.image_size)
    return replace(CONFIG, image_size=side[0] if isinstance(side, list) else side)
