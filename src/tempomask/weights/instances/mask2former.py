"""Key tables of Mask2Former: detectron2's (MinVIS, DVIS++) and transformers' published names.

Both are literal and reversible, as all layouts are (`layout.py`). detectron2 files hold the state
under `model`; DVIS++'s online stage adds `tracker` and the re-identification head to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tempomask.models.instances.config import InstanceConfig, ResNetConfig, SwinConfig
from tempomask.weights.layout import Layout, Rules, State, rename

Stacks = tuple[tuple[str, tuple[str, ...]], ...]
OUR_BACKBONE, OUR_PIXELS, OUR_QUERIES = (
    "network.backbone",
    "network.pixel_decoder",
    "network.query_decoder",
)
# Tensors that are computed, not learned.
COMPUTED = ("num_batches_tracked", "relative_position_index", "empty_weight")


def _attention(ours: str, theirs: str) -> Rules:
    """The attention of torch.nn, whose input projections are one."""
    return (
        (f"{ours}.input_weight", f"{theirs}.in_proj_weight"),
        (f"{ours}.input_bias", f"{theirs}.in_proj_bias"),
        (f"{ours}.output", f"{theirs}.out_proj"),
    )


def _joined(ours: str, theirs: tuple[str, str, str], suffixes: tuple[str, str]) -> Stacks:
    """Three linear layers of theirs that are one of ours; suffixes: of our weight and bias."""
    return tuple(
        (f"{ours}{suffix}", tuple(f"{part}.{kind}" for part in theirs))
        for suffix, kind in zip(suffixes, ("weight", "bias"), strict=True)
    )


_D2_PIXELS = "sem_seg_head.pixel_decoder"
_D2_LAYER = f"{_D2_PIXELS}.transformer.encoder.layers.*"
_D2_QUERIES = "sem_seg_head.predictor"
_OUR_LAYER = f"{OUR_PIXELS}.layers.*"
_OUR_QUERY_LAYER = f"{OUR_QUERIES}.layers.*"

DETECTRON2_RESNET: Rules = (
    (f"{OUR_BACKBONE}.stem.norm", "backbone.stem.conv1.norm"),
    (f"{OUR_BACKBONE}.stem.conv", "backbone.stem.conv1"),
    *(
        (f"{OUR_BACKBONE}.stages.{stage}.*.{conv}.{ours}", f"backbone.res{stage + 2}.*.{conv}{end}")
        for stage in range(4)
        for conv in ("shortcut", "conv1", "conv2", "conv3")
        # The norm first: its name goes on where the convolution's ends.
        for ours, end in (("norm", ".norm"), ("conv", ""))
    ),
)
DETECTRON2_SWIN: Rules = (
    (f"{OUR_BACKBONE}.patch_embedding", "backbone.patch_embed.proj"),
    (f"{OUR_BACKBONE}.patch_norm", "backbone.patch_embed.norm"),
    *(
        (f"{OUR_BACKBONE}.stages.*.blocks.*.{ours}", f"backbone.layers.*.blocks.*.{theirs}")
        for ours, theirs in (
            ("attention_norm", "norm1"),
            ("qkv", "attn.qkv"),
            ("output", "attn.proj"),
            ("position_bias", "attn.relative_position_bias_table"),
            ("mlp_norm", "norm2"),
            ("expand", "mlp.fc1"),
            ("contract", "mlp.fc2"),
        )
    ),
    (f"{OUR_BACKBONE}.stages.*.merge", "backbone.layers.*.downsample"),
    *((f"{OUR_BACKBONE}.norms.{level}", f"backbone.norm{level}") for level in range(4)),
)
DETECTRON2_PIXELS: Rules = (
    (f"{OUR_PIXELS}.projections.*.conv", f"{_D2_PIXELS}.input_proj.*.0"),
    (f"{OUR_PIXELS}.projections.*.norm", f"{_D2_PIXELS}.input_proj.*.1"),
    (f"{OUR_PIXELS}.level_embedding", f"{_D2_PIXELS}.transformer.level_embed"),
    (f"{_OUR_LAYER}.attention.offsets", f"{_D2_LAYER}.self_attn.sampling_offsets"),
    (f"{_OUR_LAYER}.attention.weights", f"{_D2_LAYER}.self_attn.attention_weights"),
    (f"{_OUR_LAYER}.attention.value", f"{_D2_LAYER}.self_attn.value_proj"),
    (f"{_OUR_LAYER}.attention.output", f"{_D2_LAYER}.self_attn.output_proj"),
    (f"{_OUR_LAYER}.attention_norm", f"{_D2_LAYER}.norm1"),
    (f"{_OUR_LAYER}.expand", f"{_D2_LAYER}.linear1"),
    (f"{_OUR_LAYER}.contract", f"{_D2_LAYER}.linear2"),
    (f"{_OUR_LAYER}.norm", f"{_D2_LAYER}.norm2"),
    (f"{OUR_PIXELS}.lateral.norm", f"{_D2_PIXELS}.adapter_1.norm"),
    (f"{OUR_PIXELS}.lateral.conv", f"{_D2_PIXELS}.adapter_1"),
    (f"{OUR_PIXELS}.smooth.norm", f"{_D2_PIXELS}.layer_1.norm"),
    (f"{OUR_PIXELS}.smooth.conv", f"{_D2_PIXELS}.layer_1"),
    (f"{OUR_PIXELS}.mask_projection", f"{_D2_PIXELS}.mask_features"),
)


def _post_norm_layers(ours: str, theirs: str) -> Rules:
    """A stack of layers that detectron2 keeps as three lists: cross, self, feed-forward."""
    cross = f"{theirs}.transformer_cross_attention_layers.*"
    own = f"{theirs}.transformer_self_attention_layers.*"
    ffn = f"{theirs}.transformer_ffn_layers.*"
    return (
        *_attention(f"{ours}.cross_attention", f"{cross}.multihead_attn"),
        (f"{ours}.cross_norm", f"{cross}.norm"),
        *_attention(f"{ours}.self_attention.attention", f"{own}.self_attn"),
        (f"{ours}.self_attention.norm", f"{own}.norm"),
        (f"{ours}.feed_forward.expand", f"{ffn}.linear1"),
        (f"{ours}.feed_forward.contract", f"{ffn}.linear2"),
        (f"{ours}.feed_forward.norm", f"{ffn}.norm"),
    )


DETECTRON2_QUERIES: Rules = (
    *_post_norm_layers(_OUR_QUERY_LAYER, _D2_QUERIES),
    (f"{OUR_QUERIES}.query_features", f"{_D2_QUERIES}.query_feat.weight"),
    (f"{OUR_QUERIES}.query_positions", f"{_D2_QUERIES}.query_embed.weight"),
    (f"{OUR_QUERIES}.level_embedding", f"{_D2_QUERIES}.level_embed.weight"),
    (f"{OUR_QUERIES}.norm", f"{_D2_QUERIES}.decoder_norm"),
    (f"{OUR_QUERIES}.class_head", f"{_D2_QUERIES}.class_embed"),
    (f"{OUR_QUERIES}.mask_head", f"{_D2_QUERIES}.mask_embed"),
)
DVIS_TRACKER: Rules = (
    ("tracker.reid_head", f"{_D2_QUERIES}.reid_embed"),
    *_post_norm_layers("tracker.layers.*", "tracker"),
    ("tracker.norm", "tracker.decoder_norm"),
    ("tracker.class_head", "tracker.class_embed"),
    ("tracker.mask_head", "tracker.mask_embed"),
    ("tracker.reference_head", "tracker.ref_proj"),
    ("tracker.mask_projection", "tracker.mask_feature_proj"),
)
DETECTRON2_MARK = f"{_D2_QUERIES}.query_feat.weight"
# Files written before detectron2's Mask2Former renamed it.
DETECTRON2_OLD: Rules = ((f"{_D2_QUERIES}.static_query", f"{_D2_QUERIES}.query_feat"),)

_HF = "model.pixel_level_module"
_HF_LAYER = f"{_HF}.decoder.encoder.layers.*"
_HF_QUERIES = "model.transformer_module"
_HF_QUERY_LAYER = f"{_HF_QUERIES}.decoder.layers.*"
_HF_RESNET = f"{_HF}.encoder.encoder.stages.*.layers.*"
_HF_SWIN = f"{_HF}.encoder.encoder.layers.*"

TRANSFORMERS_RESNET: Rules = (
    (f"{OUR_BACKBONE}.stem.conv", f"{_HF}.encoder.embedder.embedder.convolution"),
    (f"{OUR_BACKBONE}.stem.norm", f"{_HF}.encoder.embedder.embedder.normalization"),
    *(
        (f"{OUR_BACKBONE}.stages.*.*.{ours}.{a}", f"{_HF_RESNET}.{theirs}.{b}")
        for ours, theirs in (
            ("shortcut", "shortcut"),
            ("conv1", "layer.0"),
            ("conv2", "layer.1"),
            ("conv3", "layer.2"),
        )
        for a, b in (("conv", "convolution"), ("norm", "normalization"))
    ),
)
TRANSFORMERS_SWIN: Rules = (
    (f"{OUR_BACKBONE}.patch_embedding", f"{_HF}.encoder.embeddings.patch_embeddings.projection"),
    (f"{OUR_BACKBONE}.patch_norm", f"{_HF}.encoder.embeddings.norm"),
    *(
        (f"{OUR_BACKBONE}.stages.*.blocks.*.{ours}", f"{_HF_SWIN}.blocks.*.{theirs}")
        for ours, theirs in (
            ("attention_norm", "layernorm_before"),
            ("output", "attention.output.dense"),
            ("position_bias", "attention.self.relative_position_bias_table"),
            ("mlp_norm", "layernorm_after"),
            ("expand", "intermediate.dense"),
            ("contract", "output.dense"),
        )
    ),
    (f"{OUR_BACKBONE}.stages.*.merge", f"{_HF_SWIN}.downsample"),
    *(
        (f"{OUR_BACKBONE}.norms.{level}", f"{_HF}.encoder.hidden_states_norms.stage{level + 1}")
        for level in range(4)
    ),
)
TRANSFORMERS_PIXELS: Rules = (
    (f"{OUR_PIXELS}.projections.*.conv", f"{_HF}.decoder.input_projections.*.0"),
    (f"{OUR_PIXELS}.projections.*.norm", f"{_HF}.decoder.input_projections.*.1"),
    (f"{OUR_PIXELS}.level_embedding", f"{_HF}.decoder.level_embed"),
    (f"{_OUR_LAYER}.attention.offsets", f"{_HF_LAYER}.self_attn.sampling_offsets"),
    (f"{_OUR_LAYER}.attention.weights", f"{_HF_LAYER}.self_attn.attention_weights"),
    (f"{_OUR_LAYER}.attention.value", f"{_HF_LAYER}.self_attn.value_proj"),
    (f"{_OUR_LAYER}.attention.output", f"{_HF_LAYER}.self_attn.output_proj"),
    (f"{_OUR_LAYER}.attention_norm", f"{_HF_LAYER}.self_attn_layer_norm"),
    (f"{_OUR_LAYER}.expand", f"{_HF_LAYER}.fc1"),
    (f"{_OUR_LAYER}.contract", f"{_HF_LAYER}.fc2"),
    (f"{_OUR_LAYER}.norm", f"{_HF_LAYER}.final_layer_norm"),
    (f"{OUR_PIXELS}.lateral.conv", f"{_HF}.decoder.adapter_1.0"),
    (f"{OUR_PIXELS}.lateral.norm", f"{_HF}.decoder.adapter_1.1"),
    (f"{OUR_PIXELS}.smooth.conv", f"{_HF}.decoder.layer_1.0"),
    (f"{OUR_PIXELS}.smooth.norm", f"{_HF}.decoder.layer_1.1"),
    (f"{OUR_PIXELS}.mask_projection", f"{_HF}.decoder.mask_projection"),
)
TRANSFORMERS_QUERIES: Rules = (
    *_attention(f"{_OUR_QUERY_LAYER}.cross_attention", f"{_HF_QUERY_LAYER}.cross_attn"),
    (f"{_OUR_QUERY_LAYER}.cross_norm", f"{_HF_QUERY_LAYER}.cross_attn_layer_norm"),
    (
        f"{_OUR_QUERY_LAYER}.self_attention.attention.output",
        f"{_HF_QUERY_LAYER}.self_attn.out_proj",
    ),
    (f"{_OUR_QUERY_LAYER}.self_attention.norm", f"{_HF_QUERY_LAYER}.self_attn_layer_norm"),
    (f"{_OUR_QUERY_LAYER}.feed_forward.expand", f"{_HF_QUERY_LAYER}.fc1"),
    (f"{_OUR_QUERY_LAYER}.feed_forward.contract", f"{_HF_QUERY_LAYER}.fc2"),
    (f"{_OUR_QUERY_LAYER}.feed_forward.norm", f"{_HF_QUERY_LAYER}.final_layer_norm"),
    (f"{OUR_QUERIES}.query_features", f"{_HF_QUERIES}.queries_features.weight"),
    (f"{OUR_QUERIES}.query_positions", f"{_HF_QUERIES}.queries_embedder.weight"),
    (f"{OUR_QUERIES}.level_embedding", f"{_HF_QUERIES}.level_embed.weight"),
    (f"{OUR_QUERIES}.norm", f"{_HF_QUERIES}.decoder.layernorm"),
    (f"{OUR_QUERIES}.class_head", "class_predictor"),
    *(
        (
            f"{OUR_QUERIES}.mask_head.layers.{layer}",
            f"{_HF_QUERIES}.decoder.mask_predictor.mask_embedder.{layer}.0",
        )
        for layer in range(3)
    ),
)
TRANSFORMERS_MARK = f"{_HF_QUERIES}.queries_features.weight"
# How transformers 5 names in memory what its files keep under the older names.
_SWIN_5 = f"{_HF}.encoder.swin.encoder.layers.*"
TRANSFORMERS_5: Rules = (
    *(
        (f"{_SWIN_5}.blocks.*.{new}", f"{_HF_SWIN}.blocks.*.{old}")
        for new, old in (
            ("attention.q_proj", "attention.self.query"),
            ("attention.k_proj", "attention.self.key"),
            ("attention.v_proj", "attention.self.value"),
            (
                "attention.relative_position_bias.relative_position_bias_table",
                "attention.self.relative_position_bias_table",
            ),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
            ("layernorm_before", "layernorm_before"),
            ("layernorm_after", "layernorm_after"),
        )
    ),
    (f"{_SWIN_5}.downsample", f"{_HF_SWIN}.downsample"),
    (f"{_HF}.encoder.swin.embeddings", f"{_HF}.encoder.embeddings"),
)
# The classifier's norm, which a backbone does not reach.
UNREACHED = (f"{_HF}.encoder.swin.layernorm.", f"{_HF}.encoder.layernorm.")


def published(state: Mapping[str, Tensor]) -> State:
    """The state under the names of the published files, without what is computed."""
    names = {
        key: rename(key, (*TRANSFORMERS_5, *DETECTRON2_OLD)) or key
        for key in state
        if not key.endswith(COMPUTED) and not key.startswith(UNREACHED)
    }
    return {name: state[key] for key, name in names.items()}


def detectron2_layout(config: InstanceConfig) -> Layout:
    """MinVIS's and DVIS++'s released files, and detectron2's Mask2Former."""
    backbone = DETECTRON2_SWIN if isinstance(config.backbone, SwinConfig) else DETECTRON2_RESNET
    tracker = () if config.referring_tracker is None else DVIS_TRACKER
    return Layout(
        title="detectron2",
        marks=(DETECTRON2_MARK,),
        rules=(*backbone, *DETECTRON2_PIXELS, *DETECTRON2_QUERIES, *tracker),
    )


def transformers_layout(config: InstanceConfig) -> Layout:
    """transformers' Mask2Former, of images or of video."""
    swin = config.backbone if isinstance(config.backbone, SwinConfig) else None
    return Layout(
        title="transformers",
        marks=(TRANSFORMERS_MARK,),
        rules=(
            *(TRANSFORMERS_RESNET if swin is None else TRANSFORMERS_SWIN),
            *TRANSFORMERS_PIXELS,
            *TRANSFORMERS_QUERIES,
        ),
        stacks=(*_query_stacks(config), *(() if swin is None else _swin_stacks(swin))),
    )


def _query_stacks(config: InstanceConfig) -> Stacks:
    """transformers keeps the projections of self-attention apart."""
    stacks: Stacks = ()
    for layer in range(config.query_decoder.layers):
        theirs = f"{_HF_QUERIES}.decoder.layers.{layer}.self_attn"
        parts = (f"{theirs}.q_proj", f"{theirs}.k_proj", f"{theirs}.v_proj")
        ours = f"{OUR_QUERIES}.layers.{layer}.self_attention.attention.input"
        stacks += _joined(ours, parts, ("_weight", "_bias"))
    return stacks


def _swin_stacks(config: SwinConfig) -> Stacks:
    stacks: Stacks = ()
    for stage, blocks in enumerate(config.blocks):
        for block in range(blocks):
            theirs = f"{_HF}.encoder.encoder.layers.{stage}.blocks.{block}.attention.self"
            parts = (f"{theirs}.query", f"{theirs}.key", f"{theirs}.value")
            ours = f"{OUR_BACKBONE}.stages.{stage}.blocks.{block}.qkv"
            stacks += _joined(ours, parts, (".weight", ".bias"))
    return stacks


def is_known_backbone(config: InstanceConfig) -> bool:
    """Whether other projects' files can hold this backbone; nano's stem is ours alone."""
    return isinstance(config.backbone, (ResNetConfig, SwinConfig))
