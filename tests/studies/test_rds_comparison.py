"""A comparison: resumable, honest about noise, and about what RDS claims."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from studies.bootstrap import bootstrap_difference, bootstrap_mean
from studies.rds import times as comparison_times
from studies.rds.chart import interval_beside, save_pareto_chart
from studies.rds.comparison import (
    Comparison,
    ComparisonConfig,
    Point,
    PointResult,
)
from studies.rds.summary import (
    PARTLY,
    TIMED,
    UNTIMED,
    claims,
    differences,
    markdown_table,
    rows_of,
    scores_at_cost,
    summarise_comparison,
)
from studies.rds.times import FILE, kept_times, measure_times
from tempomask.baselines.settings import BaselineConfig, SlimConfig
from tempomask.errors import InputError
from tempomask.evaluation import frame_times
from tempomask.evaluation.frame_times import PairedTimes
from tempomask.evaluation.measured_once import MeasuredOnce
from tempomask.models.config import HybridConfig, MaskDecoderConfig, segmenter_config
from tempomask.models.hybrid import HybridEncoder
from tempomask.models.segmenter import Segmenter
from tempomask.routing.static import StaticPlan
from tempomask.weights import save_segmenter


def result(method: str, cost: float, seed: int = 1, **changes: Any) -> PointResult:
    scores = changes.pop("scores", {"a": 80.0 * cost, "b": 90.0 * cost})
    values: dict[str, Any] = {
        "budget": cost,
        "mean": float(np.mean(list(scores.values()))),
        "region": 1.0,
        "boundary": 2.0,
        "per_sequence": scores,
        "macs": int(1e9 * cost),
        "published": int(0.8e9 * cost),
        "fps": 10.0 / cost,
        "trained": 4,
        "parameters": 100,
        "blocks_run": cost,
        "training_seconds": 3.0,
    }
    return PointResult(point=Point(method, cost, seed), **{**values, **changes})


class TestBootstrap:
    def test_the_interval_holds_the_mean_and_narrows_with_more_sequences(self) -> None:
        rng = np.random.default_rng(0)
        few = bootstrap_mean(rng.normal(1.0, 1.0, 10).tolist())
        many = bootstrap_mean(rng.normal(1.0, 1.0, 400).tolist())
        for found in (few, many):
            assert found.low < found.mean < found.high
        assert many.high - many.low < 0.5 * (few.high - few.low)
        # The textbook interval of a mean: 1.96 standard errors.
        assert (many.high - many.low) / 2 == pytest.approx(1.96 / 20, rel=0.15)
        assert many.positive == 1.0

    def test_pairs_take_out_what_all_sequences_share(self) -> None:
        rng = np.random.default_rng(1)
        hard = {f"s{i}": 100 * rng.random() for i in range(20)}
        better = {name: value + 1.0 + 0.1 * rng.normal() for name, value in hard.items()}
        found = bootstrap_difference(better, hard)
        assert 0.9 < found.low < 1.0 < found.high < 1.1

    def test_equal_methods_are_not_told_apart(self) -> None:
        found = bootstrap_difference({"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 2.0})
        assert found.low < 0 < found.high and found.mean == 0.0

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match="at least one sequence"):
            bootstrap_mean([])
        with pytest.raises(InputError, match="only one of the two was scored on b"):
            bootstrap_difference({"a": 1.0, "b": 2.0}, {"a": 1.0})


class TestSummary:
    def test_seeds_are_averaged_by_sequence(self) -> None:
        (row,) = rows_of(
            [
                result("rds", 0.6, 1, scores={"a": 10.0, "b": 20.0}),
                result("rds", 0.6, 2, scores={"a": 20.0, "b": 30.0}),
            ]
        )
        assert row.scores == {"a": 15.0, "b": 25.0}
        assert row.seeds == (15.0, 25.0)
        assert row.estimate.mean == 20.0 and row.trained_share == 0.04

    def test_scores_at_another_cost_lie_on_the_line(self) -> None:
        rows = rows_of([result("pbd", 0.4), result("pbd", 0.8)])
        assert scores_at_cost(rows, 0.5e9) == pytest.approx({"a": 40.0, "b": 45.0})
        assert scores_at_cost(rows, 0.9e9) is None and scores_at_cost(rows, 0.3e9) is None

    def test_a_point_of_the_same_cost_needs_no_neighbour(self) -> None:
        (row,) = rows_of([result("pbd", 0.6)])
        assert scores_at_cost([row], 0.605e9) == row.scores
        assert scores_at_cost([row], 0.61e9) is None

    def test_differences_are_at_the_measured_cost_whatever_was_aimed_at(self) -> None:
        """Both were to cost 60%; DyT took more: its scores there are of no use at RDS's cost."""
        rows = rows_of(
            [
                result("full", 1.0),
                result("rds", 0.6, macs=int(0.62e9)),
                result("dyt", 0.6, macs=int(0.8e9)),
                result("dyt", 0.4, macs=int(0.5e9)),
            ]
        )
        found = {d["against"]: d for d in differences(rows)}
        own, other = 0.6 * 85, (0.4 + (0.12 / 0.3) * 0.2) * 85
        assert found["dyt"]["difference"]["mean"] == pytest.approx(own - other, abs=1e-3)
        assert found["dyt"]["encoder_GMACs"] == 0.62
        # All blocks are compared with as they are.
        assert found["full"]["difference"]["mean"] == pytest.approx(-0.4 * 85)

    def test_nothing_is_said_beyond_the_points_of_a_method(self) -> None:
        (found,) = differences(rows_of([result("rds", 0.6), result("pbd", 0.9)]))
        assert found["against"] == "pbd" and found["difference"] is None

    @pytest.mark.parametrize(
        ("timed", "note"), [((), UNTIMED), (("full",), PARTLY), (("full", "rds"), TIMED)]
    )
    def test_the_table_says_which_speeds_were_measured_in_turns(
        self, timed: tuple[str, ...], note: str
    ) -> None:
        results = [result("full", 1.0), result("rds", 0.6)]
        times = {
            member.point.name: PairedTimes((0.1,), (0.2,))
            for member in results
            if member.point.method in timed
        }
        assert summarise_comparison(results, times)["speed"] == note
        assert markdown_table(rows_of(results, times)).endswith(f"\n\n{note}.\n")

    @pytest.mark.parametrize(
        ("change", "seen"),
        [
            ({}, [True] * 6),
            ({"full": 80.5}, [False, *[True] * 5]),
            ({"pbd": 77.0}, [True, False, *[True] * 4]),
            ({"pbd-last": 77.0}, [True, True, False, *[True] * 3]),
            ({"slim": 78.3}, [*[True] * 3, False, True, True]),
            ({"slim-paper": 78.3}, [*[True] * 4, False, True]),
            ({"trained": 7}, [*[True] * 5, False]),
        ],
    )
    def test_claims_are_held_to_their_numbers(
        self, change: dict[str, float], seen: list[bool]
    ) -> None:
        levels = {"full": 80.4, "rds": 80.0, "pbd": 76.0, "pbd-last": 76.0, "slim": 78.2}
        levels |= {"slim-paper": 78.2, **change}
        trained = int(levels.pop("trained", 6))
        results = []
        for method, level in levels.items():
            # At 61% of the full model all have their level: they lose or gain around it.
            for cost in [1.0] if method == "full" else [0.51, 0.71]:
                at = level + (0 if method == "full" else 100 * (cost - 0.61))
                scores = {"a": at - 5, "b": at + 5}
                results.append(result(method, cost, scores=scores, trained=trained))
        found = claims(rows_of(results))
        assert [claim["seen"] for claim in found] == seen

    def test_what_is_missing_is_not_claimed(self) -> None:
        found = claims(rows_of([result("rds", 0.6), result("full", 1.0)]))
        assert [claim["seen"] for claim in found] == [None] * 5 + [True]
        assert claims(rows_of([result("rds", 0.6)])) == []

    def test_table_and_figure(self, tmp_path: Path) -> None:
        results = [result("base", 1.0), *(result("rds", b, s) for b in (0.5, 0.6) for s in (1, 2))]
        table = markdown_table(rows_of(results))
        assert table.splitlines()[2].startswith("| base | 1 | 85.0 |")
        assert [line.split(" | ")[1] for line in table.splitlines()[3:5]] == ["0.6", "0.5"]
        assert "| 0.60 (60%) | 16.7 | - |" in table and "see --time" in table.splitlines()[-1]
        assert "± 0.0" in table.splitlines()[3]
        json.dumps(summarise_comparison(results))
        save_pareto_chart(tmp_path / "p.png", rows_of(results))
        assert (tmp_path / "p.png").stat().st_size > 10_000
        with pytest.raises(InputError, match="nothing to draw"):
            save_pareto_chart(tmp_path / "q.png", [])

    def test_intervals_in_the_figure_are_paired(self) -> None:
        full, rds = rows_of([result("full", 1.0), result("rds", 0.6)])
        alone, paired = interval_beside(rds, None), interval_beside(rds, full)
        assert alone == (
            rds.estimate.mean - rds.estimate.low,
            rds.estimate.high - rds.estimate.mean,
        )
        # Both scores differ by the same on every sequence.
        difference = bootstrap_difference(rds.scores, full.scores)
        assert paired == (difference.mean - difference.low, difference.high - difference.mean)
        assert interval_beside(full, full) == (0, 0)


class TestTimes:
    RESULTS = (result("base", 1.0), result("rds", 0.6), result("rds", 0.6, 2), result("pbd", 0.6))
    TIMES: ClassVar[dict[str, PairedTimes]] = {
        "base-1-seed1": PairedTimes((0.1, 0.1, 0.1), (0.1, 0.1, 0.1)),
        # The machine became half as fast in the second round: the ratio does not notice.
        "rds-0.6-seed1": PairedTimes((0.08, 0.16, 0.08), (0.1, 0.2, 0.1)),
        "rds-0.6-seed2": PairedTimes((0.08, 0.08, 0.08), (0.1, 0.1, 0.1)),
    }

    def test_speeds_are_ratios_of_turns(self) -> None:
        rows = {row.method: row for row in rows_of(self.RESULTS, self.TIMES)}
        assert rows["rds"].ratios == pytest.approx([1.25] * 6)
        assert rows["rds"].fps == pytest.approx(12.5) and rows["base"].fps == pytest.approx(10)
        # What was not timed keeps what was measured after its training, and claims no ratio.
        assert rows["pbd"].speedup is None and rows["pbd"].fps == pytest.approx(10 / 0.6)

    def test_table_figure_and_json_use_them(self, tmp_path: Path) -> None:
        rows = rows_of(self.RESULTS, self.TIMES)
        table = markdown_table(rows)
        assert "| 12.5 | 1.25x |" in table and "in turns with the full model" in table
        found = summarise_comparison(self.RESULTS, self.TIMES)
        assert found["rows"][1]["speedup"] == 1.25 and "in turns" in found["speed"]
        assert found["rows"][2]["speedup"] is None
        save_pareto_chart(tmp_path / "timed.png", rows)
        save_pareto_chart(tmp_path / "plain.png", rows_of(self.RESULTS))
        assert (tmp_path / "timed.png").read_bytes() != (tmp_path / "plain.png").read_bytes()

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        assert kept_times(tmp_path) == {}
        (tmp_path / FILE).write_text('{"seconds": [1]}')
        with pytest.raises(InputError, match=r"times\.json"):
            kept_times(tmp_path)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A comparison whose trainings and scorings only leave traces."""
    calls: list[str] = []

    def train(self: Comparison, point: Point) -> float:
        calls.append(f"train {point.name}")
        return 1.0

    def score(self: Comparison, point: Point, seconds: float) -> PointResult:
        if (tmp_path / "stop").exists() and len(calls) >= 4:
            raise KeyboardInterrupt
        calls.append(f"score {point.name}")
        return result(point.method, point.cost, point.seed)

    monkeypatch.setattr(Comparison, "_train", train)
    monkeypatch.setattr(Comparison, "_score", score)
    monkeypatch.setattr(Comparison, "calls", calls, raising=False)
    for name in ("data", "evaluation"):
        write_videos(tmp_path / name)
    return {name: tmp_path / name for name in ("data", "evaluation", "out")}


CONFIG = ComparisonConfig(methods=("rds", "pbd"), costs=(0.5, 0.7), seeds=(1,))


class TestResuming:
    def compare(self, folders: dict[str, Path], **changes: Any) -> Comparison:
        return Comparison(replace(CONFIG, **changes), **folders)

    def test_points_go_from_the_references_down(self, folders: dict[str, Path]) -> None:
        names = [point.name for point in self.compare(folders, seeds=(1, 2)).points]
        assert names[:4] == ["base-1-seed1", "full-1-seed1", "rds-0.7-seed1", "rds-0.5-seed1"]
        assert len(names) == len(set(names)) == 1 + 2 * 5

    def test_finished_points_are_kept(self, folders: dict[str, Path]) -> None:
        (folders["out"].parent / "stop").touch()
        comparison = self.compare(folders)
        calls = comparison.calls  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            comparison.run()
        done = [call for call in calls if call.startswith("score")]
        assert len(self.compare(folders).finished()) == len(done) == 2
        (folders["out"].parent / "stop").unlink()
        calls.clear()
        assert len(self.compare(folders).run()) == 6
        assert not set(done) & set(calls)
        # The point that was stopped in scoring is trained (that is, resumed) and scored again.
        assert sorted(calls) == sorted({*calls}) and "score rds-0.7-seed1" in calls
        calls.clear()
        assert len(self.compare(folders).run()) == 6 and not calls

    def test_more_can_be_asked_for_later(self, folders: dict[str, Path]) -> None:
        comparison = self.compare(folders)
        comparison.run()
        calls = comparison.calls  # type: ignore[attr-defined]
        calls.clear()
        assert len(self.compare(folders, costs=(0.5, 0.6), seeds=(1, 2)).run()) == 13
        assert "train rds-0.5-seed1" not in calls and "train rds-0.6-seed1" in calls

    @pytest.mark.parametrize(
        ("changes", "name"), [({"steps": 7}, "steps"), ({"image_size": 256}, "image_size")]
    )
    def test_other_settings_want_another_folder(
        self, folders: dict[str, Path], changes: dict[str, Any], name: str
    ) -> None:
        self.compare(folders)
        with pytest.raises(InputError, match=f"other {name}"):
            self.compare(folders, **changes)

    @pytest.mark.parametrize("name", ["data", "evaluation"])
    def test_other_data_want_another_folder_and_moved_data_do_not(
        self, folders: dict[str, Path], name: str
    ) -> None:
        self.compare(folders)
        folders = {**folders, name: folders[name].rename(folders[name].with_name("moved"))}
        self.compare(folders)
        for part in ("JPEGImages", "Annotations"):
            (folders[name] / part / "480p" / "one").rename(folders[name] / part / "480p" / "four")
        with pytest.raises(InputError, match=f"other {name}"):
            self.compare(folders)

    def test_a_folder_that_lacks_a_field_is_given_it(self, folders: dict[str, Path]) -> None:
        self.compare(folders)
        path = folders["out"] / "comparison.json"
        whole = json.loads(path.read_text())
        new = ("data", "evaluation")
        path.write_text(json.dumps({k: v for k, v in whole.items() if k not in new}))
        self.compare(folders)
        assert json.loads(path.read_text()) == whole

    def test_a_folder_of_budgets_is_not_mixed_with_costs(self, folders: dict[str, Path]) -> None:
        self.compare(folders)
        path = folders["out"] / "comparison.json"
        saved = json.loads(path.read_text())
        del saved["baselines"]
        path.write_text(json.dumps(saved))
        with pytest.raises(InputError, match="earlier version"):
            self.compare(folders)

    def test_points_that_a_method_cannot_reach_are_left_out(self, folders: dict[str, Path]) -> None:
        """Attention and stem alone take more than a third of nano's encoder."""
        comparison = self.compare(folders, methods=("rds", "dyt"), costs=(0.9, 0.35))
        assert [point.name for point in comparison.unreachable] == ["dyt-0.35-seed1"]
        names = [point.name for point in comparison.points]
        assert names[2:] == ["rds-0.9-seed1", "rds-0.35-seed1", "dyt-0.9-seed1"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"methods": ("rds", "magic")}, "unknown method 'magic'; choose from rds, rds-worth"),
            ({"costs": (0.5, 1.5)}, r"cost 1\.5 must be"),
            ({"seeds": ()}, "at least one cost and one seed"),
        ],
    )
    def test_bad_configurations(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            replace(CONFIG, **changes)


def write_videos(root: Path) -> None:
    """Two sequences of a bright square that drifts over noise, in the DAVIS layout."""
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        for part in ("JPEGImages", "Annotations"):
            (root / part / "480p" / name).mkdir(parents=True)
        left = int(rng.integers(5, 20))
        for index in range(4):
            mask = np.zeros((64, 80), np.uint8)
            mask[20:45, left + 3 * index : left + 25 + 3 * index] = 255
            frame = rng.integers(0, 60, (64, 80, 3)).astype(np.uint8)
            frame[mask > 0] = 220
            Image.fromarray(frame).save(root / f"JPEGImages/480p/{name}/{index:05d}.jpg")
            Image.fromarray(mask).save(root / f"Annotations/480p/{name}/{index:05d}.png")


def test_points_are_trained_loaded_and_scored_as_users_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps each on a toy model: what routes, drops or prunes, really costs less."""
    pytest.importorskip("peft")
    torch.manual_seed(0)
    nano = segmenter_config("nano")
    config = replace(
        nano,
        encoder=HybridConfig(dim=96, num_heads=3, depth=5),
        image_size=64,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=replace(nano.memory_attention, layers=1, feedforward_dim=32),
        mask_decoder=MaskDecoderConfig(num_heads=2, feedforward_dim=32, iou_hidden_dim=16),
    )
    save_segmenter(Segmenter(config), tmp_path / "tiny.safetensors")
    write_videos(tmp_path / "data")
    comparison = Comparison(
        ComparisonConfig(
            checkpoint=str(tmp_path / "tiny.safetensors"),
            methods=("rds", "pbd", "slim-paper"),
            costs=(0.9,),
            baselines=BaselineConfig(slim=SlimConfig(images=2, tune_share=0.0)),
            steps=2,
            batch_size=1,
            num_frames=2,
        ),
        tmp_path / "data",
        tmp_path / "data",
        tmp_path / "out",
        sequences=["one"],
        device="cpu",
        workers=0,
    )
    found = {result.point.method: result for result in comparison.run()}
    base = found["base"]
    assert set(found) == {"base", "full", "rds", "pbd", "slim-paper"}
    assert base.trained == 0 and base.blocks_run == 1.0 and base.macs == found["full"].macs
    for method in ("rds", "pbd", "slim-paper"):
        # Different budgets, the same cost.
        assert found[method].macs / base.macs == pytest.approx(0.9, abs=0.02), method
        assert list(found[method].per_sequence) == ["one"] and found[method].fps > 0
    assert found["rds"].blocks_run == found["pbd"].blocks_run == pytest.approx(0.6)
    assert found["rds"].budget == 0.6 and found["slim-paper"].budget < 0.7
    assert found["slim-paper"].parameters < base.parameters == found["rds"].parameters
    assert 0 < found["pbd"].trained < found["slim-paper"].trained
    (scores,) = json.loads((tmp_path / "out" / "measured.json").read_text()).values()
    assert "11111" in scores and "11011" in scores
    check_times(comparison, monkeypatch)


def check_times(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point is timed in turns with the full model, and once only."""
    turns: list[Any] = []
    slim = "slim-paper"

    def seconds(model: Any, *_: Any) -> float:
        turns.append(model.adapter and model.adapter.method)
        return 0.05 if model.adapter is not None and model.adapter.method == "slim-paper" else 0.1

    monkeypatch.setattr(comparison_times, "median_seconds", seconds)
    said: list[str] = []
    times = measure_times(comparison, 3, lambda point, *_: said.append(point.method))
    assert said == ["base", "full", "pbd", "rds", "slim-paper"]
    assert turns[-7:] == [slim, None, slim, slim, None, None, slim]
    assert times[f"{slim}-0.9-seed1"].ratios == (2.0, 2.0, 2.0)
    assert kept_times(comparison.out) == times
    assert measure_times(comparison, 3, lambda *_: said.append("again")) == times
    assert "again" not in said
    # Times of other settings are not mixed in.
    assert measure_times(comparison, 2)["base-1-seed1"].ratios == (1.0, 1.0)


def test_frame_times_leave_the_first_frames_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(*_: Any) -> Any:
        yield from [9.0] * frame_times.WARM_UP + [0.5, 0.25, 1.0]

    monkeypatch.setattr(frame_times, "frame_seconds", steps)
    nothing: Any = None
    assert frame_times.median_seconds(nothing, nothing, []) == 0.5


class Counted:
    """A measure whose score is the number of blocks."""

    def __init__(self, fingerprint: str = "data") -> None:
        self.calls, self.fingerprint = 0, fingerprint

    def score(self, segmenter: Any, policy: Any = None) -> float:
        self.calls += 1
        return float(sum([True] * 4 if policy is None else policy.keep))

    def images(self, count: int) -> torch.Tensor:
        return torch.zeros(count, 3, 8, 8)


class Measuring:
    """A method that measures two plans before training and one while it trains."""

    name = "measuring"

    def prepare(self, segmenter: Any, measure: Any, state: Any = None) -> Any:
        self.measure, self.segmenter = measure, segmenter
        plan = StaticPlan([0, 2, 3], segmenter.encoder)
        self.scores = [measure.score(segmenter), measure.score(segmenter, plan)]

    def on_step(self, step: int) -> None:
        self.scores.append(self.measure.score(self.segmenter))


def test_the_untrained_network_is_measured_once(tmp_path: Path) -> None:
    encoder = HybridEncoder(HybridConfig(dim=8, num_heads=1, depth=4))
    segmenter: Any = SimpleNamespace(encoder=encoder)
    calls = []
    for _ in range(2):
        measure, method = Counted(), Measuring()
        shared = MeasuredOnce(method, tmp_path / "measured.json")  # type: ignore[arg-type]
        shared.prepare(segmenter, measure)
        shared.on_step(0)
        calls.append(measure.calls)
        assert method.scores == [4.0, 3.0, 4.0]
    assert calls == [3, 1], "what was measured while training is measured again"
    (scores,) = json.loads((tmp_path / "measured.json").read_text()).values()
    assert scores == {"1111": 4.0, "1011": 3.0}


def test_scores_of_other_data_or_weights_are_not_taken(tmp_path: Path) -> None:
    def calls(data: str, seed: int) -> int:
        torch.manual_seed(seed)
        segmenter: Any = SimpleNamespace(
            encoder=HybridEncoder(HybridConfig(dim=8, num_heads=1, depth=4))
        )
        measure = Counted(data)
        shared = MeasuredOnce(Measuring(), tmp_path / "measured.json")  # type: ignore[arg-type]
        shared.prepare(segmenter, measure)
        return measure.calls

    assert calls("data", 0) == 2 and calls("data", 0) == 0
    assert calls("other", 0) == 2 and calls("data", 1) == 2
    assert calls("data", 0) == 0, "what was kept before is still there"
