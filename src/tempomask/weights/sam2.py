"""Key table of the official SAM 2 and SAM 2.1 checkpoints (`.pt`, state under `model`)."""

from __future__ import annotations

from tempomask.weights.layout import Layout, Rules, attention_rules, extra_axes

TRUNK: Rules = (
    ("encoder.patch_embedding", "image_encoder.trunk.patch_embed.proj"),
    ("encoder.position", "image_encoder.trunk.pos_embed"),
    ("encoder.window_position", "image_encoder.trunk.pos_embed_window"),
    ("encoder.blocks.*.attention_norm", "image_encoder.trunk.blocks.*.norm1"),
    ("encoder.blocks.*.qkv", "image_encoder.trunk.blocks.*.attn.qkv"),
    ("encoder.blocks.*.output", "image_encoder.trunk.blocks.*.attn.proj"),
    ("encoder.blocks.*.shortcut", "image_encoder.trunk.blocks.*.proj"),
    ("encoder.blocks.*.mlp_norm", "image_encoder.trunk.blocks.*.norm2"),
    ("encoder.blocks.*.expand", "image_encoder.trunk.blocks.*.mlp.layers.0"),
    ("encoder.blocks.*.contract", "image_encoder.trunk.blocks.*.mlp.layers.1"),
)
# Their first convolution belongs to the coarsest map.
NECK: Rules = (
    ("neck.laterals.0", "image_encoder.neck.convs.3.conv"),
    ("neck.laterals.1", "image_encoder.neck.convs.2.conv"),
    ("neck.laterals.2", "image_encoder.neck.convs.1.conv"),
    ("neck.laterals.3", "image_encoder.neck.convs.0.conv"),
)
MEMORY: Rules = (
    *attention_rules(
        "memory_attention.layers.*.self_attention",
        "memory_attention.layers.*.self_attn",
    ),
    *attention_rules(
        "memory_attention.layers.*.cross_attention",
        "memory_attention.layers.*.cross_attn_image",
    ),
    ("memory_attention.layers.*.self_norm", "memory_attention.layers.*.norm1"),
    ("memory_attention.layers.*.cross_norm", "memory_attention.layers.*.norm2"),
    ("memory_attention.layers.*.feedforward_norm", "memory_attention.layers.*.norm3"),
    ("memory_attention.layers.*.expand", "memory_attention.layers.*.linear1"),
    ("memory_attention.layers.*.contract", "memory_attention.layers.*.linear2"),
    ("memory_attention.norm", "memory_attention.norm"),
    (
        "memory_encoder.mask_downsampler.layers",
        "memory_encoder.mask_downsampler.encoder",
    ),
    ("memory_encoder.feature_projection", "memory_encoder.pix_feat_proj"),
    ("memory_encoder.fuser.*.depthwise", "memory_encoder.fuser.layers.*.dwconv"),
    ("memory_encoder.fuser.*.norm", "memory_encoder.fuser.layers.*.norm"),
    ("memory_encoder.fuser.*.expand", "memory_encoder.fuser.layers.*.pwconv1"),
    ("memory_encoder.fuser.*.contract", "memory_encoder.fuser.layers.*.pwconv2"),
    ("memory_encoder.fuser.*.scale", "memory_encoder.fuser.layers.*.gamma"),
    ("memory_encoder.output", "memory_encoder.out_proj"),
    ("memory_temporal_encoding", "maskmem_tpos_enc"),
    ("no_memory", "no_mem_embed"),
    ("no_object_pointer", "no_obj_ptr"),
    ("occlusion_embedding", "no_obj_embed_spatial"),
    ("object_pointer_projection.layers", "obj_ptr_proj.layers"),
    ("pointer_time_projection", "obj_ptr_tpos_proj"),
    ("mask_prompt_downsampler", "mask_downsample"),
)
PROMPTS: Rules = (
    (
        "prompt_encoder.frequencies",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    ("prompt_encoder.not_a_point", "sam_prompt_encoder.not_a_point_embed.weight"),
    ("prompt_encoder.no_mask", "sam_prompt_encoder.no_mask_embed.weight"),
    ("prompt_encoder.mask_embedding", "sam_prompt_encoder.mask_downscaling"),
)
_OURS, _THEIRS = "mask_decoder.transformer", "sam_mask_decoder.transformer"
DECODER: Rules = (
    ("mask_decoder.object_score_token", "sam_mask_decoder.obj_score_token.weight"),
    ("mask_decoder.iou_token", "sam_mask_decoder.iou_token.weight"),
    ("mask_decoder.mask_tokens", "sam_mask_decoder.mask_tokens.weight"),
    *attention_rules(f"{_OURS}.blocks.*.self_attention", f"{_THEIRS}.layers.*.self_attn"),
    *attention_rules(
        f"{_OURS}.blocks.*.token_to_image",
        f"{_THEIRS}.layers.*.cross_attn_token_to_image",
    ),
    *attention_rules(
        f"{_OURS}.blocks.*.image_to_token",
        f"{_THEIRS}.layers.*.cross_attn_image_to_token",
    ),
    (f"{_OURS}.blocks.*.self_norm", f"{_THEIRS}.layers.*.norm1"),
    (f"{_OURS}.blocks.*.token_norm", f"{_THEIRS}.layers.*.norm2"),
    (f"{_OURS}.blocks.*.feedforward.layers", f"{_THEIRS}.layers.*.mlp.layers"),
    (f"{_OURS}.blocks.*.feedforward_norm", f"{_THEIRS}.layers.*.norm3"),
    (f"{_OURS}.blocks.*.image_norm", f"{_THEIRS}.layers.*.norm4"),
    *attention_rules(f"{_OURS}.final_attention", f"{_THEIRS}.final_attn_token_to_image"),
    (f"{_OURS}.final_norm", f"{_THEIRS}.norm_final_attn"),
    ("mask_decoder.upscale_8", "sam_mask_decoder.output_upscaling.0"),
    ("mask_decoder.upscale_norm", "sam_mask_decoder.output_upscaling.1"),
    ("mask_decoder.upscale_4", "sam_mask_decoder.output_upscaling.3"),
    ("mask_decoder.stride_4", "sam_mask_decoder.conv_s0"),
    ("mask_decoder.stride_8", "sam_mask_decoder.conv_s1"),
    (
        "mask_decoder.mask_heads.*.layers",
        "sam_mask_decoder.output_hypernetworks_mlps.*.layers",
    ),
    ("mask_decoder.iou_head.layers", "sam_mask_decoder.iou_prediction_head.layers"),
    (
        "mask_decoder.object_score_head.layers",
        "sam_mask_decoder.pred_obj_score_head.layers",
    ),
)
POINT_STACK = (
    "prompt_encoder.point_embeddings",
    tuple(f"sam_prompt_encoder.point_embeddings.{label}.weight" for label in range(4)),
)
CONVERSIONS = {
    "memory_temporal_encoding": extra_axes(1, 2),
    "no_memory": extra_axes(0, 1),
    "no_object_pointer": extra_axes(0),
    "occlusion_embedding": extra_axes(0),
    "prompt_encoder.not_a_point": extra_axes(0),
    "prompt_encoder.no_mask": extra_axes(0),
}
UNREAD: Rules = (("no_mem_pos_enc", "no_mem_embed"),)

SAM2 = Layout(
    title="official SAM 2",
    marks=(
        "image_encoder.trunk.pos_embed_window",
        "image_encoder.neck.convs.0.conv.weight",
    ),
    rules=(*TRUNK, *NECK, *MEMORY, *PROMPTS, *DECODER),
    stacks=(POINT_STACK,),
    conversions={
        **CONVERSIONS,
        "encoder.position": extra_axes(0),
        "encoder.window_position": extra_axes(0),
    },
    unread=UNREAD,
)
