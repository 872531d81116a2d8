"""Key tables: exact, reversible, and those of the official code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.config import HieraConfig, RepViTConfig, ViTConfig, segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.weights import to_official, to_transformers
from tempomask.weights.edgetam import EDGETAM, TRANSFORMERS_EDGETAM
from tempomask.weights.layout import Layout, extra_axes, layout_of, rename
from tempomask.weights.sam2 import EFFICIENTTAM, SAM2
from tempomask.weights.segmenters import LAYOUTS
from tempomask.weights.transformers_sam2 import TRANSFORMERS_SAM2

KEYS = Path(__file__).parent / "keys"
CASES = [
    ("sam2.1-tiny", SAM2),
    ("sam2-tiny", SAM2),
    ("sam2.1-tiny", TRANSFORMERS_SAM2),
    ("sam2-tiny", TRANSFORMERS_SAM2),
    ("efficienttam-ti", EFFICIENTTAM),
    ("edgetam", EDGETAM),
    ("edgetam", TRANSFORMERS_EDGETAM),
]


# From official names to those of transformers, as its conversion does; tests/parity shows by the
# numbers that the latter mean what we take them for.
OFFICIAL_TO_TRANSFORMERS = [
    (r"^image_encoder\.trunk\.patch_embed\.proj", "vision_encoder.backbone.patch_embed.projection"),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv", r"vision_encoder.neck.convs.\1"),
    (r"^sam_prompt_encoder\.point_embeddings\.\d\.", "prompt_encoder.point_embed."),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"^sam_", ""),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"mlp\.layers\.0\.", "mlp.proj_in."),
    (r"mlp\.layers\.1\.", "mlp.proj_out."),
    (r"(hypernetworks_mlps\.\d|_head|obj_ptr_proj)\.layers\.0\.", r"\1.proj_in."),
    (r"(hypernetworks_mlps\.\d|_head|obj_ptr_proj)\.layers\.1\.", r"\1.layers.0."),
    (r"(hypernetworks_mlps\.\d|_head|obj_ptr_proj)\.layers\.2\.", r"\1.proj_out."),
    (r"\.out_proj\.", ".o_proj."),
    (r"^memory_encoder\.o_proj\.", "memory_encoder.projection."),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"\.norm(\d?)\.", r".layer_norm\1."),
    (r"pix_feat_proj", "feature_projection"),
    (r"\.fuser\.", ".memory_fuser."),
    (r"dwconv", "depthwise_conv"),
    (r"pwconv", "pointwise_conv"),
    (r"\.gamma$", ".scale"),
    (r"mask_downsampler\.encoder\.12\.", "mask_downsampler.final_conv."),
    *(
        (rf"mask_downsampler\.encoder\.{3 * i + j}\.", f"mask_downsampler.layers.{i}.{part}.")
        for i in range(4)
        for j, part in enumerate(("conv", "layer_norm"))
    ),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^obj_ptr_proj", "object_pointer_proj"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^obj_ptr_tpos_proj", "temporal_positional_encoding_projection_layer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
]


EDGETAM_TO_TRANSFORMERS = [
    (r"^image_encoder\.trunk\.body\.", "vision_encoder.backbone.timm_model."),
    (r"^(memory_attention\.layers\.\d)\.linear1", r"\1.mlp.up_proj"),
    (r"^(memory_attention\.layers\.\d)\.linear2", r"\1.mlp.down_proj"),
    (r"^spatial_perceiver\.latents$", "spatial_perceiver.latents_1d"),
    (r"\.attn\.norm_x", ".layer_norm_input"),
    (r"\.attn\.norm_latents", ".layer_norm_latents"),
    (r"\.self_attn\.norm", ".layer_norm_self"),
    (r"\.attn\.to_(\w+)", r".cross_attention.\1_proj"),
    (r"^(spatial_perceiver.*)\.self_attn\.to_(\w+)", r"\1.self_attention.\2_proj"),
    (r"out_proj", "o_proj"),
    (r"\.(self_)?ff\.0", r".\1mlp.layer_norm"),
    (r"\.(self_)?ff\.1", r".\1mlp.up_proj"),
    (r"\.(self_)?ff\.3", r".\1mlp.down_proj"),
]


def official_keys(file: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a released checkpoint, as the official code builds its network."""
    lines = (KEYS / file).read_text().splitlines()
    rows = (line.split(" ") for line in lines)
    return {key: tuple(map(int, shape.split(","))) for key, shape in rows}


@pytest.fixture
def full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the shrinking of named models."""
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("sam2.1-tiny", "sam2.1_hiera_tiny.txt", 471),
        ("efficienttam-ti", "efficienttam_ti.txt", 455),
        ("efficienttam-ti-2", "efficienttam_ti.txt", 455),
    ],
)
def test_names_and_shapes_are_the_official_ones(
    full_size: None, name: str, file: str, count: int
) -> None:
    with torch.device("meta"):
        ours = to_official(Segmenter(segmenter_config(name)).state_dict())
    expected = official_keys(file)
    assert len(expected) == count
    assert {key: tuple(x.shape) for key, x in ours.items()} == expected


def test_sam2_lacks_only_the_three_tensors_that_2_1_added(full_size: None) -> None:
    with torch.device("meta"):
        older = to_official(Segmenter(segmenter_config("sam2-tiny")).state_dict())
    added = official_keys("sam2.1_hiera_tiny.txt").keys() - older.keys()
    assert added == {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}


@pytest.mark.parametrize(
    ("model", "first"), [("sam2.1-tiny", []), ("edgetam", EDGETAM_TO_TRANSFORMERS)]
)
def test_official_and_transformers_names_mean_the_same(
    make_segmenter: Callable[[str], Segmenter], model: str, first: list[tuple[str, str]]
) -> None:
    ours = make_segmenter(model).state_dict()
    official, theirs = to_official(ours), to_transformers(ours)
    for key in [key for key in official if "to_kv" in key]:
        parts = official.pop(key).chunk(2)
        official |= {key.replace("to_kv", f"to_{x}"): y for x, y in zip("kv", parts, strict=True)}
    labels = [official.pop(f"sam_prompt_encoder.point_embeddings.{i}.weight") for i in range(4)]
    assert torch.equal(torch.cat(labels), theirs.pop("prompt_encoder.point_embed.weight"))
    for name in ("no_memory_positional_encoding", "shared_image_embedding.positional_embedding"):
        theirs.pop(name)
    official.pop("no_mem_pos_enc")
    for key, tensor in official.items():
        name = key
        for pattern, replacement in (*first, *OFFICIAL_TO_TRANSFORMERS):
            name = re.sub(pattern, replacement, name)
        assert torch.equal(tensor, theirs.pop(name)), (key, name)
    assert not theirs


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_tables_are_reversible(
    make_segmenter: Callable[[str], Segmenter], name: str, layout: Layout
) -> None:
    ours = make_segmenter(name).state_dict()
    theirs = layout.to_theirs(ours)
    back = layout.to_ours(theirs)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)
    # And the other way; what is not read is all that is lost.
    again = layout.to_theirs(back)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[key], theirs[key]) for key in theirs)
    unread = {name for name, _ in layout.unread}
    counters = {name for name in theirs if name.endswith(".num_batches_tracked")}
    assert {key for key, x in theirs.items() if not x.any()} == unread | counters
    assert bool(counters) == layout.counters


@pytest.mark.parametrize(
    "name",
    ["sam2.1-small", "sam2.1-base-plus", "sam2.1-large", "efficienttam-s", "edgetam", "nano"],
)
def test_every_size_has_a_name_for_every_tensor(full_size: None, name: str) -> None:
    config = segmenter_config(name)
    with torch.device("meta"):
        ours = Segmenter(config).state_dict()
    layouts: dict[type, list[Layout]] = {
        HieraConfig: [SAM2, TRANSFORMERS_SAM2],
        ViTConfig: [EFFICIENTTAM],
        RepViTConfig: [EDGETAM, TRANSFORMERS_EDGETAM],
    }
    for layout in layouts.get(type(config.encoder), []):
        theirs = layout.to_theirs(ours)
        back = layout.to_ours(theirs)
        assert {key: x.shape for key, x in back.items()} == {k: x.shape for k, x in ours.items()}
        assert layout_of(theirs, LAYOUTS) is layout
    assert layout_of(ours, LAYOUTS) is LAYOUTS[-1]


def test_a_network_without_official_twin_cannot_be_exported() -> None:
    with torch.device("meta"):
        state = Segmenter(segmenter_config("nano")).state_dict()
    for convert in (to_official, to_transformers):
        with pytest.raises(InputError, match=r"encoder\.stem.* has no counterpart"):
            convert(state)


def test_efficienttam_positions(make_segmenter: Callable[[str], Segmenter]) -> None:
    """Row 0 is the class token; row 1 + y * n + x is the cell (y, x)."""
    ours = make_segmenter("efficienttam-ti").state_dict()
    theirs = to_official(ours)["image_encoder.trunk.pos_embed"]
    assert theirs.shape == (1, 10, 16) and not theirs[0, 0].any()
    for y in range(3):
        for x in range(3):
            assert torch.equal(theirs[0, 1 + 3 * y + x], ours["encoder.position"][:, y, x])


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a.3.b.weight", "x.3.y.weight"),
        ("a.12.b", "x.12.y"),
        ("a.b.b.weight", None),
        ("a.3", None),
        ("aa.3.b", None),
        ("c.1.d.2.bias", "z.1.2.bias"),
        ("c.1.d.2e.bias", None),
        ("whole", "w"),
        ("whole.weight", "w.weight"),
        ("wholes", None),
    ],
)
def test_rename(key: str, expected: str | None) -> None:
    rules = [("a.*.b", "x.*.y"), ("c.*.d.*", "z.*.*"), ("whole", "w")]
    assert rename(key, rules) == expected


def test_the_first_matching_rule_counts() -> None:
    assert rename("a.0.weight", [("a.0", "x"), ("a", "y")]) == "x.weight"
    assert rename("a.0.weight", [("a", "y"), ("a.0", "x")]) == "y.0.weight"


@pytest.mark.parametrize("layout", LAYOUTS[:-1], ids=lambda x: x.title)
@given(data=st.data())
def test_each_rule_undoes_itself(layout: Layout, data: st.DataObject) -> None:
    ours, _ = data.draw(st.sampled_from(layout.rules))
    number = st.integers(0, 60).map(str)
    parts = [data.draw(number) if p == "*" else p for p in ours.split(".")]
    key = ".".join(parts) + data.draw(st.sampled_from(["", ".weight", ".bias"]))
    theirs = rename(key, layout.rules)
    assert theirs is not None
    assert rename(theirs, [(b, a) for a, b in layout.rules]) == key


@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    axes=st.sets(st.integers(0, 2), max_size=2),
)
def test_extra_axes(shape: list[int], axes: set[int]) -> None:
    axes = {axis for axis in axes if axis <= len(shape)}
    x: Tensor = torch.randn(shape)
    change = extra_axes(*sorted(axes))
    theirs = change.to_theirs(x)
    assert theirs.ndim == x.ndim + len(axes) and all(theirs.shape[a] == 1 for a in axes)
    assert torch.equal(change.to_ours(theirs), x)
