"""Key tables of Mask2Former: detectron2's (MinVIS, DVIS++) and transformers' published names.

detectron2 files hold the state under `model`; DVIS++'s online stage adds `tracker` and the
re-identification head to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tempomask.errors import InputError
from tempomask.files import read_json
from tempomask.models.instances.config import (
    InstanceConfig,
    PixelDecoderConfig,
    QueryDecoderConfig,
    ResNetConfig,
    SwinConfig,
)
from tempomask.weights.files import Checkpoint
from tempomask.weights.layout import Layout, State, rename, rules

# Tensors that are computed, not learned.
COMPUTED = ("num_batches_tracked", "relative_position_index", "empty_weight")

# detectron2 keeps a stack of layers as three lists: cross-attention, self-attention, feed-forward.
_LAYERS = """
      cross_attention.input_weight           cross_attention_layers.*.multihead_attn.in_proj_weight
      cross_attention.input_bias             cross_attention_layers.*.multihead_attn.in_proj_bias
      cross_attention.output                 cross_attention_layers.*.multihead_attn.out_proj
      cross_norm                             cross_attention_layers.*.norm
      self_attention.attention.input_weight  self_attention_layers.*.self_attn.in_proj_weight
      self_attention.attention.input_bias    self_attention_layers.*.self_attn.in_proj_bias
      self_attention.attention.output        self_attention_layers.*.self_attn.out_proj
      self_attention.norm                    self_attention_layers.*.norm
      feed_forward.{expand,contract,norm}    ffn_layers.*.{linear1,linear2,norm}
"""
# R50 or Swin; the names of a norm begin with its convolution's, so that norms come first.
_DETECTRON2 = rules(
    """
    network.backbone.                         backbone.
      stem.norm                               stem.conv1.norm
      stem.conv                               stem.conv1
      stages.{0,1,2,3}.*.shortcut.norm        res{2,3,4,5}.*.shortcut.norm
      stages.{0,1,2,3}.*.shortcut.conv        res{2,3,4,5}.*.shortcut
      stages.{0,1,2,3}.*.conv{1,2,3}.norm     res{2,3,4,5}.*.conv{1,2,3}.norm
      stages.{0,1,2,3}.*.conv{1,2,3}.conv     res{2,3,4,5}.*.conv{1,2,3}
      patch_embedding                         patch_embed.proj
      patch_norm                              patch_embed.norm
      stages.*.blocks.*.{attention,mlp}_norm  layers.*.blocks.*.{norm1,norm2}
      stages.*.blocks.*.{qkv,output}          layers.*.blocks.*.attn.{qkv,proj}
      stages.*.blocks.*.position_bias         layers.*.blocks.*.attn.relative_position_bias_table
      stages.*.blocks.*.{expand,contract}     layers.*.blocks.*.mlp.{fc1,fc2}
      stages.*.merge                          layers.*.downsample
      norms.{0,1,2,3}                         norm{0,1,2,3}
    network.pixel_decoder.                    sem_seg_head.pixel_decoder.
      projections.*.{conv,norm}               input_proj.*.{0,1}
      level_embedding                         transformer.level_embed
      layers.*.attention.offsets  transformer.encoder.layers.*.self_attn.sampling_offsets
      layers.*.attention.weights  transformer.encoder.layers.*.self_attn.attention_weights
      layers.*.attention.{value,output}  transformer.encoder.layers.*.self_attn.{value,output}_proj
      layers.*.{attention_norm,norm}          transformer.encoder.layers.*.{norm1,norm2}
      layers.*.{expand,contract}              transformer.encoder.layers.*.{linear1,linear2}
      {lateral,smooth}.norm                   {adapter_1,layer_1}.norm
      {lateral,smooth}.conv                   {adapter_1,layer_1}
      mask_projection                         mask_features
    network.query_decoder.                    sem_seg_head.predictor.
      query_{features,positions}              {query_feat,query_embed}.weight
      level_embedding                         level_embed.weight
      norm                                    decoder_norm
      {class,mask}_head                       {class,mask}_embed
    tracker.                                  tracker.
      norm                                    decoder_norm
      {class,mask}_head                       {class,mask}_embed
      reference_head                          ref_proj
      mask_projection                         mask_feature_proj
    tracker.                                  sem_seg_head.predictor.
      reid_head                               reid_embed
    """
)
_REFINER = rules(
    """
    refiner.                          refiner.
      norm                            decoder_norm
      {class,mask}_head               {class,mask}_embed
      frame_weight                    activation_proj
      layers.*.near                   conv_short_aggregate_layers.*
      layers.*.near_norm              conv_norms.*
    refiner.layers.*.time_attention.  refiner.transformer_time_self_attention_layers.*.
      attention.input_{weight,bias}   self_attn.in_proj_{weight,bias}
      attention.output                self_attn.out_proj
      norm                            norm
    refiner.layers.*.track_attention. refiner.transformer_obj_self_attention_layers.*.
      attention.input_{weight,bias}   self_attn.in_proj_{weight,bias}
      attention.output                self_attn.out_proj
      norm                            norm
    """
)
DETECTRON2 = Layout(
    title="detectron2",
    marks=("sem_seg_head.predictor.query_feat.weight",),
    rules=(
        *_DETECTRON2,
        *rules("network.query_decoder.layers.*. sem_seg_head.predictor.transformer_" + _LAYERS),
        *rules("tracker.layers.*. tracker.transformer_" + _LAYERS),
        *_REFINER,
        *rules("refiner.layers.*. refiner.transformer_" + _LAYERS),
    ),
)

_EXTRACTOR = """
      {query,feature}_norm          {query,feat}_norm
      attention.{offsets,weights}   attn.{sampling_offsets,attention_weights}
      attention.{value,output}      attn.{value,output}_proj
      mixing_norm                   ffn_norm
      mix                           ffn.dwconv.dwconv
      {expand,contract}             ffn.{fc1,fc2}
"""
_VIT_ADAPTER = rules(
    """
    network.backbone.                         backbone.
      patch_embedding                         vit_module.patch_embed.proj
      {cls_token,position}                    vit_module.{cls_token,pos_embed}
      blocks.*.{attention,mlp}_norm           vit_module.blocks.*.{norm1,norm2}
      blocks.*.{qkv,output}                   vit_module.blocks.*.attn.{qkv,proj}
      blocks.*.{attention,mlp}_scale          vit_module.blocks.*.{ls1,ls2}.gamma
      blocks.*.{expand,contract}              vit_module.blocks.*.mlp.{fc1,fc2}
      prior.stem.{0,1,2}.conv                 spm.stem.{0,3,6}
      prior.stem.{0,1,2}.norm                 spm.stem.{1,4,7}
      prior.coarser.{0,1,2}.conv              spm.{conv2,conv3,conv4}.0
      prior.coarser.{0,1,2}.norm              spm.{conv2,conv3,conv4}.1
      prior.projections.{0,1,2,3}             spm.{fc1,fc2,fc3,fc4}
      {level_embedding,finer}                 {level_embed,up}
      norms.{0,1,2,3}                         {norm1,norm2,norm3,norm4}
    """
)
# DVIS++ on ViT-Adapter: its names of norms are Swin's, one further.
DETECTRON2_VIT_ADAPTER = Layout(
    title="detectron2 with ViT-Adapter",
    marks=("backbone.vit_module.cls_token",),
    rules=(
        *_VIT_ADAPTER,
        *rules(
            "network.backbone.extractors.{0,1,2,3}. backbone.interactions.{0,1,2,3}.extractor."
            + _EXTRACTOR
        ),
        *rules(
            "network.backbone.extractors.{4,5}. backbone.interactions.3.extra_extractors.{0,1}."
            + _EXTRACTOR
        ),
        *DETECTRON2.rules,
    ),
)

_TRANSFORMERS = rules(
    """
    network.backbone.                      model.pixel_level_module.encoder.
      stem.{conv,norm}                     embedder.embedder.{convolution,normalization}
      patch_embedding                      embeddings.patch_embeddings.projection
      patch_norm                           embeddings.norm
      stages.*.merge                       encoder.layers.*.downsample
      norms.{0,1,2,3}                      hidden_states_norms.stage{1,2,3,4}
    network.backbone.stages.*.*.  model.pixel_level_module.encoder.encoder.stages.*.layers.*.
      shortcut.{conv,norm}                 shortcut.{convolution,normalization}
      conv{1,2,3}.conv                     layer.{0,1,2}.convolution
      conv{1,2,3}.norm                     layer.{0,1,2}.normalization
    network.backbone.stages.*.             model.pixel_level_module.encoder.encoder.layers.*.
      blocks.*.{attention,mlp}_norm        blocks.*.{layernorm_before,layernorm_after}
      blocks.*.output                      blocks.*.attention.output.dense
      blocks.*.position_bias               blocks.*.attention.self.relative_position_bias_table
      blocks.*.{expand,contract}           blocks.*.{intermediate,output}.dense
    network.pixel_decoder.                 model.pixel_level_module.decoder.
      projections.*.{conv,norm}            input_projections.*.{0,1}
      level_embedding                      level_embed
      layers.*.attention.offsets           encoder.layers.*.self_attn.sampling_offsets
      layers.*.attention.weights           encoder.layers.*.self_attn.attention_weights
      layers.*.attention.{value,output}    encoder.layers.*.self_attn.{value,output}_proj
      layers.*.{attention_norm,norm}       encoder.layers.*.{self_attn,final}_layer_norm
      layers.*.{expand,contract}           encoder.layers.*.{fc1,fc2}
      {lateral,smooth}.conv                {adapter_1,layer_1}.0
      {lateral,smooth}.norm                {adapter_1,layer_1}.1
      mask_projection                      mask_projection
    network.query_decoder.                 model.transformer_module.
      query_{features,positions}           {queries_features,queries_embedder}.weight
      level_embedding                      level_embed.weight
      norm                                 decoder.layernorm
      mask_head.layers.{0,1,2}             decoder.mask_predictor.mask_embedder.{0,1,2}.0
    network.query_decoder.layers.*.        model.transformer_module.decoder.layers.*.
      cross_attention.input_{weight,bias}  cross_attn.in_proj_{weight,bias}
      cross_attention.output               cross_attn.out_proj
      cross_norm                           cross_attn_layer_norm
      self_attention.attention.output      self_attn.out_proj
      self_attention.norm                  self_attn_layer_norm
      feed_forward.{expand,contract,norm}  {fc1,fc2,final_layer_norm}
    .                                      .
      network.query_decoder.class_head     class_predictor
    """
)
_ATTENTION = "model.transformer_module.decoder.layers.*.self_attn"
_SWIN_ATTENTION = "model.pixel_level_module.encoder.encoder.layers.*.blocks.*.attention.self"
TRANSFORMERS_MASK2FORMER = Layout(
    title="transformers",
    marks=("model.transformer_module.queries_features.weight",),
    rules=_TRANSFORMERS,
    # transformers keeps the projections of self-attention apart.
    stacks=(
        *(
            (
                f"network.query_decoder.layers.*.self_attention.attention.input_{kind}",
                tuple(f"{_ATTENTION}.{part}_proj.{kind}" for part in "qkv"),
            )
            for kind in ("weight", "bias")
        ),
        (
            "network.backbone.stages.*.blocks.*.qkv",
            tuple(f"{_SWIN_ATTENTION}.{part}" for part in ("query", "key", "value")),
        ),
    ),
)

# How transformers 5 names in memory what its files keep under the older names, and what files
# written before detectron2's Mask2Former renamed it have.
_SWIN_5 = "model.pixel_level_module.encoder.swin"
_OTHER_NAMES = (
    (
        f"{_SWIN_5}.encoder.layers.*.blocks.*.attention.relative_position_bias"
        ".relative_position_bias_table",
        f"{_SWIN_ATTENTION}.relative_position_bias_table",
    ),
    *rules(
        """
        model.pixel_level_module.encoder.swin.encoder.  model.pixel_level_module.encoder.encoder.
          layers.*.blocks.*.attention.{q,k}_proj        layers.*.blocks.*.attention.self.{query,key}
          layers.*.blocks.*.attention.v_proj            layers.*.blocks.*.attention.self.value
          layers.*.blocks.*.attention.o_proj            layers.*.blocks.*.attention.output.dense
          layers.*.blocks.*.mlp.{fc1,fc2}  layers.*.blocks.*.{intermediate,output}.dense
          layers                                        layers
        model.pixel_level_module.encoder.swin.          model.pixel_level_module.encoder.
          embeddings                                    embeddings
        .                                               .
          sem_seg_head.predictor.static_query           sem_seg_head.predictor.query_feat
        """
    ),
)
# Norms before a classifier and tokens for training, which a backbone does not reach.
_UNREACHED = (
    f"{_SWIN_5}.layernorm.",
    "model.pixel_level_module.encoder.layernorm.",
    "backbone.vit_module.norm.",
    "backbone.vit_module.mask_token",
)


def published(state: Mapping[str, Tensor]) -> State:
    """The state under the names of the published files, without what is computed."""
    names = {
        key: rename(key, _OTHER_NAMES) or key
        for key in state
        if not key.endswith(COMPUTED) and not key.startswith(_UNREACHED)
    }
    return {name: state[key] for key, name in names.items()}


def config_beside(file: Checkpoint) -> InstanceConfig | None:
    """The configuration of transformers' config.json, None if there is none."""
    if file.config_json is None:
        return None
    values = read_json(file.config_json, "the configuration")
    try:
        labels, heads = values["id2label"], values["num_attention_heads"]
        return InstanceConfig(
            file.path.name,
            _backbone(values["backbone_config"]),
            classes=tuple(labels[key] for key in sorted(labels, key=int)),
            hidden_dim=values["hidden_dim"],
            pixel_decoder=PixelDecoderConfig(
                values["encoder_layers"], heads, values["encoder_feedforward_dim"]
            ),
            query_decoder=QueryDecoderConfig(
                values["decoder_layers"] - 1,
                heads,
                values["dim_feedforward"],
                values["num_queries"],
            ),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{file.config_json} is not a configuration of Mask2Former that is known here ({error})"
        ) from None


def _backbone(values: Mapping[str, Any]) -> ResNetConfig | SwinConfig:
    if values["model_type"] == "swin":
        heads = tuple(values["num_heads"])
        return SwinConfig(
            values["embed_dim"], tuple(values["depths"]), heads, values["window_size"]
        )
    if values["model_type"] == "resnet":
        widths = tuple(values["hidden_sizes"])
        return ResNetConfig(values["embedding_size"], widths, tuple(values["depths"]))
    raise ValueError(f"backbone {values['model_type']!r}")
