"""Cutie and XMem: key tables, matching and memory by naive oracles, sessions, the command line."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempomask.errors import InputError, InputWarning
from tempomask.io.video import open_video
from tempomask.matching.memory import Group, MatchingMemory, Pixels, similarity
from tempomask.matching.model import Matcher, load_matcher
from tempomask.matching.options import MatchingOptions
from tempomask.model import load
from tempomask.models.instances.config import ResNetConfig
from tempomask.models.matching import config as configs
from tempomask.models.matching.blocks import ImageFeatures, Remembered, aggregate
from tempomask.models.matching.config import CUTIE, MATCHERS, XMEM
from tempomask.models.matching.object_transformer import position_encoding
from tempomask.prompts import Prompt
from tempomask.routing.options import Routing
from tempomask.weights import zoo
from tempomask.weights.layout import rename
from tempomask.weights.matching import NETWORKS, build_matcher, load_matching_network, to_official

SMALL_R18 = ResNetConfig(8, (8, 16, 32), (1, 1, 1), basic=True)
NARROW = {"encoder": SMALL_R18, "key_dim": 8, "value_dim": 16, "sensory_dim": 16}
TINY_CUTIE = replace(
    CUTIE, name="cutie-small", **NARROW, num_queries=4, blocks=2, num_heads=2,
    feedforward_dim=16, up_dims=(16, 8, 8),
)  # fmt: skip
TINY_XMEM = replace(XMEM, **NARROW, up_dims=(32, 16, 16))
TINY = {"cutie-small": TINY_CUTIE, "xmem": TINY_XMEM}
OFTEN = MatchingOptions(memory_every=2, top_k=5)
LONG = replace(
    OFTEN, long_term=True, working_frames=4, kept_frames=2, prototypes=3, long_tokens=10,
    spare_tokens=2,
)  # fmt: skip
SIZE = (50, 70)


def matcher(name: str = "cutie-small", options: MatchingOptions = OFTEN) -> Matcher:
    torch.manual_seed(0)
    return Matcher(build_matcher(TINY[name]), options=options)


def frames(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 255, (count, *SIZE, 3), dtype=np.uint8))


def square(top: int, left: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + 20, left : left + 20] = True
    return mask


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The named models, small ones in their place."""
    for name, config in TINY.items():
        monkeypatch.setitem(MATCHERS, name, config)


@pytest.mark.parametrize("name", [*MATCHERS])
def test_key_tables_are_reversible_and_models_have_the_size_they_say(name: str) -> None:
    with torch.device("meta"):
        network = build_matcher(MATCHERS[name])
    layout, state = NETWORKS[MATCHERS[name].kind][1], network.state_dict()
    theirs = layout.to_theirs(state)
    assert len(theirs) == len(state) and all(mark in theirs for mark in layout.marks)
    back = layout.to_ours(theirs)
    assert {key: x.shape for key, x in back.items()} == {key: x.shape for key, x in state.items()}
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert count == pytest.approx(zoo.MATCHING_MODELS[name].parameters, rel=0.01)
    info = zoo.MATCHING_MODELS[name]
    assert info.licence == "MIT" and info.url.endswith(info.file) and "github.com" in info.url


def test_names_of_the_releases() -> None:
    """Some rows, as literally as the releases have them."""
    cutie, xmem = (NETWORKS[kind][1].rules for kind in ("cutie", "xmem"))
    assert rename("encoder.stages.0.1.conv2.norm.weight", cutie) == (
        "pixel_encoder.res2.1.bn2.weight"
    )
    assert rename("object_transformer.blocks.2.from_queries.input_weight", cutie) == (
        "object_transformer.blocks.2.read_from_query.cross_attn.in_proj_weight"
    )
    assert rename("mask_encoder.encoder.stages.2.0.shortcut.conv.weight", xmem) == (
        "value_encoder.layer3.0.downsample.0.weight"
    )
    assert rename("fuser.attention.spatial.bias", xmem) == (
        "decoder.fuser.attention.SpatialGate.spatial.conv.bias"
    )


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("name", [*TINY])
def test_official_files_load_strictly(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_matcher(TINY[name])
    theirs = to_official(network)
    computed = {"pixel_encoder.bn1.num_batches_tracked": torch.tensor(3)} if "c" in name else {}
    torch.save({**theirs, **computed}, tmp_path / "model.pth")
    loaded = load_matching_network(name, tmp_path / "model.pth")
    for key, x in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], x)
    if name == "xmem":  # what a file holds is known by its names
        assert load_matching_network(None, tmp_path / "model.pth").name == name
    with pytest.raises(InputError, match="is a checkpoint of"):
        load_matching_network("xmem" if name != "xmem" else "cutie-small", tmp_path / "model.pth")
    with pytest.raises(InputError, match="load_matcher"):
        load(checkpoint=tmp_path / "model.pth")
    lacking = dict(list(theirs.items())[:-1])
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(InputError, match="1 missing"):
        load_matching_network(name, tmp_path / "lacking.pth")


def test_unknown_names_and_other_front_doors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEMPOMASK_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"hkchengrex/XMem/.*XMem\.pth"):
        load_matcher("xmem")
    with pytest.raises(InputError, match="'cuti-base'"):
        load_matcher("cuti-base")
    with pytest.raises(InputError, match="xmem"):
        load("xmem")


def test_similarity_is_the_equation() -> None:
    torch.manual_seed(0)
    key, query = torch.randn(7, 4), torch.randn(5, 4)
    shrinkage, selection = torch.rand(7, 1) + 1, torch.rand(5, 4)
    pairs = list(zip(key, shrinkage, strict=True))
    expected = torch.tensor(
        [
            [-float(s) * float((e * (k - q).square()).sum()) / 2 for k, s in pairs]
            for q, e in zip(query, selection, strict=True)
        ]
    )
    torch.testing.assert_close(similarity(key, shrinkage, query, selection), expected)


def pixels(count: int, objects: int = 2) -> Pixels:
    none = torch.zeros(count)
    return Pixels(
        torch.randn(count, 4), torch.rand(count, 1) + 1, torch.rand(count, 4),
        torch.randn(count, objects, 3), none, none + 1e-7,
    )  # fmt: skip


def features(count: int) -> ImageFeatures:
    nothing = torch.zeros(0)
    return ImageFeatures(
        nothing, (nothing, nothing, nothing), nothing,
        torch.randn(count, 4), torch.rand(count, 1) + 1, torch.rand(count, 4),
    )  # fmt: skip


def test_reading_is_a_softmax_over_the_nearest_and_is_noted() -> None:
    torch.manual_seed(0)
    group = Group((1, 2), pixels(6), pixels(9), pixels(4))
    frame = features(5)
    found, noted = group.read(frame, top_k=3)
    every = group.long.joined(group.first, group.working)
    near = similarity(every.key, every.shrinkage, frame.key, frame.selection)
    used = torch.zeros(19)
    for q in range(5):
        best = near[q].argsort(descending=True)[:3]
        weights = near[q][best].softmax(0)
        expected = (weights[:, None, None] * every.values[best]).sum(0)
        torch.testing.assert_close(found[:, :, q], expected)
        used[best] += weights
    torch.testing.assert_close(noted.long.used, used[:4])
    torch.testing.assert_close(noted.working.used, used[10:])
    assert noted.first is group.first
    torch.testing.assert_close(noted.working.age, torch.full((9,), 1 + 1e-7))


def test_consolidation_keeps_the_most_used_and_averages_what_is_like_them() -> None:
    torch.manual_seed(0)
    used = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 5.0, 6.0])
    working = replace(pixels(8), used=used, age=torch.ones(8))
    long = replace(pixels(7), used=torch.arange(7.0), age=torch.ones(7))
    group = Group((1, 2), pixels(2), working, long).consolidated(2, LONG)
    # Of the 7 pixels of long-term memory the 5 most used stay, and 3 of the 6 old ones join them.
    assert group.long.count == 8 and group.working.count == 2
    torch.testing.assert_close(group.long.key[:5], long.key[[6, 5, 4, 3, 2]])
    chosen = [1, 3, 5]
    torch.testing.assert_close(group.long.key[5:], working.key[chosen])
    old = working.take(slice(0, 6))
    weights = similarity(old.key, old.shrinkage, old.key[chosen], old.selection[chosen]).softmax(1)
    expected = torch.einsum("pt,tnv->pnv", weights, old.values)
    torch.testing.assert_close(group.long.values[5:], expected)
    torch.testing.assert_close(group.working.key, working.key[6:])


def remember(
    memory: MatchingMemory, objects: tuple[int, ...], options: MatchingOptions, **how: Any
) -> None:
    for one in objects:
        memory.sensory.setdefault(one, torch.zeros(2, 1, 4))
    count = len(memory.sensory)
    sensory, summaries = torch.ones(count, 2, 1, 4), torch.ones(count, 2, 3)
    found = Remembered(torch.randn(4, count, 3), sensory, summaries)
    memory.add(features(4), found, options, bool(options.long_term), **how)


@pytest.mark.parametrize("options", [OFTEN, LONG], ids=["short", "long"])
def test_memory_is_bounded_and_objects_have_what_came_since(options: MatchingOptions) -> None:
    torch.manual_seed(0)
    memory, sizes = MatchingMemory(), []
    remember(memory, (3,), options)
    for step in range(40):
        remember(memory, (3, 7) if step >= 5 else (3,), options)
        for place, group in enumerate(memory.groups):
            _, memory.groups[place] = group.read(features(4), 3)
        sizes.append(memory.num_bytes())
    assert [group.objects for group in memory.groups] == [(3,), (7,)] and memory.objects == (3, 7)
    assert max(sizes[20:]) <= max(sizes[:20]) * 1.35
    for group in memory.groups:
        assert group.first.count == 4
        assert group.working.count <= 4 * (3 if options.long_term else 4)
        assert (group.long.count > 0) == bool(options.long_term) and group.long.count <= 10
    # Sums over 41 and 35 frames.
    assert float(memory.summaries[3][0, 0]) == 41 and float(memory.summaries[7][0, 0]) == 35
    before = memory.copy()
    memory.remove(3)
    assert memory.objects == (7,) and [g.objects for g in memory.groups] == [(7,)]
    assert before.objects == (3, 7)
    remember(memory, (7,), options, for_good=True)
    assert memory.groups[0].first.count == 8


def test_aggregate_and_positions() -> None:
    p = torch.tensor([[0.9, 0.2], [0.3, 0.1]])
    joint = torch.stack([(1 - p).prod(0), *p])
    torch.testing.assert_close(aggregate(p), torch.log(joint / (1 - joint)))
    place = position_encoding(3, 5, 8, torch.device("cpu"))
    x, y = 2 / (4 + 1e-6) * 32, 1 / (2 + 1e-6) * 32
    rate = 128 ** (-2 / 4)
    expected = [f(v * r) for v in (x, y) for r in (1.0, rate) for f in (math.sin, math.cos)]
    torch.testing.assert_close(place[1, 2], torch.tensor(expected))


@pytest.mark.parametrize("name", [*TINY])
@pytest.mark.parametrize("options", [OFTEN, LONG], ids=["short", "long"])
def test_a_video_with_objects_that_come_are_corrected_and_go(
    name: str, options: MatchingOptions
) -> None:
    session = matcher(name, options).session()
    video = frames(30)
    assert session.step(video[0]).object_ids == ()
    session.prompt(object_id=2, mask=square(5, 5))
    session.prompt(object_id=5, mask=square(25, 30), frame=4)
    assert [p.frame for p in session.waiting] == [1, 4]
    first = session.step(video[1])
    assert first.object_ids == (2,) and np.array_equal(first.masks[0], square(5, 5))
    for index in range(2, 30):
        result = session.step(video[index])
        assert result.object_ids == ((2,) if index < 4 else (2, 5))
        assert np.isfinite(result.low_res_logits).all() and result.masks.shape[1:] == SIZE
        assert not (result.masks.sum(0) > 1).any()
        if index == 4:
            assert np.array_equal(result.masks[1], square(25, 30))
        if index == 10:
            fixed = session.correct(object_id=2, mask=square(8, 10))
            assert np.array_equal(fixed.masks[0], square(8, 10)) and fixed.index == 10
            again = session.correct(object_id=2, mask=square(8, 12))
            assert np.array_equal(again.masks[0], square(8, 12))
            # The second takes the place of the first.
            assert session.memory.groups[0].first.count == 2 * 4 * 5
        if index == 20:
            session.remove(2)
            with pytest.raises(InputError, match="object 2 .* 5$"):
                session.remove(2)
            break
    assert session.step(video[21]).object_ids == (5,)
    session.reset()
    assert session.object_ids == () and session.index is None


@pytest.mark.parametrize("name", [*TINY])
def test_state_goes_on_where_it_was(name: str) -> None:
    video, prompt = frames(12), [Prompt(0, 1, mask=square(5, 5)), Prompt(3, 4, mask=square(20, 40))]
    model = matcher(name, LONG)
    whole = list(model.track(video, prompt))
    assert [r.index for r in whole] == list(range(12))
    for stop in (1, 5, 9):
        tracks = model.track(video, prompt)
        begun = [next(tracks) for _ in range(stop)]
        rest = list(model.track(video, prompt, state=tracks.state()))
        for one, other in zip([*begun, *rest], whole, strict=True):
            assert one.object_ids == other.object_ids
            assert np.array_equal(one.low_res_logits, other.low_res_logits)
    damaged = tracks.state()
    assert damaged is not None
    other = matcher("xmem" if name != "xmem" else "cutie-small")
    with pytest.raises(InputError, match="another model"):
        other.session().restore(damaged)


def test_directions() -> None:
    video, prompt = frames(8), Prompt(4, 1, mask=square(5, 5))
    model = matcher()
    back = list(model.track(video, prompt, direction="backward"))
    assert [r.index for r in back] == [4, 3, 2, 1, 0]
    both = list(model.track(video, prompt, direction="both"))
    assert [r.index for r in both] == list(range(8))
    # The backward pass is kept on disk with half the digits.
    np.testing.assert_allclose(both[1].low_res_logits, back[3].low_res_logits, atol=1e-2)


def test_objects_that_came_together_are_read_together_and_do_not_see_later_ones() -> None:
    """Without a later object the earlier one's memory is read in the same way."""
    alone, joined = (matcher().session() for _ in range(2))
    video = frames(3)
    for session in (alone, joined):
        session.prompt(object_id=1, mask=square(5, 5))
        session.step(video[0])
    joined.prompt(object_id=2, mask=square(25, 40))
    seen = [session.step(video[1]) for session in (alone, joined)]
    assert not seen[1].masks[0][25:45, 40:60].any() and len(joined.memory.groups) == 2
    assert [g.objects for g in joined.memory.groups] == [(1,), (2,)]


def test_large_videos_are_brought_down_and_masks_come_back_at_full_size() -> None:
    small = replace(OFTEN, short_side=32)
    session = matcher(options=small).session()
    session.prompt(mask=square(5, 5))
    first, second = (session.step(frame) for frame in frames(2))
    assert second.low_res_logits.shape == (1, *SIZE)
    overlap = (first.masks[0] & square(5, 5)).sum() / (first.masks[0] | square(5, 5)).sum()
    assert overlap > 0.8
    assert session.memory.sensory[1].shape[1:] == (2, 3)  # 32 x 44, padded to 32 x 48


def test_masks_that_vanish_are_told_of() -> None:
    session = matcher(options=replace(OFTEN, short_side=16)).session()
    tiny = np.zeros(SIZE, dtype=bool)
    tiny[0, 0] = True
    session.prompt(object_id=3, mask=tiny)
    with pytest.warns(InputWarning, match="object 3 on frame 0 .*1 pixels in 70 x 50 .* 22 x 16"):
        session.step(frames(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.correct(object_id=3, mask=square(5, 5))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"memory_every": 0}, "memory_every must be 1 or more"),
        ({"working_frames": 5}, "must be above kept_frames"),
        ({"long_tokens": 2000}, "must be above spare_tokens"),
    ],
)
def test_options_that_do_not_fit(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MatchingOptions(**changes)


def test_bad_input_says_what_and_leaves_the_session_as_it_was() -> None:
    model, video = matcher(), frames(3)
    session = model.session()
    with pytest.raises(InputError, match="tempomask segment"):
        session.add(Prompt(0, 1, points=[(3, 3)]))
    with pytest.raises(InputError, match="no frame to correct"):
        session.correct(mask=square(5, 5))
    with pytest.raises(InputError, match="cannot follow"):
        session.step(video[0], 5)
    with pytest.raises(InputError, match="no blocks that could be left out"):
        model.session(routing=0.5)
    assert model.session(routing=Routing()).object_ids == ()
    session.prompt(mask=np.ones((9, 9), dtype=bool))
    with pytest.raises(InputError):
        session.step(video[0])
    session.prompt(mask=square(5, 5))
    session.step(video[0])
    before = session.memory_bytes()
    with pytest.raises(InputError, match="the size may not change"):
        session.step(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match="is not kept"):
        session.step(video[1])
        session.correct(mask=square(5, 5), frame=0)
    assert session.memory_bytes() >= before
    with pytest.raises(InputError, match="is not a mask"):
        model.track(video, Prompt(0, 1, box=(1, 1, 9, 9)))


@pytest.mark.parametrize("name", [*TINY])
def test_the_bundled_clip(name: str) -> None:
    clip = zoo.ASSETS / "clip" / "clip.mp4"
    mask = np.zeros(open_video(clip).size, dtype=bool)
    mask[40:120, 60:160] = True
    model = matcher(name, replace(LONG, short_side=64))
    results = list(model.track(clip, [Prompt(mask=mask)], frames=range(12)))
    assert len(results) == 12 and all(r.masks.shape[1:] == mask.shape for r in results)


@pytest.fixture
def checkpoint(small_models: None, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "cutie-small-mega.pth"
    torch.save(to_official(build_matcher(configs.MATCHERS["cutie-small"])), path)
    return path


def test_the_command_line(
    checkpoint: Path, tmp_path: Path, save_pair: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from tempomask.cli.main import main

    davis = tmp_path / "DAVIS"
    for t in range(4):
        save_pair(davis, f"slow/{t:05d}", square(5 + t, 5).astype(np.uint8))
    model = ["--model", "cutie-small", "--checkpoint", str(checkpoint), "--device", "cpu"]
    source, mask = str(davis / "JPEGImages" / "slow"), str(davis / "Annotations/slow/00000.png")
    out = str(tmp_path / "out")
    words = ["track", source, *model, "--mask", mask, "--out", out, "--save", "masks", "--json"]
    assert main(words) == 0
    assert len(sorted(Path(out).rglob("*.png"))) == 4
    scores = tmp_path / "scores"
    capsys.readouterr()
    assert main(["eval", "davis", str(davis), *model, "--out", str(scores), "--json"]) == 0
    summary = json.loads((scores / "summary.json").read_text())
    assert summary["settings"]["method"] == "matching" and 0 <= summary["J&F"] <= 100
    for extra, message in (
        (["--point", "9,9"], "tracks masks"),
        (["--mask", mask, "--memory", "samurai"], "leave --memory out"),
        (["--mask", mask, "--budget", "0.6"], "leave --budget out"),
    ):
        assert main(["track", source, *model, *extra, "--out", f"{out}2"]) != 0
        assert message in capsys.readouterr().err
        assert not Path(f"{out}2").exists()
