"""Loading: every layout from real files, names inferred, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.config import SEGMENTERS, SegmenterConfig
from tempomask.models.segmenter import Segmenter
from tempomask.weights import load_segmenter, save_segmenter, to_official, to_transformers
from tempomask.weights.zoo import ASSETS

Make = Callable[[str], Segmenter]
Writer = Callable[[Segmenter, Path], Path]


def write_official(segmenter: Segmenter, folder: Path) -> Path:
    path = folder / "weights.pt"
    torch.save({"model": to_official(segmenter.state_dict())}, path)
    return path


def write_old_pickle(segmenter: Segmenter, folder: Path) -> Path:
    path = folder / "weights.pth"
    state = to_official(segmenter.state_dict())
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def write_official_safetensors(segmenter: Segmenter, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_file(contiguous(to_official(segmenter.state_dict())), path)
    return path


def write_own(segmenter: Segmenter, folder: Path) -> Path:
    path = folder / "own.safetensors"
    save_segmenter(segmenter, path)
    return path


def write_transformers_file(segmenter: Segmenter, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_file(contiguous(to_transformers(segmenter.state_dict())), path, {"format": "pt"})
    return path


def write_transformers_folder(segmenter: Segmenter, folder: Path) -> Path:
    save_file(contiguous(to_transformers(segmenter.state_dict())), folder / "model.safetensors")
    write_config_json(segmenter.config, folder)
    return folder


def write_transformers_shards(segmenter: Segmenter, folder: Path) -> Path:
    state = contiguous(to_transformers(segmenter.state_dict()))
    names = sorted(state)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / file)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_config_json(segmenter.config, folder)
    return folder


def contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.contiguous() for key, tensor in state.items()}


def transformers_config(config: SegmenterConfig) -> dict[str, Any]:
    """The config.json of a SAM 2 with our configuration."""
    encoder: Any = config.encoder
    growth = [1, 2, 4, 8]
    return {
        "model_type": "sam2_video",
        "image_size": config.image_size,
        "memory_attention_num_layers": config.memory_attention.layers,
        "memory_attention_feed_forward_hidden_size": config.memory_attention.feedforward_dim,
        "memory_encoder_output_channels": config.memory_dim,
        "enable_occlusion_spatial_embedding": config.occlusion_embedding,
        "enable_temporal_pos_encoding_for_object_pointers": config.pointer_temporal_encoding,
        "mask_decoder_config": {
            "num_attention_heads": config.mask_decoder.num_heads,
            "mlp_dim": config.mask_decoder.feedforward_dim,
            "iou_head_hidden_dim": config.mask_decoder.iou_hidden_dim,
        },
        "vision_config": {
            "fpn_hidden_size": config.hidden_dim,
            "backbone_config": {
                "blocks_per_stage": list(encoder.stages),
                "embed_dim_per_stage": [encoder.embed_dim * g for g in growth],
                "global_attention_blocks": list(encoder.global_attention_blocks),
                "window_positional_embedding_background_size": list(encoder.position_size),
            },
        },
    }


def write_config_json(config: SegmenterConfig, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(transformers_config(config)))


SAM2_WRITERS: dict[str, Writer] = {
    "official": write_official,
    "old pickle": write_old_pickle,
    "official safetensors": write_official_safetensors,
    "own": write_own,
    "transformers file": write_transformers_file,
    "transformers folder": write_transformers_folder,
    "transformers shards": write_transformers_shards,
}


def assert_same(ours: Segmenter, expected: Segmenter) -> None:
    state = expected.state_dict()
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in ours.state_dict().items())


@pytest.mark.parametrize("writer", SAM2_WRITERS.values(), ids=SAM2_WRITERS)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("model", ["sam2.1-tiny", "sam2-small"])
def test_sam2_layouts(
    make_segmenter: Make, tmp_path: Path, writer: Writer, named: bool, model: str
) -> None:
    expected = make_segmenter(model)
    loaded = load_segmenter(model if named else None, writer(expected, tmp_path))
    assert loaded.config == SEGMENTERS[model] == expected.config
    assert_same(loaded, expected)


@pytest.mark.parametrize("writer", [write_official, write_own], ids=["official", "own"])
@pytest.mark.parametrize("model", ["efficienttam-ti", "efficienttam-ti-2", "efficienttam-ti-1-512"])
def test_efficienttam_layouts(
    make_segmenter: Make, tmp_path: Path, writer: Writer, model: str
) -> None:
    expected = make_segmenter(model)
    loaded = load_segmenter(model, writer(expected, tmp_path))
    assert loaded.config == SEGMENTERS[model]
    assert_same(loaded, expected)


@pytest.mark.parametrize(
    "writer",
    [write_official, write_own, write_transformers_file],
    ids=["official", "own", "transformers"],
)
def test_edgetam_layouts(make_segmenter: Make, tmp_path: Path, writer: Writer) -> None:
    expected = make_segmenter("edgetam")
    loaded = load_segmenter(checkpoint=writer(expected, tmp_path))
    assert loaded.config == SEGMENTERS["edgetam"]
    assert_same(loaded, expected)


def test_only_the_counts_of_batches_may_be_missing(make_segmenter: Make, tmp_path: Path) -> None:
    expected = make_segmenter("edgetam")
    state = to_official(expected.state_dict())
    for key in [key for key in state if key.endswith("num_batches_tracked")]:
        del state[key]
    torch.save(state, tmp_path / "x.pt")
    assert_same(load_segmenter("edgetam", tmp_path / "x.pt"), expected)
    del state["spatial_perceiver.layers.1.attn.to_kv.weight"]
    state["image_encoder.trunk.body.stem.bn.num_batches_tracked"] = torch.zeros(())
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"1 missing: \S+to_kv\.weight; 1 unexpected: \S+stem\.bn"):
        load_segmenter("edgetam", tmp_path / "x.pt")


def test_what_is_loaded_is_ready_to_use_and_to_train(make_segmenter: Make, tmp_path: Path) -> None:
    loaded = load_segmenter("sam2.1-tiny", write_official(make_segmenter("sam2.1-tiny"), tmp_path))
    assert not loaded.training
    tensors = list(loaded.state_dict().values())
    assert {(x.device.type, x.dtype) for x in tensors} == {("cpu", torch.float32)}
    assert len({x.untyped_storage().data_ptr() for x in tensors}) == len(tensors)
    assert all(p.requires_grad for p in loaded.parameters())
    features = loaded.encode(torch.randn(1, 3, 64, 64)).features
    features.sum().backward()
    assert loaded.encoder.blocks[0].qkv.weight.grad is not None


def test_half_precision_files_load_as_float32(make_segmenter: Make, tmp_path: Path) -> None:
    expected = make_segmenter("sam2.1-tiny").to(torch.bfloat16)
    loaded = load_segmenter("sam2.1-tiny", write_official(expected, tmp_path))
    assert {x.dtype for x in loaded.state_dict().values()} == {torch.float32}
    assert_same(loaded, expected.to(torch.float32))


def test_the_bundled_model() -> None:
    nano = load_segmenter()
    assert nano.config.name == "nano" and not nano.training
    assert sum(p.numel() for p in nano.parameters()) <= 10e6
    assert nano.encoder.num_blocks - len(nano.encoder.required_blocks) >= 12
    assert all(x.isfinite().all() for x in nano.state_dict().values())


@pytest.mark.parametrize("writer", [write_official, write_own, write_transformers_folder])
def test_image_size(make_segmenter: Make, tmp_path: Path, writer: Writer) -> None:
    path = writer(make_segmenter("sam2.1-tiny"), tmp_path)
    assert load_segmenter("sam2.1-tiny", path, image_size=96).config.image_size == 96
    with pytest.raises(InputError, match="100 .*sam2.1-tiny.* 96 or 128"):
        load_segmenter("sam2.1-tiny", path, image_size=100)
    # Said before the weights, which are not here, would be fetched.
    with pytest.raises(InputError, match="image_size 100 does not fit"):
        load_segmenter("sam2.1-tiny", image_size=100)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("efficienttam_ti.pt", "efficienttam-ti"),
        ("efficienttam_ti_2.pt", "efficienttam-ti-2"),
        ("efficienttam_ti_512x512.pt", "efficienttam-ti-512"),
    ],
)
def test_the_file_name_tells_efficienttam_variants_apart(
    make_segmenter: Make, tmp_path: Path, file: str, expected: str
) -> None:
    path = write_official(make_segmenter("efficienttam-ti"), tmp_path).rename(tmp_path / file)
    assert load_segmenter(checkpoint=path).config.name == expected
    # A name that is given counts more: users rename files.
    assert load_segmenter("efficienttam-ti-1", path).config.name == "efficienttam-ti-1"


def test_other_names_leave_the_variant_open(make_segmenter: Make, tmp_path: Path) -> None:
    path = write_official(make_segmenter("efficienttam-ti"), tmp_path)
    with pytest.raises(InputError, match="which of efficienttam-ti, .*-2-512"):
        load_segmenter(checkpoint=path)


@pytest.mark.parametrize(
    ("holds", "asked", "writer"),
    [
        ("sam2.1-tiny", "sam2.1-small", write_official),
        ("sam2.1-tiny", "sam2-tiny", write_official),
        ("sam2-small", "sam2.1-small", write_transformers_file),
        ("sam2-small", "sam2.1-small", write_transformers_folder),
        ("sam2.1-tiny", "efficienttam-s", write_own),
        ("sam2.1-tiny", "nano", write_official),
        ("efficienttam-ti", "sam2.1-tiny", write_official),
        ("edgetam", "sam2.1-tiny", write_official),
        ("sam2.1-tiny", "edgetam", write_official),
    ],
)
def test_a_checkpoint_of_another_model(
    make_segmenter: Make, tmp_path: Path, holds: str, asked: str, writer: Writer
) -> None:
    path = writer(make_segmenter(holds), tmp_path)
    with pytest.raises(InputError, match=rf"of {holds}.*, not of {asked}"):
        load_segmenter(asked, path)


Edit = Callable[[dict[str, Tensor]], object]
EDITS: dict[str, tuple[Edit, str]] = {
    "missing": (
        lambda state: [state.pop(k) for k in list(state) if "fuser.layers.0" in k],
        r"9 missing: memory_encoder\.fuser\.layers\.0\.\S+, .* \.\.\.$",
    ),
    "missing point": (
        lambda state: state.pop("sam_prompt_encoder.point_embeddings.2.weight"),
        r"1 missing: sam_prompt_encoder\.point_embeddings\.2\.weight$",
    ),
    "unexpected": (
        lambda state: state.update(extra_head=torch.zeros(1)),
        r"tensors 1 unexpected: extra_head$",
    ),
    "shape": (
        lambda state: state.update(maskmem_tpos_enc=torch.zeros(7, 1, 1, 8)),
        r"1 of another shape: maskmem_tpos_enc \(7, 1, 1, 8\) instead of \(7, 1, 1, 16\)$",
    ),
    "position": (
        lambda state: state.update({"image_encoder.trunk.pos_embed": torch.zeros(4)}),
        r"1 of another shape: image_encoder\.trunk\.pos_embed \(4,\) instead of \(1, 8, 3, 3\)$",
    ),
    "several": (
        lambda state: (state.pop("no_obj_ptr"), state.update(more=torch.zeros(1))),
        r"1 missing: no_obj_ptr; 1 unexpected: more$",
    ),
}


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=EDITS)
def test_tensors_that_do_not_fit(
    make_segmenter: Make, tmp_path: Path, edit: Edit, message: str
) -> None:
    state = to_official(make_segmenter("sam2.1-tiny").state_dict())
    edit(state)
    path = tmp_path / "edited.pt"
    torch.save({"model": state}, path)
    with pytest.raises(InputError, match=rf"looks like sam2.1-tiny .*official SAM 2.*{message}"):
        load_segmenter("sam2.1-tiny", path)


def test_tensors_that_no_network_reads_may_be_missing(make_segmenter: Make, tmp_path: Path) -> None:
    expected = make_segmenter("sam2.1-tiny")
    state = to_official(expected.state_dict())
    del state["no_mem_pos_enc"]
    torch.save(state, tmp_path / "x.pt")
    assert_same(load_segmenter("sam2.1-tiny", tmp_path / "x.pt"), expected)


def test_sizes_of_ones_own_need_no_name(make_segmenter: Make, tmp_path: Path) -> None:
    segmenter = make_segmenter("sam2.1-tiny")
    write_transformers_folder(segmenter, tmp_path)
    changed = transformers_config(segmenter.config)
    changed["multimask_max_pt_num"] = 3
    (tmp_path / "config.json").write_text(json.dumps(changed))
    loaded = load_segmenter(checkpoint=tmp_path)
    assert loaded.config.name == "sam2-custom" and loaded.config.multimask_max_points == 3
    with pytest.raises(InputError, match="sam2-custom, .* sam2.1-tiny"):
        load_segmenter("sam2.1-tiny", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "sam"}, "model of type 'sam'"),
        ({"memory_fuser_num_layers": 3}, "sets memory_fuser_num_layers to 3; only 2"),
        (
            {"vision_config": {"backbone_config": {"embed_dim_per_stage": [8, 16, 32, 48]}}},
            "must double from stage to stage",
        ),
    ],
)
def test_config_json_that_is_not_sam2(
    make_segmenter: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    segmenter = make_segmenter("sam2.1-tiny")
    write_transformers_folder(segmenter, tmp_path)
    changed = transformers_config(segmenter.config) | changes
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=message):
        load_segmenter(checkpoint=tmp_path)


def test_loading_does_not_import_the_compiler() -> None:
    """Drawing random numbers on the meta device would, and costs a second on every start."""
    program = "import sys, tempomask.weights as w; w.load_segmenter(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "tempomask.weights.loading" in done.stdout.split(), done.stderr
    assert "torch._dynamo" not in done.stdout.split()


@pytest.mark.parametrize(
    "name, message",
    [
        ("SAM2.1-tiny", "unknown model 'SAM2.1-tiny'; did you mean sam2.1-tiny"),
        ("nano2", "unknown model 'nano2'; did you mean nano"),
        ("sam3", "unknown model 'sam3'; there are "),
        ("", "unknown model ''; there are "),
        ("sam2.1_hiera_l", "the model is called sam2.1-large here"),
        ("sam2_hiera_b+", "the model is called sam2-base-plus here"),
        ("sam2.1_hiera_base_plus.pt", "sam2.1-base-plus here, and a file or a Hub id is given as"),
        ("configs/sam2.1/sam2.1_hiera_t.yaml", "the model is called sam2.1-tiny here"),
        ("facebook/sam2.1-hiera-small", "sam2.1-small here, and a file or a Hub id is given as"),
        ("someone/model", r"given as the checkpoint \(--checkpoint, checkpoint=\)"),
        ("nano-rds", "nano-rds is an adapter, not a model: give it as the adapter"),
        ("dinov3-vits16", "run `tempomask propagate --model dinov3-vits16`"),
        ("nano-vis", "run `tempomask instances`, or load_instances"),
    ],
)
def test_wrong_names_lead_to_the_right_place(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_segmenter(name)


def test_an_instance_model_is_no_checkpoint_to_track_with() -> None:
    with pytest.raises(InputError, match="vis.safetensors"):
        load_segmenter(checkpoint=ASSETS / "nano-vis.safetensors")
