"""EdgeTAM against transformers' EdgeTamVideoModel: random weights, copied through the real tables.

timm is not needed: its encoder is written out in `repvit.py`. Videos are compared with the released
sizes but for a smaller image and perceiver.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tempomask.errors import InputError
from tempomask.model import load
from tempomask.models.config import EDGETAM, PerceiverConfig, SegmenterConfig
from tempomask.models.segmenter import MemoryInputs, Segmenter
from tempomask.ops.position import grid_sine
from tempomask.weights import load_segmenter, to_official, to_transformers
from tempomask.weights.edgetam import TRANSFORMERS_EDGETAM
from tests.parity import repvit
from tests.parity.test_transformers_sam2 import (
    CPU,
    PROMPTS,
    assert_close,
    clip,
    compare_videos,
    randomise,
)

transformers = pytest.importorskip("transformers")
SMALL = replace(EDGETAM, image_size=128, perceiver=PerceiverConfig(latents=24, grid=4))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def their_model(config: SegmenterConfig) -> Any:
    """Their model with our configuration's sizes, and `repvit.Backbone` in place of timm's."""
    from transformers.models.edgetam import modeling_edgetam

    backbone = SimpleNamespace(from_config=lambda config: repvit.Backbone())
    side, perceiver = config.image_size, config.perceiver
    assert perceiver is not None
    vision = transformers.EdgeTamVisionConfig(
        backbone_config=transformers.TimmWrapperConfig(architecture="repvit_m1"),
        backbone_feature_sizes=[[side // stride] * 2 for stride in (4, 8, 16)],
    )
    torch.manual_seed(0)
    settings = transformers.EdgeTamVideoConfig(
        vision_config=vision,
        prompt_encoder_config={"image_size": side},
        image_size=side,
        memory_attention_rope_feat_sizes=[side // 16, side // 16],
        memory_attention_rope_k_sizes=[perceiver.grid, perceiver.grid],
        perceiver_resampler_num_latents=perceiver.latents,
        perceiver_resampler_num_latents_2d=perceiver.grid**2,
        enable_occlusion_spatial_embedding=False,
        enable_temporal_pos_encoding_for_object_pointers=False,
        attn_implementation="eager",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_edgetam, "AutoModel", backbone)
        model = transformers.EdgeTamVideoModel(settings).eval()
    randomise(model)
    repvit.randomise(model.vision_encoder.backbone)
    return model


@pytest.fixture(scope="module")
def pair() -> SimpleNamespace:
    """The two implementations at a small size with the same weights."""
    theirs = their_model(SMALL)
    ours = Segmenter(SMALL).eval()
    ours.load_state_dict(TRANSFORMERS_EDGETAM.to_ours(theirs.state_dict()))
    return SimpleNamespace(theirs=theirs, ours=ours)


@pytest.mark.parametrize("kind", ["point", "points", "box", "mask"])
def test_video(pair: SimpleNamespace, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare_videos(pair, PROMPTS[kind], monkeypatch)


def test_parts_at_the_released_sizes(tmp_path: Path) -> None:
    config = EDGETAM.with_image_size(512)
    theirs = their_model(config)
    save_file(
        {k: v.contiguous().clone() for k, v in theirs.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    ours = load_segmenter(checkpoint=tmp_path)
    assert ours.config == config

    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    image = random(1, 3, 512, 512)
    encoded = ours.encode(image)
    maps = theirs.get_image_features(image, return_dict=True).fpn_hidden_states
    for mine, other in zip((*encoded.high_resolution, encoded.features), maps, strict=True):
        assert_close(mine.flatten(2), other.permute(1, 2, 0))

    features, mask = random(1, 256, 32, 32), random(1, 1, 512, 512)
    memory = ours.encode_memory(features, mask, torch.ones(1))
    assert memory.shape == (1, *config.memory_shape) == (1, 64, 512, 1)
    other, _ = theirs._encode_new_memory(
        features.flatten(2).permute(2, 0, 1), mask, torch.ones(1, 1), False
    )
    assert_close(memory[..., 0].mT, other)

    inputs = MemoryInputs(
        spatial=random(2, 3, *config.memory_shape),
        images=None,
        temporal_index=torch.tensor([6, 1, 0]),
        pointers=random(2, 3, 256),
        pointer_distance=torch.tensor([1.0, 2.0, 5.0]) / 15,
    )
    tokens, queries = ours.memory_tokens(inputs), random(2, 256, 32, 32)
    current = grid_sine(32, 32, 256, CPU).flatten(1).T[:, None].expand(-1, 2, -1)
    attended = theirs.memory_attention(
        current_vision_features=queries.flatten(2).permute(2, 0, 1),
        current_vision_position_embeddings=current,
        memory=tokens.values.transpose(0, 1),
        memory_posision_embeddings=tokens.positions.expand(2, -1, -1).transpose(0, 1),
        num_object_pointer_tokens=4 * 3,
        num_spatial_memory_tokens=3,
    )
    attended = attended.reshape(-1, *attended.shape[-2:])
    assert_close(ours.attend(queries, inputs).flatten(2), attended.reshape(2, 1024, 256).mT)

    back = to_transformers(ours.state_dict())
    for name, tensor in theirs.state_dict().items():
        if not name.endswith("num_batches_tracked") and name != "no_memory_positional_encoding":
            assert torch.equal(back.pop(name), tensor), name
    left = {name.rpartition(".")[2] for name in back}
    assert left == {"num_batches_tracked", "no_memory_positional_encoding"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("perceiver_resampler_num_latents", 128),
        ("memory_attention_rope_k_sizes", [8, 8]),
        ("enable_occlusion_spatial_embedding", True),
        ("model_type", "edgetam"),
    ],
)
def test_other_sizes_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    with torch.device("meta"):
        state = to_transformers(Segmenter(EDGETAM).state_dict())
    save_file({k: torch.zeros(x.shape) for k, x in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "edgetam_video", key: value}))
    with pytest.raises(InputError, match=f"{value}".replace("[", r"\[")):
        load_segmenter(checkpoint=tmp_path)


def test_the_official_file_tracks(tmp_path: Path) -> None:
    """Official names, without a configuration; both engines find the same masks."""
    torch.manual_seed(0)
    network = Segmenter(EDGETAM).eval()
    repvit.randomise(network)
    network.mask_decoder.object_score_head.layers[-1].bias.fill_(9.0)
    path = tmp_path / "anything.pt"
    torch.save({"model": to_official(network.state_dict())}, path)
    frames = clip()[:3]
    logits = []
    for engine in ("plain", "fast"):
        model = load(checkpoint=path, image_size=512, engine=engine, dtype="float32")
        assert model.name == "edgetam"
        results = list(model.track(frames, PROMPTS["mask"]))
        logits.append(torch.from_numpy(results[-1].low_res_logits))
    assert float(logits[0].std()) > 1e-2
    torch.testing.assert_close(*logits, atol=2e-3, rtol=1e-3)
