"""`tempomask adapt`, `calibrate` and a routed `track`: from a folder of video to a submodel."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tempomask import InputError, Prompt, load
from tempomask.adaptation import adapter_file
from tempomask.cli.options import RoutingOptions
from tempomask.models.config import (
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
)
from tempomask.models.segmenter import Segmenter
from tempomask.routing.options import Routing
from tempomask.routing.static import PLAN_A
from tempomask.weights import save_segmenter

pytest.importorskip("peft")
pytest.importorskip("accelerate")
Run = Callable[..., tuple[int, str, str]]
QUICK = ("--steps", 2, "--batch-size", 1, "--num-frames", 3, "--workers", 0, "--blocks", 3)


def save(folder: Path, seed: int = 0, depth: int = 8, name: str = "nano") -> Path:
    torch.manual_seed(seed)
    config = SegmenterConfig(
        name=name,
        encoder=HybridConfig(dim=32, num_heads=2, depth=depth),
        image_size=64,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=MemoryAttentionConfig(layers=1, feedforward_dim=32),
        mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
    )
    path = folder / f"{name}-{seed}-{depth}.safetensors"
    save_segmenter(Segmenter(config), path)
    return path


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with eight blocks."""
    return save(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of a bright square."""
    root, rng = tmp_path_factory.mktemp("davis"), np.random.default_rng(0)
    for name in ("left", "right"):
        for part in ("JPEGImages", "Annotations"):
            (root / part / name).mkdir(parents=True)
        for index in range(5):
            mask = np.zeros((48, 64), np.uint8)
            mask[10:34, 8 + 4 * index : 34 + 4 * index] = 1
            mask = mask if name == "right" else mask[:, ::-1]
            frame = rng.integers(0, 80, (48, 64, 3), dtype=np.uint8) + mask[..., None] * 150
            Image.fromarray(frame).save(root / "JPEGImages" / name / f"{index:05d}.jpg")
            Image.fromarray(mask).save(root / "Annotations" / name / f"{index:05d}.png")
    return root


@pytest.fixture(scope="module")
def adapter(deep: Path, davis: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two steps of `tempomask adapt` make."""
    from tempomask.cli import main as cli

    out = tmp_path_factory.mktemp("made") / "adapter"
    wanted = ("adapt", "--data", davis, "--checkpoint", deep, "--out", out, "--budget", 0.5, *QUICK)
    assert cli.main([str(word) for word in wanted]) == 0
    return out


def test_adapt_leaves_a_small_folder(adapter: Path, deep: Path) -> None:
    files = {path.name for path in adapter.iterdir()}
    assert files == {"adapter.json", "adapter.safetensors", "training"}
    size = (adapter / "adapter.safetensors").stat().st_size
    assert size < 0.06 * deep.stat().st_size
    settings = json.loads((adapter / "adapter.json").read_text())["settings"]
    assert settings["budget"] == 0.5 and len(settings["adapted_blocks"]) == 3


def test_blocks_can_be_named_and_k_chosen(
    run: Run, deep: Path, davis: Path, tmp_path: Path
) -> None:
    """Every setting of the router can be given on the command line."""
    code, _, err = run(
        "adapt", "--data", davis, "--checkpoint", deep, "--out", tmp_path / "a", "--budget", 0.5,
        *QUICK[:-2], "--blocks", "1,3-4", "--always-on", "2,7", "--weights", "paper", "--draws",
        "bernoulli", "--no-skipped-gradient", "--first-temperature", 2, "--last-temperature", 0.5,
        "--importance-start", 0,
        "--settled-share", 0, "--learn-worth", 0.5, "--worth-warmup", 1, "--router-rate", 1e-3,
    )  # fmt: skip
    assert code == 0, err
    settings = json.loads((tmp_path / "a" / "adapter.json").read_text())["settings"]
    assert settings["adapted_blocks"] == [1, 3, 4] and "importance" not in settings
    router = settings["router"]
    assert router["always_on"] == [2, 7] and router["version"] == 2
    assert (router["weights"], router["temperature"]) == ("paper", 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--blocks", "1,two"), "--blocks '1,two' is not a list of blocks, such as 0,2,12-17"),
        (("--always-on", "5-3"), "--always-on '5-3' is not a list of blocks"),
        (("--always-on", "0,9"), "there are no blocks [9]: the encoder has blocks 0 to 7"),
        (("--last-temperature", 0), "last_temperature must lie between 0.01 and 100, got 0"),
        (("--weights", "none"), "none"),
        (("--draws", "none"), "none"),
        (("--worth-warmup", 5), "worth_warmup is a number of steps from 0 up"),
    ],
    ids=str,
)
def test_settings_of_the_router_that_cannot_be(
    run: Run, deep: Path, davis: Path, tmp_path: Path, given: tuple[Any, ...], message: str
) -> None:
    code, _, err = run(
        "adapt", "--data", davis, "--checkpoint", deep, "--out", tmp_path / "a", *QUICK, *given
    )
    assert code == 2 and message in err and err.count("\n") == 1


def test_the_same_command_goes_on(
    run: Run, adapter: Path, deep: Path, davis: Path, tmp_path: Path
) -> None:
    command = ("adapt", "--data", davis, "--checkpoint", deep, "--out", adapter, "--budget", 0.5)
    code, _, err = run(*command, *QUICK)
    assert code == 0 and "going on from step 2" in err
    code, _, err = run(*command, *QUICK, "--seed", 9)
    assert code == 2 and "was made with" in err and err.count("\n") == 1
    code, _, err = run(*command, *QUICK, "--steps", 400)
    assert code == 2 and "was made with steps=2, this run has 400; use" in err


def test_settings_of_the_compared_methods_are_options(
    run: Run, deep: Path, davis: Path, tmp_path: Path
) -> None:
    command = ("adapt", "--data", davis, "--checkpoint", deep, "--out", tmp_path, *QUICK)
    code, _, err = run(*command, "--method", "slim-paper", "--slim.tune-share", 1.5)
    assert code == 2 and "slim.tune_share must be less than 1, got 1.5" in err
    given = ("--slim.images", 2, "--slim.tune-share", 0, "--dyt.minimum", 0.3)
    assert run(*command, "--method", "slim-paper", *given, "--align.features", 0.5)[0] == 0
    (checkpoint,) = (tmp_path / "training").glob("*.pt")
    recipe = torch.load(checkpoint)["recipe"]
    assert recipe["alignment"] == {"predictions": 0.0, "features": 0.5}
    assert recipe["settings"]["slim"]["images"] == 2
    assert recipe["settings"]["slim"]["tune_rate"] == 3e-6
    assert recipe["settings"]["dyt"]["minimum"] == 0.3


def test_importances_measured_before_a_stop_are_kept(
    run: Run, deep: Path, davis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tempomask.training.calibration import SequenceMeasure

    score, calls = SequenceMeasure.score, []

    def counted(self: Any, *given: Any) -> float:
        if len(calls) == 3:
            raise InputError("stopped")
        calls.append(given)
        return score(self, *given)

    monkeypatch.setattr(SequenceMeasure, "score", counted)
    command = ("adapt", "--data", davis, "--checkpoint", deep, "--out", tmp_path / "a", *QUICK)
    code, _, err = run(*command)
    assert code == 2 and "stopped" in err
    calls.insert(0, "no more stops")
    assert run(*command)[0] == 0
    # The whole network and six single blocks, of which three were measured before the stop.
    assert len(calls) == 1 + 7


@pytest.mark.parametrize(
    ("given", "ran"),
    [
        ((), 4),
        (("--budget", 0.75), 6),
        (("--budget", 0.25), 2),
        (("--router", "none"), 8),
        (("--router", "rds", "--budget", 0.5), 4),
    ],
    ids=str,
)
def test_a_routed_run_keeps_its_budget(
    track: Callable[..., dict[str, Any]],
    adapter: Path,
    deep: Path,
    tmp_path: Path,
    given: tuple[Any, ...],
    ran: int,
) -> None:
    out = tmp_path / "out"
    report = track(
        "--checkpoint", deep, "--adapter", adapter, "--point", "8,16", "--out", out,
        "--save", "masks,blocks", *given,
    )  # fmt: skip
    frames = report["frames"]
    # The first frame runs everything.
    assert report["blocks_run"] == pytest.approx((8 + ran * (frames - 1)) / (8 * frames), abs=1e-3)
    assert Path(report["files"]["blocks"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "given",
    [
        ("--fps", 1000),
        ("--adaptive",),
        ("--rule", "stochastic", "--routing-seed", 3),
        ("--rule", "threshold", "--threshold", 0.3),
    ],
    ids=str,
)
def test_other_ways_to_route(
    track: Callable[..., dict[str, Any]], adapter: Path, deep: Path, tmp_path: Path, given: Any
) -> None:
    report = track(
        "--checkpoint", deep, "--adapter", adapter, "--point", "8,16", "--out", tmp_path / "out",
        *given,
    )  # fmt: skip
    assert 0.25 < report["blocks_run"] <= 1
    assert set(report["files"]) >= {"masks", "overlay", "blocks"}


@pytest.mark.parametrize(("fps", "met"), [(10_000, False), (0.01, True)])
def test_whether_a_target_was_met_is_said(
    run: Run,
    track: Callable[..., dict[str, Any]],
    adapter: Path,
    deep: Path,
    video: Path,
    tmp_path: Path,
    fps: float,
    met: bool,
) -> None:
    given = (
        "--checkpoint", deep, "--adapter", adapter, "--point", "8,16", "--out", tmp_path / "out",
        "--fps", fps, "--save", "masks",
    )  # fmt: skip
    target = track(*given)["fps_target"]
    assert target["wanted"] == fps and target["met"] == met and target["reached"] > 0
    code, out, _ = run("track", video, *given)
    word = "met" if met else "missed"
    assert code == 0 and f"target of {fps:g} FPS {word}: " in out


def test_without_its_router_an_adapter_makes_no_image_of_blocks(
    track: Callable[..., dict[str, Any]], adapter: Path, deep: Path, tmp_path: Path
) -> None:
    report = track(
        "--checkpoint", deep, "--adapter", adapter, "--point", "8,16", "--out", tmp_path / "out",
        "--router", "none",
    )  # fmt: skip
    assert "overlay" in report["files"] and "blocks" not in report["files"]


def test_calibrate_keeps_a_threshold_that_track_uses(
    run: Run, adapter: Path, deep: Path, davis: Path, video: Path, tmp_path: Path
) -> None:
    track = ("track", video, "--checkpoint", deep, "--adapter", adapter, "--point", "8,16")
    wanted = (*track, "--out", tmp_path / "out", "--rule", "calibrated", "--budget", 0.5)
    code, _, err = run(*wanted)
    assert code == 2 and "no threshold is calibrated for budget 0.5" in err
    code, out, err = run(
        "calibrate", "--adapter", adapter, "--data", davis, "--checkpoint", deep,
        "--budget", "0.5,0.75", "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads(out)["calibrated"]
    assert [row["budget"] for row in rows] == [0.5, 0.75]
    # Eight routed frames of eight blocks: a block more or less is 1/64.
    assert all(row["frames"] == 8 and abs(row["share"] - row["budget"]) < 0.15 for row in rows)
    code, _, err = run(*wanted)
    assert code == 0, err
    assert set(adapter_file.read_adapter(adapter).export.settings["thresholds"]) == {
        "0.500",
        "0.750",
    }
    # A copy for the thresholds leaves the adapter as it is.
    code, out, err = run(
        "calibrate", "--adapter", adapter, "--data", davis, "--checkpoint", deep,
        "--budget", 0.25, "--out", tmp_path / "copy", "--json",
    )  # fmt: skip
    assert code == 0 and json.loads(out)["adapter"] == str(tmp_path / "copy"), err
    copied, own = (adapter_file.read_adapter(x).export for x in (tmp_path / "copy", adapter))
    assert copied.settings["thresholds"].keys() - own.settings["thresholds"].keys() == {"0.250"}
    assert all(torch.equal(x, own.tensors[name]) for name, x in copied.tensors.items())


def test_a_bad_budget_is_refused_before_the_adapter_is_copied(
    run: Run, adapter: Path, deep: Path, davis: Path, tmp_path: Path
) -> None:
    for budget, message in (("0,0.6", "budget 0 must be"), ("0.6,0.1", "smallest budget")):
        code, _, err = run(
            "calibrate", "--adapter", adapter, "--data", davis, "--checkpoint", deep,
            "--budget", budget, "--out", tmp_path / "cal",
        )  # fmt: skip
        assert code == 2 and message in err and not (tmp_path / "cal").exists()


def test_an_adapter_of_the_package_is_not_changed(run: Run, davis: Path) -> None:
    code, _, err = run("calibrate", "--adapter", "nano-rds", "--data", davis, "--budget", 0.5)
    assert code == 2 and "nano-rds comes with the package and is not changed; give --out" in err


REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "budget of nothing": (("--budget", 0), "budget 0 must be more than 0"),
    "budget above one": (("--budget", 1.5), "budget 1.5 must be"),
    "budget too small": (("--budget", 0.2), "the smallest budget is 0.25"),
    "no speed": (("--fps", 0), "fps must be"),
    "both": (("--fps", 10, "--budget", 0.5), "fps chooses the budget itself"),
    "rule": (("--rule", "best"), 'Invalid value "best" for --rule'),
    "adaptive": (("--adaptive", "--rule", "threshold"), "does not hold a budget"),
    "threshold": (("--threshold", 0.4), "a threshold is for the rule threshold, not for top-k"),
    "seed": (("--routing-seed", 0), "a seed is for the rule stochastic, not for top-k"),
    "router": (("--router", "dyt"), "the model has an adapter of rds"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_wishes_cost_one_line(
    run: Run, adapter: Path, deep: Path, video: Path, tmp_path: Path, given: Any, message: str
) -> None:
    code, _, err = run(
        "track", video, "--checkpoint", deep, "--adapter", adapter, "--point", "8,16",
        "--out", tmp_path / "out", *given,
    )  # fmt: skip
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_adapters_of_other_models_are_refused(adapter: Path, deep: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sam2.1-tiny"):
        load("sam2.1-tiny", adapter=adapter)
    with pytest.raises(InputError, match="other weights"):
        load(checkpoint=save(tmp_path, seed=3), adapter=adapter)
    with pytest.raises(InputError, match="other weights"):
        load(checkpoint=save(tmp_path, depth=6), adapter=adapter)
    assert load(checkpoint=deep, adapter=adapter).adapter is not None


BAD_RUNS: dict[str, tuple[tuple[Any, ...], str]] = {
    "budget": (("--budget", 1.2), "budget 1.2 must be more than 0"),
    "small budget": (("--budget", 0.1), "the smallest budget is 0.25"),
    "method": (("--method", "magic"), "unknown method 'magic'"),
    "importance": (("--importance", "some"), 'Invalid value "some" for --importance'),
    "inputs": (("--inputs", "words"), 'Invalid value "words" for --inputs'),
    "blocks": (("--blocks", 40), "cannot adapt 40 blocks: give 2 .* to 8"),
    "rate": (("--rate", "nan"), "rate must be a learning rate above 0, such as 3e-4, got nan"),
    "router rate": (("--router-rate", -1), "router_rate must be a learning rate above 0"),
    "rank": (("--rank", 100000), "rank of adapters must be from 1 to 32"),
    "validation": (("--validation", "middle"), "no sequence 'middle' to hold out"),
}


@pytest.mark.parametrize(("given", "message"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_bad_runs_cost_one_line(
    run: Run, deep: Path, davis: Path, tmp_path: Path, given: Any, message: str
) -> None:
    import re

    code, _, err = run(
        "adapt", "--data", davis, "--checkpoint", deep, "--out", tmp_path / "a", *QUICK, *given
    )
    assert code == 2 and re.search(message, err) and err.count("\n") == 1


def test_no_data(run: Run, tmp_path: Path) -> None:
    code, _, err = run("adapt", "--data", tmp_path / "none", "--out", tmp_path / "a")
    assert code == 2 and "is not a folder" in err


def test_the_model_chooses_policies(adapter: Path, deep: Path, tmp_path: Path) -> None:
    plain, routed = load(checkpoint=deep), load(checkpoint=deep, adapter=adapter)
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 56, 3), dtype=np.uint8)
    prompt = Prompt(points=[(20, 20)])
    with pytest.raises(InputError, match="router"):
        list(plain.track(frames, prompt, routing=0.5))
    with pytest.raises(InputError, match="'rds'"):
        plain.session(routing=Routing(router="rds"))
    with pytest.raises(InputError, match="plan-a"):
        plain.policy(Routing(router="plan-a"))
    with pytest.raises(InputError, match="'foo'"):
        plain.policy(Routing(0.5, router="foo"))
    assert plain.policy() is None and routed.policy(Routing(router="none")) is None
    session = routed.session(routing=0.75)
    session.add(prompt)
    assert [int(session.step(frame).blocks.sum()) for frame in frames] == [8, 6, 6]
    for wishes in (
        [Routing(rule="threshold", threshold=value) for value in (0, 1, 0)],
        [Routing(rule="stochastic", seed=value) for value in (0, 1, 0)],
    ):
        ran = [
            [r.blocks.tolist() for r in routed.track(frames, prompt, routing=wish)]
            for wish in wishes
        ]
        assert ran[0] == ran[2] != ran[1], wishes


def test_plans_of_the_paper_need_no_adapter() -> None:
    """They fit SAM 2's large encoder only; tested on its shape."""
    from tempomask.model import Model
    from tempomask.models.config import segmenter_config

    with torch.device("meta"):
        model = Model(Segmenter(segmenter_config("sam2.1-large")))
    policy = model.policy(Routing(router="plan-a"))
    assert policy is not None
    assert policy.plan(torch.zeros(1), None).blocks.sum() == len(PLAN_A)


def test_bundled_adapters_are_found_by_name(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_file, "BUNDLED", adapter.parent)
    adapter_folder = adapter.name
    assert adapter_file.bundled_adapters() == [adapter_folder]
    monkeypatch.chdir(tmp_path)
    assert adapter_file.find_adapter(adapter_folder) == adapter
    (tmp_path / adapter_folder).mkdir()  # a folder of that name which holds no adapter
    assert adapter_file.find_adapter(adapter_folder) == adapter
    with pytest.raises(InputError, match=r"\(adapter\)"):
        adapter_file.find_adapter("nothing")


@pytest.mark.parametrize(
    ("adapter", "model", "checkpoint", "routing", "found"),
    [
        (None, None, None, RoutingOptions(), None),
        (None, None, None, RoutingOptions(0.5), "nano-rds"),
        (None, None, None, RoutingOptions(memory_budget=0.5), None),
        (None, None, None, RoutingOptions(0.5, memory_budget=0.5), "nano-rds"),
        (None, "nano", None, RoutingOptions(router="rds"), "nano-rds"),
        (None, "nano", None, RoutingOptions(router="none"), None),
        (None, "sam2.1-tiny", None, RoutingOptions(0.5), None),
        (None, None, "own.pt", RoutingOptions(0.5), None),
        ("mine", None, None, RoutingOptions(0.5), "mine"),
    ],
)
def test_a_budget_asks_for_the_bundled_adapter(
    adapter: Any, model: Any, checkpoint: Any, routing: Any, found: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(adapter_file, "bundled_adapters", lambda: ["nano-rds"])
    given = replace(routing, adapter=adapter)
    assert given.adapter_for(model, checkpoint) == found


def test_eval_scores_a_submodel(
    run: Run, adapter: Path, deep: Path, davis: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        "eval", "davis", davis, "--checkpoint", deep, "--adapter", adapter, "--budget", 0.75,
        "--json",
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads(out)
    assert summary["settings"]["budget"] == 0.75
    assert summary["blocks_run"] == pytest.approx(0.75)
