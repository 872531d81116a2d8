"""Key tables of the official SAM 2, SAM 2.1 and EfficientTAM checkpoints (`.pt`, under `model`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tempomask.weights.layout import Conversion, Layout, extra_axes, rules

TRUNK = rules(
    """
    encoder.                   image_encoder.trunk.
      patch_embedding          patch_embed.proj
      position                 pos_embed
      window_position          pos_embed_window
      blocks.*.attention_norm  blocks.*.norm1
      blocks.*.qkv             blocks.*.attn.qkv
      blocks.*.output          blocks.*.attn.proj
      blocks.*.shortcut        blocks.*.proj
      blocks.*.mlp_norm        blocks.*.norm2
      blocks.*.expand          blocks.*.mlp.layers.0
      blocks.*.contract        blocks.*.mlp.layers.1
    """
)
# Their first convolution belongs to the coarsest map.
NECK = rules("neck.laterals.{0,1,2,3} image_encoder.neck.convs.{3,2,1,0}.conv")
# What both kinds share.
AFTER_ENCODER = rules(
    """
    memory_temporal_encoding                    maskmem_tpos_enc
    no_memory                                   no_mem_embed
    no_object_pointer                           no_obj_ptr
    occlusion_embedding                         no_obj_embed_spatial
    object_pointer_projection.layers            obj_ptr_proj.layers
    pointer_time_projection                     obj_ptr_tpos_proj
    mask_prompt_downsampler                     mask_downsample
    memory_attention.norm                       memory_attention.norm
    memory_attention.layers.*.                  memory_attention.layers.*.
      self_attention.{query,key,value,output}   self_attn.{q,k,v,out}_proj
      cross_attention.{query,key,value,output}  cross_attn_image.{q,k,v,out}_proj
      {self,cross,feedforward}_norm             {norm1,norm2,norm3}
      {expand,contract}                         {linear1,linear2}
    memory_encoder.                             memory_encoder.
      mask_downsampler.layers                   mask_downsampler.encoder
      feature_projection                        pix_feat_proj
      fuser.*.depthwise                         fuser.layers.*.dwconv
      fuser.*.norm                              fuser.layers.*.norm
      fuser.*.{expand,contract}                 fuser.layers.*.{pwconv1,pwconv2}
      fuser.*.scale                             fuser.layers.*.gamma
      output                                    out_proj
    prompt_encoder.                             sam_prompt_encoder.
      frequencies                               pe_layer.positional_encoding_gaussian_matrix
      not_a_point                               not_a_point_embed.weight
      no_mask                                   no_mask_embed.weight
      mask_embedding                            mask_downscaling
    mask_decoder.                               sam_mask_decoder.
      object_score_token                        obj_score_token.weight
      iou_token                                 iou_token.weight
      mask_tokens                               mask_tokens.weight
      upscale_{8,norm,4}                        output_upscaling.{0,1,3}
      stride_{4,8}                              conv_{s0,s1}
      mask_heads.*.layers                       output_hypernetworks_mlps.*.layers
      iou_head.layers                           iou_prediction_head.layers
      object_score_head.layers                  pred_obj_score_head.layers
    mask_decoder.transformer.                   sam_mask_decoder.transformer.
      final_attention.{query,key,value,output}  final_attn_token_to_image.{q,k,v,out}_proj
      final_norm                                norm_final_attn
    mask_decoder.transformer.blocks.*.          sam_mask_decoder.transformer.layers.*.
      self_attention.{query,key,value,output}   self_attn.{q,k,v,out}_proj
      token_to_image.{query,key,value,output}   cross_attn_token_to_image.{q,k,v,out}_proj
      image_to_token.{query,key,value,output}   cross_attn_image_to_token.{q,k,v,out}_proj
      {self,token,feedforward,image}_norm       {norm1,norm2,norm3,norm4}
      feedforward.layers                        mlp.layers
    """
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
HIERA_CONVERSIONS = {
    **CONVERSIONS,
    "encoder.position": extra_axes(0),
    "encoder.window_position": extra_axes(0),
}
UNREAD = (("no_mem_pos_enc", "no_mem_embed"),)

SAM2 = Layout(
    title="official SAM 2",
    marks=(
        "image_encoder.trunk.pos_embed_window",
        "image_encoder.neck.convs.0.conv.weight",
    ),
    rules=(*TRUNK, *NECK, *AFTER_ENCODER),
    stacks=(POINT_STACK,),
    conversions=HIERA_CONVERSIONS,
    unread=UNREAD,
)

EFFICIENTTAM_NECK = rules(
    """
    neck.                     image_encoder.neck.convs.0.
      {project,project_norm}  {conv_1x1,norm_0}
      {smooth,smooth_norm}    {conv_3x3,norm_1}
    """
)


def _position_to_ours(theirs: Tensor) -> Tensor:
    """(1, 1 + n n, C), the class token first, to (C, n, n); the class token's row is never read."""
    side = math.isqrt(theirs.shape[1] - 1)
    return theirs[0, 1:].T.reshape(-1, side, side)


def _position_to_theirs(ours: Tensor) -> Tensor:
    """(C, n, n) to (1, 1 + n n, C) with zeros for the class token."""
    rows = ours.flatten(1).T
    return torch.cat([torch.zeros_like(rows[:1]), rows])[None]


EFFICIENTTAM = Layout(
    title="EfficientTAM",
    marks=("image_encoder.trunk.pos_embed", "image_encoder.neck.convs.0.conv_1x1.weight"),
    rules=(*TRUNK, *EFFICIENTTAM_NECK, *AFTER_ENCODER),
    stacks=(POINT_STACK,),
    conversions={
        **CONVERSIONS,
        "encoder.position": Conversion(_position_to_ours, _position_to_theirs),
    },
    unread=UNREAD,
)
