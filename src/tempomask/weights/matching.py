"""Cutie and XMem from their names and from the official `.pth` files: key tables and loader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tempomask.models.matching.blocks import MatchingNetwork
from tempomask.models.matching.config import MATCHERS, MatchingConfig, matching_config
from tempomask.models.matching.cutie import Cutie
from tempomask.models.matching.xmem import XMem
from tempomask.weights.layout import Layout, rename, rules
from tempomask.weights.loading import identify, load, other_model, read
from tempomask.weights.zoo import MATCHING_MODELS

# Tensors that are computed, not learned.
COMPUTED = ("num_batches_tracked", "inv_freq")

_STAGES = """
      stem.{{conv,norm}}                     {{conv1,bn1}}
      stages.{{0,1,2}}.*.shortcut.{{conv,norm}}  {{{0},layer2,layer3}}.*.downsample.{{0,1}}
      stages.{{0,1,2}}.*.conv{{1,2,3}}.conv    {{{0},layer2,layer3}}.*.conv{{1,2,3}}
      stages.{{0,1,2}}.*.conv{{1,2,3}}.norm    {{{0},layer2,layer3}}.*.bn{{1,2,3}}
""".rstrip()
CUTIE = Layout(
    title="official Cutie",
    marks=("pixel_encoder.conv1.weight", "object_transformer.query_init.weight"),
    rules=rules(
        f"""
    encoder.                                pixel_encoder.{_STAGES.format("res2")}
    mask_encoder.encoder.                   mask_encoder.{_STAGES.format("layer1")}
    .                                       .
      pixel                                 pix_feat_proj
      keys.narrow                           key_proj.pix_feat_proj
      keys.{{key,shrinkage,selection}}        key_proj.{{key,d,e}}_proj
      mask_encoder.fuser.image              mask_encoder.fuser.distributor.x_transform
      fuser.image                           pixel_fuser.fuser.distributor.x_transform
      mask_encoder.fuser.objects            mask_encoder.fuser.distributor.g_transform
      fuser.objects                         pixel_fuser.fuser.distributor.g_transform
      mask_encoder.fuser.block{{1,2}}.weigh   mask_encoder.fuser.block{{1,2}}.conv
      fuser.block{{1,2}}.weigh                pixel_fuser.fuser.block{{1,2}}.conv
      mask_encoder.fuser                    mask_encoder.fuser
      fuser                                 pixel_fuser.fuser
      mask_encoder.sensory                  mask_encoder.sensory_update
      sensory_compress                      pixel_fuser.sensory_compress
      sensory_head                          aux_computer.sensory_aux.projection
    decoder.                                mask_decoder.
      up_{{8,4}}.skip                         decoder_feat_proc.transforms.{{0,1}}
      up_{{8,4}}.block.shortcut               {{up_16_8,up_8_4}}.out_conv.downsample
      up_{{8,4}}.block                        {{up_16_8,up_8_4}}.out_conv
      to_sensory.{{0,1,2}}                    sensory_update.{{g16,g8,g4}}_conv
      sensory                               sensory_update
      predict                               pred
    summarizer.                             object_summarizer.
      {{input,feature,weights}}               {{input_proj,feature_pred,weights_pred}}
    object_transformer.                     object_transformer.
      {{queries,places}}                      {{query_init,query_emb}}
      {{summary_to_query,summary_to_place}}   {{summary_to_query_init,summary_to_query_emb}}
      {{pixel,pixel_place}}                   {{pixel_init_proj,pixel_emb_proj}}
      masks.*                               mask_pred.*.1
    object_transformer.blocks.*.            object_transformer.blocks.*.
      from_{{pixels,queries}}.output          read_from_{{pixel,query}}.cross_attn.out_proj
      from_{{pixels,queries}}.input_weight    read_from_{{pixel,query}}.cross_attn.in_proj_weight
      from_{{pixels,queries}}.input_bias      read_from_{{pixel,query}}.cross_attn.in_proj_bias
      among_queries.output                  self_attn.self_attn.out_proj
      among_queries.input_weight            self_attn.self_attn.in_proj_weight
      among_queries.input_bias              self_attn.self_attn.in_proj_bias
      {{from_pixels,among_queries}}_norm      {{read_from_pixel,self_attn}}.norm
      feedforward_norm                      ffn.norm
      {{expand,contract}}                     ffn.{{linear1,linear2}}
      pixels.weigh                          pixel_ffn.conv.conv
      pixels                                pixel_ffn.conv
    """
    ),
)
XMEM = Layout(
    title="official XMem",
    marks=("key_encoder.conv1.weight", "decoder.hidden_update.transform.weight"),
    rules=rules(
        f"""
    encoder.                                key_encoder.{_STAGES.format("res2")}
    mask_encoder.encoder.                   value_encoder.{_STAGES.format("layer1")}
    .                                       .
      keys.{{key,shrinkage,selection}}        key_proj.{{key,d,e}}_proj
      mask_encoder.sensory                  value_encoder.hidden_reinforce
      mask_encoder.fuser.block{{1,2}}.shortcut  value_encoder.fuser.block{{1,2}}.downsample
      mask_encoder.fuser.attention.squeeze  value_encoder.fuser.attention.ChannelGate.mlp.1
      mask_encoder.fuser.attention.excite   value_encoder.fuser.attention.ChannelGate.mlp.3
      mask_encoder.fuser.attention.spatial  value_encoder.fuser.attention.SpatialGate.spatial.conv
      mask_encoder.fuser                    value_encoder.fuser
      fuser.block{{1,2}}.shortcut           decoder.fuser.block{{1,2}}.downsample
      fuser.attention.squeeze               decoder.fuser.attention.ChannelGate.mlp.1
      fuser.attention.excite                decoder.fuser.attention.ChannelGate.mlp.3
      fuser.attention.spatial               decoder.fuser.attention.SpatialGate.spatial.conv
      fuser                                 decoder.fuser
    decoder.                                decoder.
      up_{{8,4}}.skip                         {{up_16_8,up_8_4}}.skip_conv
      up_{{8,4}}.block.shortcut               {{up_16_8,up_8_4}}.out_conv.downsample
      up_{{8,4}}.block                        {{up_16_8,up_8_4}}.out_conv
      to_sensory.{{0,1,2}}                    hidden_update.{{g16,g8,g4}}_conv
      sensory                               hidden_update
      predict                               pred
    """
    ),
)
LAYOUTS = (CUTIE, XMEM)
NETWORKS = {"cutie": (Cutie, CUTIE), "xmem": (XMem, XMEM)}


def build_matcher(config: MatchingConfig) -> MatchingNetwork:
    """A network with random weights."""
    return NETWORKS[config.kind][0](config)


def load_matching_network(
    name: str | None = None, checkpoint: str | Path | None = None
) -> MatchingNetwork:
    """A network with its weights, on the CPU, in float32, in eval mode.

    Args:
        name: "cutie-base", "cutie-small" or "xmem"; None for what the checkpoint holds.
        checkpoint: The official file, or one of the same layout; None is the model's own.

    Raises:
        InputError: The name is unknown, or the checkpoint is missing, damaged or of another model.
    """
    config = None if name is None else matching_config(name)
    file = read(checkpoint, None if name is None else MATCHING_MODELS[name])
    state = {key: x for key, x in file.state.items() if not key.endswith(COMPUTED)}
    file = replace(file, state=state)
    layout = identify(file, LAYOUTS, "Cutie or XMem")
    kind = next(kind for kind, (_, known) in NETWORKS.items() if known is layout)
    fitting = [found for found in MATCHERS.values() if found.kind == kind]
    # Only R50 has a third convolution in a block.
    bottleneck = any(rename(key, [("pixel_encoder.layer3.*.conv3", "")]) for key in state)
    fitting = [c for c in fitting if kind == "xmem" or c.encoder.basic != bottleneck]
    if config is not None and config not in fitting:
        raise other_model(file.path, [found.name for found in fitting], config.name)
    (found,) = fitting
    return load(lambda: build_matcher(found), found.name, file, layout)


def to_official(network: MatchingNetwork) -> dict[str, object]:
    """Its state as the official code names it; `torch.save` makes a file of it."""
    return dict(NETWORKS[network.config.kind][1].to_theirs(network.state_dict()))
