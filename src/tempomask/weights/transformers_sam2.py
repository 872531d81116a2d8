"""SAM 2 as `transformers` stores it (`Sam2VideoModel`): key table and config.json."""

from __future__ import annotations

from collections import defaultdict
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
from tempomask.weights.layout import Layout, rules
from tempomask.weights.sam2 import HIERA_CONVERSIONS

TRUNK = rules(
    """
    encoder.                   vision_encoder.backbone.
      patch_embedding          patch_embed.projection
      position                 pos_embed
      window_position          pos_embed_window
      blocks.*.attention_norm  blocks.*.layer_norm1
      blocks.*.qkv             blocks.*.attn.qkv
      blocks.*.output          blocks.*.attn.proj
      blocks.*.shortcut        blocks.*.proj
      blocks.*.mlp_norm        blocks.*.layer_norm2
      blocks.*.expand          blocks.*.mlp.proj_in
      blocks.*.contract        blocks.*.mlp.proj_out
    """
)
# What EdgeTAM's files share.
AFTER_TRUNK = rules(
    """
    .                                           .
      neck.laterals.{0,1,2,3}                   vision_encoder.neck.convs.{3,2,1,0}
      memory_temporal_encoding                  memory_temporal_positional_encoding
      no_memory                                 no_memory_embedding
      no_object_pointer                         no_object_pointer
      occlusion_embedding                       occlusion_spatial_embedding_parameter
      object_pointer_projection.layers.{0,1,2}  object_pointer_proj.{proj_in,layers.0,proj_out}
      pointer_time_projection                   temporal_positional_encoding_projection_layer
      mask_prompt_downsampler                   mask_downsample
      memory_attention.norm                     memory_attention.layer_norm
    memory_attention.layers.*.                  memory_attention.layers.*.
      self_attention.{query,key,value,output}   self_attn.{q,k,v,o}_proj
      cross_attention.{query,key,value,output}  cross_attn_image.{q,k,v,o}_proj
      {self,cross,feedforward}_norm             layer_norm{1,2,3}
      {expand,contract}                         {linear1,linear2}
    memory_encoder.                             memory_encoder.
      mask_downsampler.layers.{0,3,6,9}         mask_downsampler.layers.{0,1,2,3}.conv
      mask_downsampler.layers.{1,4,7,10}        mask_downsampler.layers.{0,1,2,3}.layer_norm
      mask_downsampler.layers.12                mask_downsampler.final_conv
      feature_projection                        feature_projection
      fuser.*.depthwise                         memory_fuser.layers.*.depthwise_conv
      fuser.*.norm                              memory_fuser.layers.*.layer_norm
      fuser.*.{expand,contract}                 memory_fuser.layers.*.pointwise_conv{1,2}
      fuser.*.scale                             memory_fuser.layers.*.scale
      output                                    projection
    prompt_encoder.                             prompt_encoder.
      frequencies                               shared_embedding.positional_embedding
      point_embeddings                          point_embed.weight
      not_a_point                               not_a_point_embed.weight
      no_mask                                   no_mask_embed.weight
      mask_embedding.{0,3,6}                    mask_embed.conv{1,2,3}
      mask_embedding.{1,4}                      mask_embed.layer_norm{1,2}
    mask_decoder.                               mask_decoder.
      object_score_token                        obj_score_token.weight
      iou_token                                 iou_token.weight
      mask_tokens                               mask_tokens.weight
      upscale_{8,norm,4}                        upscale_{conv1,layer_norm,conv2}
      stride_{4,8}                              conv_s{0,1}
      mask_heads.*.layers.{0,1,2}  output_hypernetworks_mlps.*.{proj_in,layers.0,proj_out}
      iou_head.layers.{0,1,2}                   iou_prediction_head.{proj_in,layers.0,proj_out}
      object_score_head.layers.{0,1,2}          pred_obj_score_head.{proj_in,layers.0,proj_out}
    mask_decoder.transformer.                   mask_decoder.transformer.
      final_attention.{query,key,value,output}  final_attn_token_to_image.{q,k,v,o}_proj
      final_norm                                layer_norm_final_attn
    mask_decoder.transformer.blocks.*.          mask_decoder.transformer.layers.*.
      self_attention.{query,key,value,output}   self_attn.{q,k,v,o}_proj
      token_to_image.{query,key,value,output}   cross_attn_token_to_image.{q,k,v,o}_proj
      image_to_token.{query,key,value,output}   cross_attn_image_to_token.{q,k,v,o}_proj
      {self,token,feedforward,image}_norm       layer_norm{1,2,3,4}
      feedforward.layers.{0,1}                  mlp.{proj_in,proj_out}
    """
)

COPIES = rules(
    "shared_image_embedding.positional_embedding"
    "  prompt_encoder.shared_embedding.positional_embedding"
)
UNREAD = rules("no_memory_positional_encoding  no_memory_embedding")

TRANSFORMERS_SAM2 = Layout(
    title="transformers SAM 2",
    marks=("vision_encoder.backbone.pos_embed_window", "memory_temporal_positional_encoding"),
    rules=(*TRUNK, *AFTER_TRUNK),
    conversions=HIERA_CONVERSIONS,
    copies=COPIES,
    unread=UNREAD,
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


# Our settings and their keys. transformers leaves out its defaults, which are ours too.
KEYS = rules(
    """
    encoder.                   vision_config.backbone_config.
      stages                   blocks_per_stage
      global_attention_blocks  global_attention_blocks
      window_sizes             window_size_per_stage
      position_size            window_positional_embedding_background_size
      embed_dim                embed_dim_per_stage
      num_heads                num_attention_heads_per_stage
    memory_attention.          .
      layers                   memory_attention_num_layers
      feedforward_dim          memory_attention_feed_forward_hidden_size
      rope_theta               rope_parameters.rope_theta
    mask_decoder.              mask_decoder_config.
      depth                    num_hidden_layers
      num_heads                num_attention_heads
      feedforward_dim          mlp_dim
      num_multimasks           num_multimask_outputs
      iou_hidden_dim           iou_head_hidden_dim
    .                          .
      image_size               image_size
      hidden_dim               vision_config.fpn_hidden_size
      memory_dim               memory_encoder_output_channels
      occlusion_embedding      enable_occlusion_spatial_embedding
      pointer_temporal_encoding  enable_temporal_pos_encoding_for_object_pointers
      memory_frames            num_maskmem
      max_pointers             max_object_pointers_in_encoder
      mask_prompt_channels     prompt_encoder_config.mask_input_channels
      multimask_min_points     multimask_min_pt_num
      multimask_max_points     multimask_max_pt_num
    """
)
# They list these by stage, ours are the first stage's; both double from stage to stage.
DOUBLING = ("embed_dim", "num_heads")


def segmenter_config_of(config: Mapping[str, Any]) -> SegmenterConfig:
    """Our configuration for the parsed config.json of a Sam2VideoModel.

    Returns:
        A configuration with the name of the released model of these sizes, or "sam2-custom".

    Raises:
        InputError: The file describes another kind of model, or sets what SAM 2 as released does
            not vary.
    """
    check_settings(config, "sam2_video", "a SAM 2 video model")
    ours = _segmenter(config)
    for name, variant in SEGMENTERS.items():
        if replace(variant, name=ours.name, image_size=ours.image_size) == ours:
            return replace(ours, name=name)
    return ours


def check_settings(
    config: Mapping[str, Any], kind: str, title: str, settings: Mapping[str, Any] | None = None
) -> None:
    """InputError unless a config.json is of a kind, and sets only what we have an option for.

    settings: What this kind does not vary, besides `FIXED`.
    """
    found = config.get("model_type")
    if found != kind:
        raise InputError(
            f"config.json describes a model of type {found!r}; {title} is of type {kind}"
        )
    for key, expected in {**FIXED, **(settings or {})}.items():
        found = _value(config, key)
        if found is not None and found != expected:
            raise InputError(f"config.json sets {key} to {found}; only {expected} is supported")


def _segmenter(config: Mapping[str, Any]) -> SegmenterConfig:
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for ours, theirs in KEYS:
        part, _, name = ours.rpartition(".")
        value = _value(config, theirs)
        if value is not None:
            parts[part][name] = tuple(value) if isinstance(value, list) else value
    encoder, own = parts["encoder"], parts[""]
    stages = len(encoder.get("stages", HieraConfig.stages))
    for name in DOUBLING:
        values = encoder.get(name)
        if values is not None and values != tuple(values[0] * 2**stage for stage in range(stages)):
            raise InputError(
                f"config.json gives the stages {list(values)} as {name}; it must double from stage"
                " to stage"
            )
        encoder |= {} if values is None else {name: values[0]}
    if isinstance(own.get("image_size"), tuple):
        own["image_size"] = own["image_size"][0]
    return SegmenterConfig(
        name="sam2-custom",
        encoder=HieraConfig(**encoder),
        memory_attention=MemoryAttentionConfig(**parts["memory_attention"]),
        mask_decoder=MaskDecoderConfig(**parts["mask_decoder"]),
        **own,
    )


def _value(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, None if it is left out."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
