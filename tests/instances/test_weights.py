"""Files of instance segmenters: published names and shapes, our own files, other stages."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.instances.classes import COCO, OVIS, YTVIS_2019, YTVIS_2021
from tempomask.models.instances.config import (
    INSTANCE_SEGMENTERS,
    InstanceConfig,
    ViTAdapterConfig,
)
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.instances import load_instance_segmenter
from tempomask.weights.layout import Layout
from tempomask.weights.mask2former import (
    DETECTRON2,
    DETECTRON2_VIT_ADAPTER,
    TRANSFORMERS_MASK2FORMER,
    published,
)
from tempomask.weights.own import (
    RouterWeights,
    config_from_json,
    config_to_json,
    save_instance_segmenter,
)
from tempomask.weights.zoo import INSTANCE_MODELS

MakeConfig = Callable[..., InstanceConfig]
State = dict[str, Tensor]
PIXELS, QUERIES = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"

# Names and shapes as detectron2 writes them for MinVIS R50 on YouTube-VIS 2019.
DETECTRON2_R50 = {
    "backbone.stem.conv1.weight": (64, 3, 7, 7),
    "backbone.stem.conv1.norm.running_var": (64,),
    "backbone.res2.0.shortcut.weight": (256, 64, 1, 1),
    "backbone.res2.0.conv1.weight": (64, 64, 1, 1),
    "backbone.res2.2.conv2.norm.bias": (64,),
    "backbone.res3.0.conv2.weight": (128, 128, 3, 3),
    "backbone.res4.5.conv3.weight": (1024, 256, 1, 1),
    "backbone.res5.0.shortcut.norm.weight": (2048,),
    "backbone.res5.2.conv3.norm.running_mean": (2048,),
    f"{PIXELS}.input_proj.0.0.weight": (256, 2048, 1, 1),
    f"{PIXELS}.input_proj.0.1.bias": (256,),
    f"{PIXELS}.input_proj.2.0.weight": (256, 512, 1, 1),
    f"{PIXELS}.transformer.level_embed": (3, 256),
    f"{PIXELS}.transformer.encoder.layers.0.self_attn.sampling_offsets.weight": (192, 256),
    f"{PIXELS}.transformer.encoder.layers.0.self_attn.attention_weights.bias": (96,),
    f"{PIXELS}.transformer.encoder.layers.5.self_attn.value_proj.weight": (256, 256),
    f"{PIXELS}.transformer.encoder.layers.5.self_attn.output_proj.bias": (256,),
    f"{PIXELS}.transformer.encoder.layers.3.norm1.weight": (256,),
    f"{PIXELS}.transformer.encoder.layers.3.linear1.weight": (1024, 256),
    f"{PIXELS}.transformer.encoder.layers.3.linear2.weight": (256, 1024),
    f"{PIXELS}.transformer.encoder.layers.3.norm2.bias": (256,),
    f"{PIXELS}.mask_features.weight": (256, 256, 1, 1),
    f"{PIXELS}.adapter_1.weight": (256, 256, 1, 1),
    f"{PIXELS}.adapter_1.norm.weight": (256,),
    f"{PIXELS}.layer_1.weight": (256, 256, 3, 3),
    f"{PIXELS}.layer_1.norm.bias": (256,),
    f"{QUERIES}.transformer_self_attention_layers.0.self_attn.in_proj_weight": (768, 256),
    f"{QUERIES}.transformer_self_attention_layers.8.self_attn.out_proj.bias": (256,),
    f"{QUERIES}.transformer_self_attention_layers.8.norm.weight": (256,),
    f"{QUERIES}.transformer_cross_attention_layers.0.multihead_attn.in_proj_bias": (768,),
    f"{QUERIES}.transformer_cross_attention_layers.8.multihead_attn.out_proj.weight": (256, 256),
    f"{QUERIES}.transformer_cross_attention_layers.4.norm.bias": (256,),
    f"{QUERIES}.transformer_ffn_layers.0.linear1.weight": (2048, 256),
    f"{QUERIES}.transformer_ffn_layers.8.linear2.weight": (256, 2048),
    f"{QUERIES}.transformer_ffn_layers.8.norm.weight": (256,),
    f"{QUERIES}.decoder_norm.weight": (256,),
    f"{QUERIES}.query_feat.weight": (100, 256),
    f"{QUERIES}.query_embed.weight": (100, 256),
    f"{QUERIES}.level_embed.weight": (3, 256),
    f"{QUERIES}.class_embed.weight": (41, 256),
    f"{QUERIES}.mask_embed.layers.2.weight": (256, 256),
}
# What Swin-L and its 200 queries have instead, and what DVIS++'s online stage has beside.
DETECTRON2_SWIN_L = {
    "backbone.patch_embed.proj.weight": (192, 3, 4, 4),
    "backbone.patch_embed.norm.bias": (192,),
    "backbone.layers.0.blocks.0.norm1.weight": (192,),
    "backbone.layers.0.blocks.1.attn.qkv.weight": (576, 192),
    "backbone.layers.0.blocks.1.attn.proj.bias": (192,),
    "backbone.layers.2.blocks.17.attn.relative_position_bias_table": (529, 24),
    "backbone.layers.2.blocks.17.mlp.fc1.weight": (3072, 768),
    "backbone.layers.3.blocks.1.mlp.fc2.weight": (1536, 6144),
    "backbone.layers.2.downsample.reduction.weight": (1536, 3072),
    "backbone.layers.0.downsample.norm.weight": (768,),
    "backbone.norm0.weight": (192,),
    "backbone.norm3.bias": (1536,),
    f"{QUERIES}.query_feat.weight": (200, 256),
    f"{PIXELS}.input_proj.0.0.weight": (256, 1536, 1, 1),
}
DVIS_PLUS = {
    f"{QUERIES}.reid_embed.layers.0.weight": (256, 256),
    f"{QUERIES}.reid_embed.layers.2.bias": (256,),
    "tracker.transformer_self_attention_layers.0.self_attn.in_proj_weight": (1536, 512),
    "tracker.transformer_cross_attention_layers.5.multihead_attn.out_proj.weight": (512, 512),
    "tracker.transformer_cross_attention_layers.5.norm.weight": (512,),
    "tracker.transformer_ffn_layers.0.linear1.weight": (2048, 512),
    "tracker.transformer_ffn_layers.5.linear2.bias": (512,),
    "tracker.decoder_norm.weight": (512,),
    "tracker.class_embed.weight": (26, 1024),
    "tracker.mask_embed.layers.0.weight": (512, 512),
    "tracker.mask_embed.layers.2.weight": (256, 512),
    "tracker.ref_proj.layers.2.weight": (512, 512),
    "tracker.mask_feature_proj.weight": (256, 256, 1, 1),
}
_VIT, _PARTS = "backbone.vit_module", "backbone.interactions"
DETECTRON2_VIT_L = {
    f"{_VIT}.cls_token": (1, 1, 1024),
    f"{_VIT}.pos_embed": (1, 1370, 1024),
    f"{_VIT}.patch_embed.proj.weight": (1024, 3, 16, 16),
    f"{_VIT}.blocks.23.norm1.weight": (1024,),
    f"{_VIT}.blocks.0.attn.qkv.bias": (3072,),
    f"{_VIT}.blocks.11.ls2.gamma": (1024,),
    f"{_VIT}.blocks.23.mlp.fc1.weight": (4096, 1024),
    "backbone.level_embed": (3, 1024),
    "backbone.spm.stem.0.weight": (64, 3, 3, 3),
    "backbone.spm.stem.7.running_mean": (64,),
    "backbone.spm.conv4.0.weight": (256, 256, 3, 3),
    "backbone.spm.conv4.1.weight": (256,),
    "backbone.spm.fc1.weight": (1024, 64, 1, 1),
    f"{_PARTS}.0.extractor.query_norm.weight": (1024,),
    f"{_PARTS}.3.extractor.feat_norm.bias": (1024,),
    f"{_PARTS}.3.extra_extractors.1.attn.sampling_offsets.weight": (128, 1024),
    f"{_PARTS}.3.extra_extractors.0.attn.attention_weights.bias": (64,),
    f"{_PARTS}.1.extractor.attn.value_proj.weight": (1024, 1024),
    f"{_PARTS}.2.extractor.ffn.dwconv.dwconv.weight": (256, 1, 3, 3),
    f"{_PARTS}.2.extractor.ffn.fc2.weight": (1024, 256),
    "backbone.up.weight": (1024, 1024, 2, 2),
    "backbone.norm1.running_var": (1024,),
    "backbone.norm4.weight": (1024,),
    "sem_seg_head.pixel_decoder.input_proj.0.0.weight": (256, 1024, 1, 1),
    "sem_seg_head.predictor.query_feat.weight": (200, 256),
    "tracker.ref_proj.layers.2.weight": (512, 512),
}
_HF = "model.pixel_level_module"
TRANSFORMERS_SWIN_TINY = {
    f"{_HF}.encoder.embeddings.patch_embeddings.projection.weight": (96, 3, 4, 4),
    f"{_HF}.encoder.encoder.layers.0.blocks.0.attention.self.query.weight": (96, 96),
    f"{_HF}.encoder.encoder.layers.3.blocks.1.attention.self.relative_position_bias_table": (
        169,
        24,
    ),
    f"{_HF}.encoder.encoder.layers.3.blocks.1.attention.output.dense.weight": (768, 768),
    f"{_HF}.encoder.encoder.layers.2.blocks.5.intermediate.dense.weight": (1536, 384),
    f"{_HF}.encoder.encoder.layers.2.blocks.5.output.dense.weight": (384, 1536),
    f"{_HF}.encoder.hidden_states_norms.stage4.weight": (768,),
    f"{_HF}.decoder.encoder.layers.5.fc1.weight": (1024, 256),
    f"{_HF}.decoder.adapter_1.0.weight": (256, 96, 1, 1),
    "model.transformer_module.decoder.layers.8.self_attn.q_proj.weight": (256, 256),
    "model.transformer_module.decoder.layers.8.cross_attn.in_proj_weight": (768, 256),
    "model.transformer_module.decoder.mask_predictor.mask_embedder.2.0.weight": (256, 256),
    "model.transformer_module.queries_features.weight": (100, 256),
    "class_predictor.weight": (81, 256),
}


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("minvis-r50-ytvis19", DETECTRON2, DETECTRON2_R50),
        ("minvis-swin-large-ytvis19", DETECTRON2, DETECTRON2_SWIN_L),
        ("dvis-plus-r50-ovis", DETECTRON2, DVIS_PLUS),
        ("dvis-plus-vit-adapter-large-ytvis19", DETECTRON2_VIT_ADAPTER, DETECTRON2_VIT_L),
        ("mask2former-swin-tiny-coco", TRANSFORMERS_MASK2FORMER, TRANSFORMERS_SWIN_TINY),
    ],
)
def test_published_names_and_shapes(
    name: str, layout: Layout, expected: dict[str, tuple[int, ...]]
) -> None:
    with torch.device("meta"):
        state = InstanceSegmenter(INSTANCE_SEGMENTERS[name]).state_dict()
    theirs = layout.to_theirs(state)
    assert len(theirs) >= len(state)
    found = {key: tuple(theirs[key].shape) for key in expected if key in theirs}
    assert found == expected


def test_every_named_model_is_listed() -> None:
    assert list(INSTANCE_MODELS) == list(INSTANCE_SEGMENTERS)


@pytest.mark.parametrize("name", INSTANCE_SEGMENTERS)
def test_parameters_are_as_the_zoo_says(name: str) -> None:
    config, info = INSTANCE_SEGMENTERS[name], INSTANCE_MODELS[name]
    with torch.device("meta"):
        segmenter = InstanceSegmenter(config)
    # Frozen norms count as parameters in the published numbers.
    frozen = sum(x.numel() for n, x in segmenter.named_buffers() if "running" not in n)
    total = sum(x.numel() for x in segmenter.parameters()) + frozen
    assert total / 1e6 == pytest.approx(info.parameters, rel=0.03)
    assert (info.name, info.image_size) == (name, config.short_side)


def test_classes_are_as_many_as_the_data_sets_have() -> None:
    assert [len(x) for x in (YTVIS_2019, YTVIS_2021, OVIS, COCO)] == [40, 40, 25, 80]
    assert all(len(set(x)) == len(x) for x in (YTVIS_2019, YTVIS_2021, OVIS, COCO))


def test_older_names_and_computed_tensors() -> None:
    state = {
        f"{QUERIES}.static_query.weight": torch.zeros(1),
        "criterion.empty_weight": torch.zeros(1),
        "backbone.layers.0.blocks.0.attn.relative_position_index": torch.zeros(1),
    }
    assert list(published(state)) == [f"{QUERIES}.query_feat.weight"]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, instance_config: MakeConfig) -> dict[str, State]:
    """Small models by name, and their states as detectron2 would write them."""
    states = {}
    trackers = {
        "tiny": {},
        "tiny-dvis": {"tracker": True},
        "tiny-ctvis": {"memory": True},
        "tiny-offline": {"tracker": True, "offline": True},
        "tiny-old-offline": {"dvis": True, "offline": True},
        "tiny-old": {"dvis": True},
    }
    for name, tracker in trackers.items():
        config = replace(instance_config(**tracker), name=name)
        info = replace(INSTANCE_MODELS["minvis-r50-ovis"], name=name)
        monkeypatch.setitem(INSTANCE_MODELS, name, info)
        monkeypatch.setitem(INSTANCE_SEGMENTERS, name, config)
        torch.manual_seed(0)
        state = InstanceSegmenter(config).state_dict()
        states[name] = DETECTRON2.to_theirs(state)
    return states


def saved(path: Path, state: State) -> Path:
    torch.save({"model": state, "iteration": 6000}, path)
    return path


def test_detectron2_files_load(known: dict[str, State], tmp_path: Path) -> None:
    for name, state in known.items():
        path = saved(tmp_path / f"{name}.pth", state)
        segmenter = load_instance_segmenter(name, path).segmenter
        back = DETECTRON2.to_theirs(segmenter.state_dict())
        assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_vit_adapter_files_load(
    known: dict[str, State], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = ViTAdapterConfig(16, 4, 2, 16, 4, 2, 0.5, 8, 3)
    config = replace(INSTANCE_SEGMENTERS["tiny-dvis"], backbone=tiny)
    monkeypatch.setitem(INSTANCE_SEGMENTERS, "tiny-dvis", config)
    state = DETECTRON2_VIT_ADAPTER.to_theirs(InstanceSegmenter(config).state_dict())
    unread = {"backbone.vit_module.mask_token": torch.zeros(1, 16)}
    unread |= {f"backbone.vit_module.norm.{kind}": torch.ones(16) for kind in ("weight", "bias")}
    path = saved(tmp_path / "vit.pth", state | unread)
    segmenter = load_instance_segmenter("tiny-dvis", path).segmenter
    back = DETECTRON2_VIT_ADAPTER.to_theirs(segmenter.state_dict())
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
    del state["backbone.interactions.3.extra_extractors.1.ffn.fc1.bias"]
    with pytest.raises(InputError, match="1 missing: .*extra_extractors.1.ffn.fc1.bias"):
        load_instance_segmenter("tiny-dvis", saved(tmp_path / "less.pth", state))
    other = saved(tmp_path / "other.pth", known["tiny-dvis"])
    for name, file, has in (("tiny-dvis", other, "no"), ("tiny-old", path, "a")):
        with pytest.raises(
            InputError, match=f"has {has} ViT-Adapter as its backbone, unlike {name}"
        ):
            load_instance_segmenter(name, file)


def test_pickles_of_arrays_load(known: dict[str, State], tmp_path: Path) -> None:
    arrays = {key: tensor.numpy() for key, tensor in known["tiny"].items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    segmenter = load_instance_segmenter("tiny", path).segmenter
    ours = segmenter.network.query_decoder.query_features
    assert np.array_equal(ours.detach().numpy(), arrays[f"{QUERIES}.query_feat.weight"])


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"model": Harmful()}), "it holds builtins.print"),
        (pickle.dumps({"model": {}}), "holds no named arrays"),
        (pickle.dumps([1, 2]), "holds no named arrays"),
        (b"\x80\x04broken", "cannot be read as a pickle"),
    ],
)
def test_bad_pickles(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_instance_segmenter("minvis-r50-ovis", path)
    assert capsys.readouterr().out == ""


def without(state: State, prefix: str) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}


REID = f"{QUERIES}.reid_embed."


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tiny", lambda s: s["tiny-dvis"], r"online stage \(it has a tracker\).*dvis-plus"),
        ("tiny", lambda s: s["tiny-ctvis"], r"is of CTVIS, .*or ask for a ctvis model"),
        ("tiny-ctvis", lambda s: s["tiny"], r"\(MinVIS\).*ask for a minvis or mask2former model"),
        ("tiny-ctvis", lambda s: s["tiny-dvis"], r"has a tracker\).*ask for a dvis-plus model"),
        ("tiny-dvis", lambda s: s["tiny"], "segmenter stage \\(MinVIS\\), without the tracker"),
        ("tiny-dvis", lambda s: without(s["tiny-dvis"], "tracker."), "is of CTVIS, as DVIS"),
        ("tiny-dvis", lambda s: without(s["tiny-dvis"], REID), "DVIS, not DVIS\\+\\+"),
        ("tiny-dvis", lambda s: s["tiny-old"], r"not DVIS\+\+.*ask for a dvis model"),
        ("tiny-dvis", lambda s: s["tiny-offline"], r"refiner\).*ask for a dvis-plus-...-offline"),
        ("tiny-old", lambda s: s["tiny-old-offline"], r"DVIS's offline stage"),
        ("tiny-offline", lambda s: s["tiny-dvis"], r"online stage .*ask for a dvis-plus model"),
        ("tiny-old", lambda s: s["tiny-dvis"], r"online stage .*ask for a dvis-plus model"),
        (
            "tiny-dvis",
            lambda s: s["tiny-dvis"] | {"refiner.norm.weight": torch.zeros(2)},
            "offline stage",
        ),
        (
            "tiny",
            lambda s: s["tiny"] | {f"{QUERIES}.class_embed.bias": torch.zeros(81)},
            "knows 80 classes, tiny has 3",
        ),
        ("tiny", lambda s: without(s["tiny"], f"{PIXELS}.layer_1"), "3 missing"),
        ("tiny", lambda s: s["tiny"] | {"head.x": torch.zeros(2)}, "1 unexpected: head.x"),
        (
            "tiny",
            lambda s: s["tiny"] | {f"{QUERIES}.query_embed.weight": torch.zeros(9, 32)},
            r"query_embed.weight \(9, 32\) instead of \(7, 32\)",
        ),
        ("tiny", lambda s: {"weight": torch.zeros(2)}, "not a checkpoint of Mask2Former"),
        ("nano-vis", lambda s: s["tiny"], "nano-vis, which is ours alone"),
        (None, lambda s: s["tiny"], "cannot tell which model"),
    ],
)
def test_files_that_do_not_fit(
    known: dict[str, State],
    tmp_path: Path,
    name: str | None,
    change: Callable[[dict[str, State]], State],
    message: str,
) -> None:
    path = saved(tmp_path / "file.pth", change(known))
    with pytest.raises(InputError, match=message) as caught:
        load_instance_segmenter(name, path)
    assert "\n" not in str(caught.value)


def test_a_model_that_has_no_file_says_where_it_is() -> None:
    with pytest.raises(InputError, match="zhangtao-whu/DVIS_Plus"):
        load_instance_segmenter("dvis-plus-r50-ovis")
    with pytest.raises(InputError, match="minvis-r50-ovis"):
        load_instance_segmenter("minvis-r50-ovis", with_router=True)
    with pytest.raises(InputError, match="minvis-r50"):
        load_instance_segmenter("minvis-r50")


@pytest.mark.parametrize("tracker", [False, True], ids=["minvis", "dvis"])
@pytest.mark.parametrize("swin", [False, True], ids=["r50", "swin"])
def test_our_own_files(
    instance_config: MakeConfig, tmp_path: Path, swin: bool, tracker: bool
) -> None:
    config = instance_config(swin=swin, tracker=tracker)
    assert config_from_json(InstanceConfig, config_to_json(config)) == config
    segmenter = InstanceSegmenter(config)
    router = RouterWeights("{}", {"routers.0.weight": torch.ones(2, 2)})
    path = tmp_path / "own.safetensors"
    save_instance_segmenter(segmenter, path, router)
    loaded = load_instance_segmenter(None, path)
    state = loaded.segmenter.state_dict()
    assert all(torch.equal(state[k], x) for k, x in segmenter.state_dict().items())
    assert loaded.router is not None
    assert loaded.router.config == "{}"
    assert torch.equal(loaded.router.state["routers.0.weight"], torch.ones(2, 2))
    assert [p.name for p in tmp_path.iterdir()] == ["own.safetensors"]


def test_half_precision_files_are_half_as_large(
    instance_config: MakeConfig, tmp_path: Path
) -> None:
    segmenter = InstanceSegmenter(instance_config())
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_instance_segmenter(segmenter, full)
    save_instance_segmenter(segmenter, half, dtype=torch.bfloat16)
    assert half.stat().st_size < 0.75 * full.stat().st_size
    loaded = load_instance_segmenter(None, half)
    assert loaded.router is None
    assert loaded.segmenter.network.query_decoder.query_features.dtype == torch.float32


def test_our_own_files_of_another_model(instance_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_instance_segmenter(InstanceSegmenter(instance_config()), path)
    with pytest.raises(InputError, match="tiny, not"):
        load_instance_segmenter("nano-vis", path)
    with pytest.raises(InputError, match="cannot write "):
        save_instance_segmenter(
            InstanceSegmenter(instance_config()), tmp_path / "none" / "own.safetensors"
        )


@pytest.mark.parametrize("text", ["{", "{}", '{"backbone": {"kind": "vgg"}}'])
def test_configurations_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError, match="configuration cannot be read"):
        config_from_json(InstanceConfig, text)
