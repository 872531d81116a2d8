"""Results on disk come back as they were, up to float16 logits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from tempomask.results import FrameArrays, FrameResult
from tempomask.tracking.spool import ResultSpool, merged, select_objects


def result(ids: tuple[int, ...], seed: int = 0) -> FrameResult:
    rng = np.random.default_rng(seed)
    return FrameResult(
        index=6,
        size=(9, 7),
        object_ids=ids,
        arrays=FrameArrays(
            rng.normal(size=(len(ids), 4, 4)).astype(np.float32) * 10,
            rng.normal(size=len(ids)).astype(np.float32),
            rng.random(len(ids)).astype(np.float32),
        ),
        blocks=np.array([True, False]),
        non_overlapping=True,
    )


def test_results_come_back_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stored = result((5, -3, 8))
    stored.low_res_logits[2] = -1024.0
    with ResultSpool() as spool:
        spool.put(stored, {8, 5})
        assert spool.take(4) is None
        back = spool.take(6)
        assert spool.take(6) is None
        assert back is not None
    assert list(tmp_path.iterdir()) == []
    assert (back.index, back.size, back.object_ids) == (6, (9, 7), (5, 8))
    assert back.non_overlapping and back.blocks.tolist() == [True, False]
    np.testing.assert_allclose(back.low_res_logits, stored.low_res_logits[[0, 2]], rtol=1e-3)
    assert back.low_res_logits.dtype == np.float32
    assert np.array_equal(back.object_scores, stored.object_scores[[0, 2]])
    assert np.array_equal(back.predicted_iou, stored.predicted_iou[[0, 2]])


def test_rows_can_be_picked_and_merged() -> None:
    first, second = result((1, 2)), result((3,), seed=1)
    both = merged(first, second)
    assert both.object_ids == (1, 2, 3)
    turned = select_objects(both, [3, 1])
    assert turned.object_ids == (3, 1)
    assert np.array_equal(turned.low_res_logits[0], second.low_res_logits[0])
    assert np.array_equal(turned.predicted_iou[1], first.predicted_iou[0])
    assert select_objects(both, []).low_res_logits.shape == (0, 4, 4)
