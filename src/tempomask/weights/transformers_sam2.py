"""SAM 2 as `transformers` stores it (`Sam2VideoModel`): key table and config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tempomask.errors import InputError
from tempomask.models.config import (
    SEGMENTERS,
    HieraConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
)
from tempomask.weights.layout import Layout, Rules, attention_rules, extra_axes
from tempomask.weights.sam2 import CONVERSIONS


def attention(ours: str, theirs: str) -> Rules:
    """The four projections of an attention module."""
    return attention_rules(ours, theirs, output="o_proj")


def three_layers(ours: str, theirs: str) -> Rules:
    """The layers of an MLP of three."""
    names = ("proj_in", "layers.0", "proj_out")
    return tuple((f"{ours}.layers.{i}", f"{theirs}.{name}") for i, name in enumerate(names))


def downsampler_layers() -> Rules:
    """The four convolutions of the mask downsampler, with the norms after them."""
    ours, theirs = "memory_encoder.mask_downsampler", "memory_encoder.mask_downsampler"
    pairs: list[tuple[str, str]] = []
    for i in range(4):
        pairs.append((f"{ours}.layers.{3 * i}", f"{theirs}.layers.{i}.conv"))
        pairs.append((f"{ours}.layers.{3 * i + 1}", f"{theirs}.layers.{i}.layer_norm"))
    return (*pairs, (f"{ours}.layers.12", f"{theirs}.final_conv"))


ENCODER: Rules = (
    ("encoder.patch_embedding", "vision_encoder.backbone.patch_embed.projection"),
    ("encoder.position", "vision_encoder.backbone.pos_embed"),
    ("encoder.window_position", "vision_encoder.backbone.pos_embed_window"),
    ("encoder.blocks.*.attention_norm", "vision_encoder.backbone.blocks.*.layer_norm1"),
    ("encoder.blocks.*.qkv", "vision_encoder.backbone.blocks.*.attn.qkv"),
    ("encoder.blocks.*.output", "vision_encoder.backbone.blocks.*.attn.proj"),
    ("encoder.blocks.*.shortcut", "vision_encoder.backbone.blocks.*.proj"),
    ("encoder.blocks.*.mlp_norm", "vision_encoder.backbone.blocks.*.layer_norm2"),
    ("encoder.blocks.*.expand", "vision_encoder.backbone.blocks.*.mlp.proj_in"),
    ("encoder.blocks.*.contract", "vision_encoder.backbone.blocks.*.mlp.proj_out"),
    # Their first convolution belongs to the coarsest map.
    ("neck.laterals.0", "vision_encoder.neck.convs.3"),
    ("neck.laterals.1", "vision_encoder.neck.convs.2"),
    ("neck.laterals.2", "vision_encoder.neck.convs.1"),
    ("neck.laterals.3", "vision_encoder.neck.convs.0"),
)
MEMORY: Rules = (
    *attention(
        "memory_attention.layers.*.self_attention",
        "memory_attention.layers.*.self_attn",
    ),
    *attention(
        "memory_attention.layers.*.cross_attention",
        "memory_attention.layers.*.cross_attn_image",
    ),
    ("memory_attention.layers.*.self_norm", "memory_attention.layers.*.layer_norm1"),
    ("memory_attention.layers.*.cross_norm", "memory_attention.layers.*.layer_norm2"),
    (
        "memory_attention.layers.*.feedforward_norm",
        "memory_attention.layers.*.layer_norm3",
    ),
    ("memory_attention.layers.*.expand", "memory_attention.layers.*.linear1"),
    ("memory_attention.layers.*.contract", "memory_attention.layers.*.linear2"),
    ("memory_attention.norm", "memory_attention.layer_norm"),
    *downsampler_layers(),
    ("memory_encoder.feature_projection", "memory_encoder.feature_projection"),
    (
        "memory_encoder.fuser.*.depthwise",
        "memory_encoder.memory_fuser.layers.*.depthwise_conv",
    ),
    ("memory_encoder.fuser.*.norm", "memory_encoder.memory_fuser.layers.*.layer_norm"),
    (
        "memory_encoder.fuser.*.expand",
        "memory_encoder.memory_fuser.layers.*.pointwise_conv1",
    ),
    (
        "memory_encoder.fuser.*.contract",
        "memory_encoder.memory_fuser.layers.*.pointwise_conv2",
    ),
    ("memory_encoder.fuser.*.scale", "memory_encoder.memory_fuser.layers.*.scale"),
    ("memory_encoder.output", "memory_encoder.projection"),
    ("memory_temporal_encoding", "memory_temporal_positional_encoding"),
    ("no_memory", "no_memory_embedding"),
    ("no_object_pointer", "no_object_pointer"),
    ("occlusion_embedding", "occlusion_spatial_embedding_parameter"),
    *three_layers("object_pointer_projection", "object_pointer_proj"),
    ("pointer_time_projection", "temporal_positional_encoding_projection_layer"),
    ("mask_prompt_downsampler", "mask_downsample"),
)
PROMPTS: Rules = (
    (
        "prompt_encoder.frequencies",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    ("prompt_encoder.point_embeddings", "prompt_encoder.point_embed.weight"),
    ("prompt_encoder.not_a_point", "prompt_encoder.not_a_point_embed.weight"),
    ("prompt_encoder.no_mask", "prompt_encoder.no_mask_embed.weight"),
    ("prompt_encoder.mask_embedding.0", "prompt_encoder.mask_embed.conv1"),
    ("prompt_encoder.mask_embedding.1", "prompt_encoder.mask_embed.layer_norm1"),
    ("prompt_encoder.mask_embedding.3", "prompt_encoder.mask_embed.conv2"),
    ("prompt_encoder.mask_embedding.4", "prompt_encoder.mask_embed.layer_norm2"),
    ("prompt_encoder.mask_embedding.6", "prompt_encoder.mask_embed.conv3"),
)
_OURS, _THEIRS = "mask_decoder.transformer", "mask_decoder.transformer"
DECODER: Rules = (
    ("mask_decoder.object_score_token", "mask_decoder.obj_score_token.weight"),
    ("mask_decoder.iou_token", "mask_decoder.iou_token.weight"),
    ("mask_decoder.mask_tokens", "mask_decoder.mask_tokens.weight"),
    *attention(f"{_OURS}.blocks.*.self_attention", f"{_THEIRS}.layers.*.self_attn"),
    *attention(
        f"{_OURS}.blocks.*.token_to_image",
        f"{_THEIRS}.layers.*.cross_attn_token_to_image",
    ),
    *attention(
        f"{_OURS}.blocks.*.image_to_token",
        f"{_THEIRS}.layers.*.cross_attn_image_to_token",
    ),
    (f"{_OURS}.blocks.*.self_norm", f"{_THEIRS}.layers.*.layer_norm1"),
    (f"{_OURS}.blocks.*.token_norm", f"{_THEIRS}.layers.*.layer_norm2"),
    (f"{_OURS}.blocks.*.feedforward.layers.0", f"{_THEIRS}.layers.*.mlp.proj_in"),
    (f"{_OURS}.blocks.*.feedforward.layers.1", f"{_THEIRS}.layers.*.mlp.proj_out"),
    (f"{_OURS}.blocks.*.feedforward_norm", f"{_THEIRS}.layers.*.layer_norm3"),
    (f"{_OURS}.blocks.*.image_norm", f"{_THEIRS}.layers.*.layer_norm4"),
    *attention(f"{_OURS}.final_attention", f"{_THEIRS}.final_attn_token_to_image"),
    (f"{_OURS}.final_norm", f"{_THEIRS}.layer_norm_final_attn"),
    ("mask_decoder.upscale_8", "mask_decoder.upscale_conv1"),
    ("mask_decoder.upscale_norm", "mask_decoder.upscale_layer_norm"),
    ("mask_decoder.upscale_4", "mask_decoder.upscale_conv2"),
    ("mask_decoder.stride_4", "mask_decoder.conv_s0"),
    ("mask_decoder.stride_8", "mask_decoder.conv_s1"),
    *three_layers("mask_decoder.mask_heads.*", "mask_decoder.output_hypernetworks_mlps.*"),
    *three_layers("mask_decoder.iou_head", "mask_decoder.iou_prediction_head"),
    *three_layers("mask_decoder.object_score_head", "mask_decoder.pred_obj_score_head"),
)

TRANSFORMERS_SAM2 = Layout(
    title="transformers SAM 2",
    marks=(
        "vision_encoder.backbone.pos_embed_window",
        "memory_temporal_positional_encoding",
    ),
    rules=(*ENCODER, *MEMORY, *PROMPTS, *DECODER),
    conversions={
        **CONVERSIONS,
        "encoder.position": extra_axes(0),
        "encoder.window_position": extra_axes(0),
    },
    copies=(
        (
            "shared_image_embedding.positional_embedding",
            "prompt_encoder.shared_embedding.positional_embedding",
        ),
    ),
    unread=(("no_memory_positional_encoding", "no_memory_embedding"),),
)

# What we have no option for, with the value that all released models use.
FIXED = {
    "sigmoid_scale_for_mem_enc": 20.0,
    "sigmoid_bias_for_mem_enc": -10.0,
    "multimask_output_in_sam": True,
    "multimask_output_for_tracking": True,
    "memory_attention_num_attention_heads": 1,
    "memory_attention_downsample_rate": 1,
    "memory_attention_feed_forward_hidden_act": "relu",
    "mask_downsampler_kernel_size": 3,
    "mask_downsampler_stride": 2,
    "mask_downsampler_total_stride": 16,
    "memory_fuser_num_layers": 2,
    "memory_fuser_kernel_size": 7,
    "vision_config.fpn_top_down_levels": [2, 3],
    "vision_config.num_feature_levels": 3,
    "vision_config.backbone_config.mlp_ratio": 4.0,
    "vision_config.backbone_config.num_query_pool_stages": 3,
    "mask_decoder_config.attention_downsample_rate": 2,
    "mask_decoder_config.iou_head_depth": 3,
    "prompt_encoder_config.num_point_embeddings": 4,
}


def segmenter_config_of(config: Mapping[str, Any]) -> SegmenterConfig:
    """Our configuration for the parsed config.json of a Sam2VideoModel.

    The name is that of the released model with these sizes, or "sam2-custom". InputError if the
    file describes another kind of model, or sets what SAM 2 as released does not vary.
    """
    kind = config.get("model_type")
    if kind != "sam2_video":
        raise InputError(
            f"config.json describes a model of type {kind!r}; a SAM 2 video model is of type"
            " sam2_video"
        )
    for key, expected in FIXED.items():
        found = _value(config, key, expected)
        if found != expected:
            raise InputError(f"config.json sets {key} to {found}; only {expected} is supported")
    ours = _segmenter(config)
    for name, variant in SEGMENTERS.items():
        if replace(variant, name=ours.name, image_size=ours.image_size) == ours:
            return replace(ours, name=name)
    return ours


def _value(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of a dotted key; transformers leaves values out that are its defaults."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return default if node is None else node


def _segmenter(config: Mapping[str, Any]) -> SegmenterConfig:
    def value(key: str, default: Any) -> Any:
        return _value(config, key, default)

    stages = tuple(value("vision_config.backbone_config.blocks_per_stage", (1, 2, 7, 2)))
    dims = value("vision_config.backbone_config.embed_dim_per_stage", (96, 192, 384, 768))
    heads = value("vision_config.backbone_config.num_attention_heads_per_stage", (1, 2, 4, 8))
    growth = [2**stage for stage in range(len(stages))]
    if list(dims) != [dims[0] * g for g in growth] or list(heads) != [heads[0] * g for g in growth]:
        raise InputError(
            f"config.json gives the stages {list(dims)} channels and {list(heads)} heads;"
            " both must double from stage to stage"
        )
    background = value(
        "vision_config.backbone_config.window_positional_embedding_background_size",
        (7, 7),
    )
    windows = value("vision_config.backbone_config.window_size_per_stage", (8, 4, 14, 7))
    everywhere = value("vision_config.backbone_config.global_attention_blocks", (5, 7, 9))
    encoder = HieraConfig(
        embed_dim=dims[0],
        num_heads=heads[0],
        stages=stages,
        global_attention_blocks=tuple(everywhere),
        window_sizes=tuple(windows),
        position_size=(background[0], background[1]),
    )
    size = value("image_size", 1024)
    return SegmenterConfig(
        name="sam2-custom",
        encoder=encoder,
        image_size=size if isinstance(size, int) else size[0],
        hidden_dim=value("vision_config.fpn_hidden_size", 256),
        memory_dim=value("memory_encoder_output_channels", 64),
        memory_attention=MemoryAttentionConfig(
            layers=value("memory_attention_num_layers", 4),
            feedforward_dim=value("memory_attention_feed_forward_hidden_size", 2048),
            rope_theta=float(value("rope_parameters.rope_theta", 10000.0)),
        ),
        mask_decoder=MaskDecoderConfig(
            depth=value("mask_decoder_config.num_hidden_layers", 2),
            num_heads=value("mask_decoder_config.num_attention_heads", 8),
            feedforward_dim=value("mask_decoder_config.mlp_dim", 2048),
            num_multimasks=value("mask_decoder_config.num_multimask_outputs", 3),
            iou_hidden_dim=value("mask_decoder_config.iou_head_hidden_dim", 256),
        ),
        occlusion_embedding=value("enable_occlusion_spatial_embedding", True),
        pointer_temporal_encoding=value("enable_temporal_pos_encoding_for_object_pointers", True),
        memory_frames=value("num_maskmem", 7),
        max_pointers=value("max_object_pointers_in_encoder", 16),
        mask_prompt_channels=value("prompt_encoder_config.mask_input_channels", 16),
        multimask_min_points=value("multimask_min_pt_num", 0),
        multimask_max_points=value("multimask_max_pt_num", 1),
    )
