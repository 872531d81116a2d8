"""The assembled networks at several sizes: shapes of the four steps, batches, training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tempomask.models.config import (
    SEGMENTERS,
    HieraConfig,
    HybridConfig,
    MaskDecoderConfig,
    PerceiverConfig,
    RepViTConfig,
    SegmenterConfig,
    ViTConfig,
)
from tempomask.models.segmenter import ABSENT_LOGIT, MemoryInputs, Segmenter

ENCODERS = {
    "sam2.1-tiny": HieraConfig(embed_dim=8, stages=(1, 1, 2, 1), global_attention_blocks=(3,)),
    "sam2-tiny": HieraConfig(embed_dim=8, stages=(1, 1, 2, 1), global_attention_blocks=(3,)),
    "efficienttam-ti": ViTConfig(dim=16, num_heads=2, depth=2, global_attention_blocks=(1,)),
    "efficienttam-ti-1": ViTConfig(dim=16, num_heads=2, depth=2, global_attention_blocks=(1,)),
    "efficienttam-ti-2": ViTConfig(dim=16, num_heads=2, depth=2, global_attention_blocks=(1,)),
    "edgetam": RepViTConfig((1, 1, 2, 1), (8, 16, 24, 32)),
    "nano": HybridConfig(dim=16, num_heads=2, depth=2),
}
N, T, P = 3, 2, 4


def small(name: str, image_size: int) -> SegmenterConfig:
    config = SEGMENTERS[name]
    return replace(
        config,
        encoder=ENCODERS[name],
        image_size=image_size,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=replace(config.memory_attention, layers=2, feedforward_dim=32),
        perceiver=config.perceiver and PerceiverConfig(layers=1, latents=3, grid=2),
        mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
    )


def make(name: str, image_size: int = 64) -> Segmenter:
    torch.manual_seed(0)
    segmenter = Segmenter(small(name, image_size)).eval()
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        # Objects are present unless a test says otherwise.
        segmenter.mask_decoder.object_score_head.layers[-1].bias.fill_(5.0)
    return segmenter


def memories(segmenter: Segmenter, seed: int = 1) -> MemoryInputs:
    generator = torch.Generator().manual_seed(seed)
    config = segmenter.config
    side = config.image_size // 16

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    keys = config.memory_attention.image_keys
    return MemoryInputs(
        spatial=random(N, T, *config.memory_shape),
        images=random(1, T, config.hidden_dim, side, side) if keys else None,
        temporal_index=torch.tensor([6, 0]),
        pointers=random(N, P, config.hidden_dim),
        pointer_distance=torch.tensor([3.0, 1.0, 2.0, 4.0]) / 15,
    )


@pytest.mark.parametrize("image_size", [64, 96, 160])
@pytest.mark.parametrize("name", ENCODERS)
def test_shapes_of_the_four_steps(name: str, image_size: int) -> None:
    segmenter = make(name, image_size)
    side, low = image_size // 16, image_size // 4
    with torch.no_grad():
        encoded = segmenter.encode(torch.randn(1, 3, image_size, image_size))
        assert encoded.features.shape == (1, 32, side, side)
        fine = [tuple(x.shape) for x in encoded.high_resolution]
        expected = [(1, 4, low, low), (1, 8, low // 2, low // 2)]
        assert fine == (expected if segmenter.config.high_resolution else [])
        features = segmenter.attend(encoded.features, memories(segmenter))
        assert features.shape == (N, 32, side, side)
        for multimask, candidates in ((False, 1), (True, 3)):
            decoded = segmenter.decode(features, encoded.high_resolution, multimask=multimask)
            assert decoded.logits.shape == (N, 1, low, low)
            assert decoded.all_logits.shape == (N, candidates, low, low)
            assert decoded.all_iou.shape == (N, candidates)
            assert decoded.all_pointers.shape == (N, candidates, 32)
            assert decoded.object_pointer.shape == (N, 32)
            assert decoded.predicted_iou.shape == decoded.object_score.shape == (N,)
        memory = segmenter.encode_memory(encoded.features, decoded.logits, decoded.object_score)
        assert memory.shape == (N, *segmenter.config.memory_shape)
        tokens = 3 + 2 * 2 if segmenter.config.perceiver else side * side
        assert memory.shape[1] == 16 and memory[0, 0].numel() == tokens


@pytest.mark.parametrize("name", ENCODERS)
def test_objects_of_a_batch_do_not_mix(name: str) -> None:
    segmenter = make(name)
    with torch.no_grad():
        encoded = segmenter.encode(torch.randn(1, 3, 64, 64))
        memory = memories(segmenter)
        features = segmenter.attend(encoded.features, memory)
        points, labels = torch.rand(N, 2, 2) * 64, torch.tensor([[1, 0], [2, 3], [1, -1]])
        together = segmenter.decode(features, encoded.high_resolution, points, labels)
        kept = segmenter.encode_memory(encoded.features, together.logits, together.object_score)
        for i in range(N):
            one = memory._replace(
                spatial=memory.spatial[i : i + 1], pointers=memory.pointers[i : i + 1]
            )
            alone = segmenter.attend(encoded.features, one)
            assert torch.allclose(alone[0], features[i], atol=1e-4)
            decoded = segmenter.decode(
                alone, encoded.high_resolution, points[i : i + 1], labels[i : i + 1]
            )
            assert torch.allclose(decoded.logits[0], together.logits[i], atol=1e-3)
            memorised = segmenter.encode_memory(
                encoded.features, decoded.logits, decoded.object_score
            )
            assert torch.allclose(memorised[0], kept[i], atol=1e-3)


@pytest.mark.parametrize("name", ENCODERS)
def test_everything_the_network_is_given_matters(name: str) -> None:
    """Each input of memory attention, changed alone, changes what comes out."""
    segmenter = make(name)
    config = segmenter.config
    with torch.no_grad():
        features = segmenter.encode(torch.randn(1, 3, 64, 64)).features
        memory, other = memories(segmenter), memories(segmenter, seed=2)
        base = segmenter.attend(features, memory)
        changes = {
            "spatial": other.spatial,
            "temporal_index": torch.tensor([6, 3]),
            "pointers": other.pointers,
        }
        if config.memory_attention.image_keys:
            changes["images"] = other.images
        if config.pointer_temporal_encoding:
            changes["pointer_distance"] = memory.pointer_distance * 2
        for field, value in changes.items():
            changed = segmenter.attend(features, memory._replace(**{field: value}))
            assert (changed - base).abs().max() > 1e-4, field
        if not config.pointer_temporal_encoding:
            late = memory._replace(pointer_distance=memory.pointer_distance * 2)
            assert torch.equal(segmenter.attend(features, late), base)


def test_an_absent_object_is_blank_and_has_the_learned_pointer() -> None:
    segmenter = make("sam2.1-tiny")
    with torch.no_grad():
        segmenter.mask_decoder.object_score_head.layers[-1].bias.fill_(-1e4)
        encoded = segmenter.encode(torch.randn(1, 3, 64, 64))
        decoded = segmenter.decode(encoded.features, encoded.high_resolution, multimask=True)
    assert (decoded.logits == ABSENT_LOGIT).all() and (decoded.object_score < 0).all()
    assert torch.equal(decoded.object_pointer[0], segmenter.no_object_pointer)
    assert decoded.raw_logits.std() > 0


def test_memories_of_absent_objects_are_marked_since_2_1() -> None:
    for name, marked in (("sam2.1-tiny", True), ("sam2-tiny", False)):
        segmenter = make(name)
        features, logits = torch.randn(1, 32, 4, 4), torch.randn(2, 1, 16, 16)
        with torch.no_grad():
            seen = segmenter.encode_memory(features, logits, torch.tensor([1.0, 1.0]))
            mixed = segmenter.encode_memory(features, logits, torch.tensor([1.0, 0.0]))
        difference = mixed - seen
        assert not difference[0].any()
        if marked:
            expected = segmenter.occlusion_embedding[:, None, None].expand_as(difference[1])
            assert torch.allclose(difference[1], expected, atol=1e-6)
        else:
            assert not difference[1].any()


def test_a_frame_without_memory_gets_the_learned_offset() -> None:
    segmenter = make("sam2.1-tiny")
    features = torch.randn(1, 32, 4, 4)
    offset = segmenter.attend(features, None) - features
    assert torch.allclose(offset, segmenter.no_memory[:, None, None].expand_as(offset), atol=1e-6)


@pytest.mark.parametrize("name", ["sam2.1-tiny", "efficienttam-ti-1"])
def test_a_mask_prompt_is_the_result(name: str) -> None:
    segmenter = make(name)
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, 16:48, 8:40] = 1
    with torch.no_grad():
        encoded = segmenter.encode(torch.randn(1, 3, 64, 64))
        decoded = segmenter.use_mask_as_output(encoded, mask)
    low = decoded.logits[:, 0] > 0
    assert torch.equal(low[0], mask[0, 0, ::4, ::4] > 0) and not low[1].any()
    assert decoded.logits.min() == -10 and decoded.logits.max() == 10
    assert decoded.object_score.tolist() == [10, -10] and decoded.predicted_iou.tolist() == [1, 1]
    assert torch.equal(decoded.object_pointer[1], segmenter.no_object_pointer)
    assert not torch.equal(decoded.object_pointer[0], segmenter.no_object_pointer)


def test_dynamic_multimask_replaces_only_unstable_masks() -> None:
    segmenter = make("sam2.1-tiny")
    with torch.no_grad():
        encoded = segmenter.encode(torch.randn(1, 3, 64, 64))
        proposals = segmenter.propose(
            encoded.features.expand(2, -1, -1, -1), encoded.high_resolution
        )
        logits = proposals.logits.clone()
        # The first object's single mask has a hard edge, the second's is all doubt.
        logits[0, 0] = torch.where(torch.arange(16) < 8, -5.0, 5.0)
        logits[1, 0] = torch.linspace(-0.06, 0.06, 16)
        present = torch.full_like(proposals.object_score, 5.0)
        proposals = proposals._replace(logits=logits, object_score=present)
        decoded = segmenter.select(proposals, multimask=False, dynamic_multimask=True)
    best = 1 + int(proposals.iou[1, 1:].argmax())
    assert torch.equal(decoded.logits[0, 0], logits[0, 0])
    assert torch.equal(decoded.logits[1, 0], logits[1, best])
    assert decoded.predicted_iou[1] == proposals.iou[1, best]
    # The pointer stays that of the single mask.
    single = segmenter.select(proposals, multimask=False)
    assert torch.equal(decoded.object_pointer, single.object_pointer)


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_every_parameter(name: str) -> None:
    segmenter = make(name).train()
    encoded = segmenter.encode(torch.randn(1, 3, 64, 64))
    memory = memories(segmenter)
    points, labels = torch.rand(N, 5, 2) * 64, torch.tensor([[1, 0, 2, 3, -1]] * N)
    mask = (torch.rand(N, 1, 64, 64) > 0.5).float()
    outputs = [
        segmenter.attend(encoded.features, None),
        segmenter.encode_memory(
            encoded.features, torch.randn(N, 1, 16, 16), torch.tensor([1, -1, 1])
        ),
        segmenter.use_mask_as_output(encoded, mask).object_pointer,
        segmenter.no_object_pointer,
    ]
    features = segmenter.attend(encoded.features, memory)
    for prompt in (None, torch.randn(N, 1, 16, 16)):
        proposals = segmenter.propose(features, encoded.high_resolution, points, labels, prompt)
        outputs += [proposals.logits, proposals.iou, proposals.object_score]
        outputs.append(segmenter.object_pointer_projection(proposals.tokens))
    loss = torch.stack([(x * torch.randn_like(x)).sum() for x in outputs]).sum()
    # Every row of the temporal encoding is used by some distance.
    loss = loss + segmenter.memory_temporal_encoding.sum()
    loss.backward()
    silent = [n for n, p in segmenter.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
