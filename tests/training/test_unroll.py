"""The unrolled clip: what it remembers, what it supervises, and that it tracks like a session."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tempomask.data.clips import Clip, collate
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.tracking.session import Session
from tempomask.training.losses import LossWeights
from tempomask.training.prompts import PromptSampling
from tempomask.training.unroll import ClipMemory, ClipModel, union_of_objects
from tempomask.training.validation import track_sequence


def test_memory_layout_is_the_trackers() -> None:
    memory = ClipMemory()
    for frame in range(9):
        memory.spatial.append(torch.full((1, 2, 1, 1), float(frame)))
        memory.images.append(torch.full((1, 3, 1, 1), float(frame)))
        memory.pointers.append(torch.full((1, 4), float(frame)))
    inputs = memory.inputs(9, segmenter_config("nano"))
    assert inputs.spatial[0, :, 0, 0, 0].tolist() == [0, 3, 4, 5, 6, 7, 8]
    assert inputs.temporal_index.tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert inputs.images is not None
    assert inputs.images[0, :, 0, 0, 0].tolist() == [0, 3, 4, 5, 6, 7, 8]
    assert inputs.pointers[0, :, 0].tolist() == [0, 8, 7, 6, 5, 4, 3, 2, 1]
    assert inputs.pointer_distance[0].item() == pytest.approx(9 / 15)


def test_training_tracks_as_a_session_does(segmenter: Segmenter, clips: Dataset[Clip]) -> None:
    segmenter.eval()
    clip = clips[3]
    masks = track_sequence(
        segmenter, torch.from_numpy(clip.frames), torch.from_numpy(clip.masks[0, 0]).float()
    )
    session = Session(segmenter)
    session.prompt(mask=clip.masks[0, 0])
    stepped = [session.step(frame).masks[0] for frame in clip.frames]
    # Sessions store memories in bfloat16, so a few pixels at the border may differ.
    differing = np.mean(np.stack(stepped[1:]) != masks.numpy())
    assert differing < 0.01


@pytest.mark.parametrize(
    "sampling",
    [PromptSampling(mask=1, box=0), PromptSampling(mask=0, box=1), PromptSampling(mask=0, box=0)],
)
def test_every_prompt_kind_trains_every_part(
    segmenter: Segmenter, clips: Dataset[Clip], sampling: PromptSampling
) -> None:
    model = ClipModel(segmenter, LossWeights(), sampling)
    losses = model(*collate([clips[i] for i in range(2)]), seed=1)
    losses.total.backward()
    for part in ("encoder.blocks", "memory_attention", "memory_encoder", "mask_decoder"):
        gradients = [
            p.grad.abs().sum()
            for name, p in segmenter.named_parameters()
            if name.startswith(part) and p.grad is not None
        ]
        assert sum(gradients) > 0, part
    assert 0 <= losses.iou <= 1


def two_objects(clip: Clip) -> Clip:
    """The clip with a second object: its disk's mirror image, drawn beside it."""
    frames = np.maximum(clip.frames, clip.frames[:, ::-1])
    masks = np.concatenate([clip.masks, clip.masks[:, :, ::-1] * (1 - clip.masks)])
    return Clip(frames, masks, "disks")


def test_objects_of_a_clip_are_tracked_as_each_alone(
    segmenter: Segmenter, clips: Dataset[Clip]
) -> None:
    segmenter.eval()
    model = ClipModel(segmenter, LossWeights(), PromptSampling(mask=1, box=0))
    several, single = two_objects(clips[3]), clips[5]
    batch = collate([several, single])
    together = model.unroll(model.clips(*batch, seed=1)).outputs.logits
    alone = []
    for clip, objects in ((several, several.masks), (single, single.masks)):
        for masks in objects:
            one = collate([Clip(clip.frames, masks[None], "disk")])
            alone.append(model.unroll(model.clips(*one, seed=1)).outputs.logits)
    assert together.shape[:2] == (3, 3)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_policies_see_the_union_of_a_clips_objects() -> None:
    logits = torch.tensor([[3.0, -1.0], [-2.0, 1.0], [5.0, -5.0]]).view(3, 1, 1, 2)
    union = union_of_objects(logits, torch.tensor([0, 0, 1]), 2)
    assert union[:, 0, 0].tolist() == [[3.0, 1.0], [5.0, -5.0]]


def test_same_seed_same_loss(segmenter: Segmenter, clips: Dataset[Clip]) -> None:
    model = ClipModel(segmenter, LossWeights(), PromptSampling())
    batch = collate([clips[0]])
    first, again, other = (model(*batch, seed=s).total.item() for s in (5, 5, 6))
    assert first == again
    assert first != other


def test_true_memory_changes_what_is_remembered(segmenter: Segmenter, clips: Dataset[Clip]) -> None:
    model = ClipModel(segmenter, LossWeights(), PromptSampling(mask=1, box=0))
    batch = collate([clips[0]])
    assert batch[0].shape == (1, 3, 64, 64, 3)
    assert model(*batch, seed=5).total != model(*batch, seed=5, true_memory=1.0).total
