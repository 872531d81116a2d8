"""SAM 2 against transformers' Sam2VideoModel: random weights, copied through the real converter.

Every parameter is random, also those that start at zero or one, so that each one matters. Sizes are
tiny but for one model with all channels of SAM 2.1 tiny.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tempomask.model import Model
from tempomask.models.segmenter import ABSENT_LOGIT, MemoryInputs, Segmenter
from tempomask.ops.position import grid_sine
from tempomask.prompts import Prompt
from tempomask.tracking.frames import network_input, resize_frame
from tempomask.tracking.options import TrackingOptions
from tempomask.weights import load_segmenter, to_transformers

transformers = pytest.importorskip("transformers")

SIDE = 128
HEIGHT, WIDTH, FRAMES = 72, 104, 11
TOLERANCE = 1e-3
CPU = torch.device("cpu")


def make_config(full: bool, newer: bool = True) -> Any:
    """SAM 2.1 tiny with few channels in the trunk, or with all of them."""
    stages = [1, 2, 7, 2] if full else [1, 2, 3, 1]
    width = 96 if full else 16
    channels = [width * 2**i for i in range(4)]
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=width,
        image_size=[SIDE, SIDE],
        blocks_per_stage=stages,
        embed_dim_per_stage=channels,
        num_attention_heads_per_stage=[1, 2, 4, 8],
        global_attention_blocks=[5, 7, 9] if full else [4],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=channels[::-1],
        backbone_feature_sizes=[[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
    )
    return transformers.Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"image_size": SIDE},
        image_size=SIDE,
        memory_attention_rope_feat_sizes=[SIDE // 16, SIDE // 16],
        memory_attention_num_layers=4 if full else 2,
        enable_occlusion_spatial_embedding=newer,
        enable_temporal_pos_encoding_for_object_pointers=newer,
        attn_implementation="eager",
    )


def randomise(model: torch.nn.Module) -> None:
    """Weights that keep activations near unit scale; norms near one; everything else not zero."""
    generator = torch.Generator().manual_seed(0)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 and ("norm" in name or name.endswith("scale")):
                base = 1.0 if name.endswith("weight") else 0.3 if name.endswith("scale") else 0.0
                parameter.copy_(base + 0.1 * noise(parameter))
            elif parameter.ndim < 2 or "embed" in name or "positional_encoding" in name:
                parameter.copy_(0.2 * noise(parameter))
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(noise(parameter) * (1.3 / fan_in**0.5))
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(1.0)
        shared = model.prompt_encoder.shared_embedding.positional_embedding
        shared.copy_(noise(shared))
        model.shared_image_embedding.positional_embedding.copy_(shared)


class Pair:
    """The two implementations with the same weights."""

    def __init__(self, folder: Path, full: bool, newer: bool = True) -> None:
        torch.manual_seed(0)
        self.theirs = transformers.Sam2VideoModel(make_config(full, newer)).eval()
        randomise(self.theirs)
        self.theirs.save_pretrained(folder)
        self.ours: Segmenter = load_segmenter(checkpoint=folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("tiny"), full=False)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("older"), full=False, newer=False)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("full"), full=True)


@pytest.fixture(params=["tiny", "full"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    scale = max(1.0, float(theirs.abs().max()))
    assert float((ours - theirs).abs().max()) <= TOLERANCE * scale
    # Equality of zeros would show nothing.
    assert float(theirs.std()) > 1e-2


def clip() -> np.ndarray:
    """A bright square that moves over a textured background, (T, H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 160, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    frames = np.stack([np.roll(background, t, axis=1) for t in range(FRAMES)])
    for t, frame in enumerate(frames):
        frame[20:44, 20 + 3 * t : 48 + 3 * t] = (230, 180, 40)
    return frames


def square_mask(t: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:44, 20 + 3 * t : 48 + 3 * t] = True
    return mask


def test_encoder_features(pair: Pair) -> None:
    image = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    ours = pair.ours.encode(image)
    output = pair.theirs.get_image_features(image, return_dict=True)
    # (hw, B, C) to (B, C, h, w), finest first; the two fine maps have passed the decoder's 1x1.
    maps = [
        x.permute(1, 2, 0).unflatten(2, (SIDE // stride, SIDE // stride))
        for x, stride in zip(output.fpn_hidden_states, (4, 8, 16), strict=True)
    ]
    assert_close(ours.features, maps[2])
    assert_close(ours.high_resolution[0], maps[0])
    assert_close(ours.high_resolution[1], maps[1])
    assert ours.blocks.all()


def test_encoder_features_at_full_resolution(tiny: Pair) -> None:
    """At 1024 x 1024 windows are padded, and positions stretched, as in the released models."""
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))
    ours = tiny.ours.encode(image)
    output = tiny.theirs.get_image_features(image, return_dict=True)
    theirs = output.fpn_hidden_states[-1].permute(1, 2, 0).unflatten(2, (64, 64))
    assert_close(ours.features, theirs)


def test_memory_encoder(pair: Pair) -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 256, SIDE // 16, SIDE // 16, generator=generator)
    mask = torch.randn(2, 1, SIDE, SIDE, generator=generator)
    theirs, _ = pair.theirs.memory_encoder(features, mask.sigmoid() * 20 - 10)
    ours = pair.ours.encode_memory(features, mask, object_score=torch.ones(2))
    assert_close(ours, theirs)


@pytest.mark.parametrize("frames", [1, 4])
def test_memory_attention(pair: Pair, frames: int) -> None:
    generator = torch.Generator().manual_seed(3)
    side, pointers = SIDE // 16, 3

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    features = random(2, 256, side, side)
    memory = MemoryInputs(
        spatial=random(2, frames, 64, side, side),
        images=None,
        temporal_index=torch.arange(frames),
        pointers=random(2, pointers, 256),
        pointer_distance=torch.tensor([1.0, 2.0, 5.0]) / 15,
    )
    ours = pair.ours.attend(features, memory)
    tokens = pair.ours.memory_tokens(memory)
    positions = tokens.positions.expand(2, -1, -1)
    current = grid_sine(side, side, 256, CPU).flatten(1).T[:, None].expand(-1, 2, -1)
    theirs = pair.theirs.memory_attention(
        current_vision_features=features.flatten(2).permute(2, 0, 1),
        current_vision_position_embeddings=current,
        memory=tokens.values.transpose(0, 1),
        memory_posision_embeddings=positions.transpose(0, 1),
        num_object_pointer_tokens=4 * pointers,
    )
    # (1, B, hw, C) or (B, hw, C), whichever the layers leave: to (B, C, hw).
    theirs = theirs.reshape(-1, *theirs.shape[-2:])
    assert_close(ours.flatten(2), theirs.transpose(1, 2))


def test_decoder(pair: Pair) -> None:
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    encoded = pair.ours.encode(image)
    points, labels = torch.tensor([[[30.0, 70.0], [90.0, 20.0]]]), torch.tensor([[1, 0]])
    ours = pair.ours.propose(encoded.features, encoded.high_resolution, points, labels)
    sparse, dense = pair.theirs.prompt_encoder(points[:, None], labels[:, None], None, None)
    masks, iou, tokens, score = pair.theirs.mask_decoder(
        image_embeddings=encoded.features,
        image_positional_embeddings=pair.theirs.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
        high_resolution_features=list(encoded.high_resolution),
    )
    assert_close(ours.logits[:, 1:], masks[:, 0])
    assert_close(ours.iou[:, 1:], iou[:, 0])
    assert_close(ours.tokens[:, 1:], tokens[:, 0])
    assert float((ours.object_score - score.flatten()).abs().max()) < TOLERANCE


class _StoringFloat32:
    """`torch` as transformers' module sees it, but for the type in which memories are stored."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def their_logits(
    model: Any, frames: np.ndarray, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    """Low-resolution logits (N, h, w) of every frame, by transformers' own session."""
    modeling, side = sys.modules[type(model).__module__], model.config.image_size
    # Rounding memories to bfloat16 would hide what is compared here.
    monkeypatch.setattr(modeling, "torch", _StoringFloat32())
    inputs = [network_input(resize_frame(f, side, "bilinear"), CPU)[0] for f in frames]
    make = getattr(modeling, type(model).__name__.replace("Model", "InferenceSession"))
    session = make(
        video=torch.stack(inputs),
        video_height=HEIGHT,
        video_width=WIDTH,
        dtype=torch.float32,
    )
    processor = object.__new__(transformers.Sam2VideoProcessor)
    processor.target_size, processor.point_pad_value = side, -10
    for prompt in prompts:
        arguments: dict[str, Any] = {"frame_idx": prompt.frame, "obj_ids": prompt.object_id}
        if prompt.mask is not None:
            arguments["input_masks"] = np.asarray(prompt.mask)
        if prompt.points is not None:
            arguments["input_points"] = [[np.asarray(prompt.points).tolist()]]
            arguments["input_labels"] = [[np.asarray(prompt.labels).tolist()]]
        if prompt.box is not None:
            arguments["input_boxes"] = [[np.asarray(prompt.box).tolist()]]
        processor.add_inputs_to_inference_session(session, **arguments)
        model(session, frame_idx=prompt.frame)
    outputs = model.propagate_in_video_iterator(session, start_frame_idx=0)
    return [output.pred_masks[:, 0] for output in outputs]


PROMPTS = {
    "point": [Prompt(points=[(34, 32)])],
    "points": [Prompt(points=[(34, 32), (80, 60)], labels=[1, 0])],
    "box": [Prompt(box=(18, 18, 50, 46))],
    "box and point": [Prompt(box=(18, 18, 50, 46), points=[(30, 30)])],
    "mask": [Prompt(mask=square_mask(0))],
    "two objects": [Prompt(mask=square_mask(0)), Prompt(object_id=2, points=[(80, 60)])],
}


def compare_videos(
    pair: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], list[Tensor]]:
    """Logits of both, and the check that they agree."""
    frames = clip()
    model = Model(pair.ours)
    options = TrackingOptions.transformers(memory_dtype="float32", lookahead=True)
    results = model.track(frames, prompts, options=options)
    ours = [torch.from_numpy(result.low_res_logits) for result in results]
    theirs = their_logits(pair.theirs, frames, prompts, monkeypatch)
    assert len(ours) == len(theirs) == FRAMES
    for mine, other in zip(ours, theirs, strict=True):
        # Absent objects are -1024 everywhere in both.
        assert float((mine - other).abs().max()) <= TOLERANCE
    seen = torch.stack(theirs[1:])
    assert float(seen.std()) > 0.1 and float(seen.max()) > ABSENT_LOGIT
    return ours, theirs


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_video(tiny: Pair, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    compare_videos(tiny, prompts, monkeypatch)


@pytest.mark.parametrize("kind", ["point", "mask"])
def test_video_without_the_parts_of_2_1(
    older: Pair, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not older.ours.config.occlusion_embedding
    compare_videos(older, PROMPTS[kind], monkeypatch)


def test_video_with_all_channels(full: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    compare_videos(full, PROMPTS["point"], monkeypatch)


def test_the_default_is_not_transformers(tiny: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official predictor differs: bicubic frames, memories of soft masks."""
    _, theirs = compare_videos(tiny, PROMPTS["mask"], monkeypatch)
    options = TrackingOptions(memory_dtype="float32")
    official = Model(tiny.ours).track(clip(), PROMPTS["mask"], options=options)
    last = torch.from_numpy(list(official)[-1].low_res_logits)
    assert float((last - theirs[-1]).abs().max()) > 10 * TOLERANCE


def test_the_key_table_is_reversible(tiny: Pair) -> None:
    back = to_transformers(tiny.ours.state_dict())
    for name, tensor in tiny.theirs.state_dict().items():
        if name in back and "no_memory_positional" not in name:
            assert torch.equal(back[name], tensor), name
    assert len(back) >= len(tiny.theirs.state_dict()) - 2
