"""Figure 2 of TAR, pairs of layers, and Table 4, beside other operations, on tiny weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studies.tar import layer_pairs, operations
from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.instances.model import InstanceModel
from tempomask.instances.options import PROTOCOL
from tempomask.instances.query_routing import (
    FixedLayers,
    QueryRouterConfig,
    TemporalQueryRouter,
)
from tempomask.models.instances.segmenter import InstanceSegmenter

MakeVideoSet = Callable[..., Path]


@pytest.fixture
def model(instance_config: Callable[..., Any]) -> InstanceModel:
    torch.manual_seed(0)
    return InstanceModel(InstanceSegmenter(instance_config()))


def test_overlaps_of_tracks_through_two_frames() -> None:
    """A query stands for one true track; pixels of both frames are summed before they divide."""
    truth = [np.zeros((2, 12), bool), np.zeros((2, 12), bool)]
    truth[0][0, :4], truth[1][0, :4], truth[1][1, 6:12] = True, True, True
    found = [np.zeros((3, 12), bool), np.zeros((3, 12), bool)]
    found[0][2, :4], found[1][2, 2:6] = True, True  # 4 + 2 of 4 + 6 pixels
    found[1][0, 6:9] = True  # 3 of 6, and nothing on the first frame
    assert layer_pairs.best_overlaps(found, truth) == pytest.approx([0.6, 0.5])
    assert layer_pairs.best_overlaps([f[1:2] for f in found], truth).tolist() == [0, 0]


def test_outputs_of_a_layer_are_those_of_so_many_layers(
    model: InstanceModel, video_set: MakeVideoSet
) -> None:
    dataset = YouTubeVIS(video_set())
    frame = next(dataset.frames(dataset.videos[0]))
    found = layer_pairs.outputs(model, frame, (1, 3, 4))
    for count, (_, masks) in found.items():
        fixed = InstanceModel(model.segmenter, FixedLayers(count, 4))
        result = fixed.session(options=PROTOCOL).step(frame)
        assert sorted(m.tobytes() for m in masks) == sorted(m.tobytes() for m in result.masks)


def test_pairs_of_layers(
    model: InstanceModel, video_set: MakeVideoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth as every layer's output overlaps with itself by 1, in whatever order it comes."""
    dataset = YouTubeVIS(video_set())
    report = layer_pairs.report_of(model, dataset)
    assert list(report["pairs"]) == [f"{m}+{n}" for m in (1, 2, 3) for n in (1, 2, 3)]
    assert all(0 <= row["mIoU"] < 50 for row in report["pairs"].values())
    last, first = report["pairs"]["3+3"], report["pairs"]["1+1"]
    assert report["reference"] == "3+3" and last["difference"]["mean"] == 0
    gaps = [first["videos"][name] - last["videos"][name] for name in ("video1", "video2")]
    assert first["difference"]["mean"] == pytest.approx(np.mean(gaps), abs=1e-3)
    embeddings = torch.eye(4)[None]
    shown = iter(
        [
            [t.mask(k).ravel() for t in dataset.annotations(video.id)]
            for video in dataset.videos
            for k in range(len(video))
        ]
    )

    def perfect(_: Any, frame: np.ndarray, layers: Any) -> Any:
        masks, order = np.zeros((4, frame[..., 0].size), bool), np.random.permutation(4)
        masks[:2] = next(shown)
        return dict.fromkeys(layers, (embeddings[:, order], masks[order]))

    monkeypatch.setattr(layer_pairs, "outputs", perfect)
    report = layer_pairs.report_of(model, dataset)
    assert {row["mIoU"] for row in report["pairs"].values()} == {100.0}
    assert report["tracks_in_pairs"] == 2 * (4 + 3), "the dog comes later"


def test_operations_leave_the_scores_as_they_are(
    model: InstanceModel, video_set: MakeVideoSet
) -> None:
    """In float32 fused parts change nothing but time; a router does."""
    dataset = YouTubeVIS(video_set(), videos=["1"])
    router = TemporalQueryRouter(QueryRouterConfig(dim=32, layers=4, hidden_dim=8, num_heads=2))
    routed = InstanceModel(model.segmenter, router)
    lines: list[str] = []
    rows = operations.rows_of(model, routed)
    report = operations.report_of(rows, dataset, timed=1, rounds=1, say=lines.append)
    names = [row["name"] for row in report["rows"]]
    assert names == list(operations.PAPER) and len(lines) == 2 + 5
    scores = {row["name"]: (row["AP"], row["AR10"]) for row in report["rows"]}
    assert scores["nothing"] == scores["fused attention"] == scores["fused operations"]
    assert scores["TAR"] == scores["all three"]
    assert report["rows"][0]["times_as_fast"] == 1 and report["timed"]["frames"] == 4
    assert report["rows"][3]["paper_times_as_fast"] == pytest.approx(31.7 / 24.7, abs=1e-3)
