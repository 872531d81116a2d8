"""RDS and the full model as methods: what they train, and what they export."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tempomask.adaptation.adapter_file import (
    attach_adapter,
    base_sample,
    change_settings,
    find_adapter,
    read_adapter,
    save_adapter,
)
from tempomask.adaptation.method import Export
from tempomask.adaptation.options import AdapterConfig, RDSConfig, RouterTraining
from tempomask.adaptation.rds import RDS, FullModel, attach, attach_without_router
from tempomask.errors import InputError
from tempomask.model import Model, load
from tempomask.models.segmenter import Segmenter
from tempomask.routing.options import Routing
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.tracking.session import Session

pytest.importorskip("peft")
MakeMeasure = Callable[[Segmenter], Any]
CONFIG = RDSConfig(0.5, adapters=AdapterConfig(blocks=4, rank=2))


def clip(length: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40, 56, 3), dtype=np.uint8) for _ in range(length)]


def trained_rds(segmenter: Segmenter, make_measure: MakeMeasure) -> RDS:
    """RDS as after some training."""
    method = RDS(CONFIG)
    prepared = method.prepare(segmenter, make_measure(segmenter))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in prepared.groups:
            for parameter in group["params"]:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return method


def follow(segmenter: Segmenter, policy: Any) -> list[np.ndarray]:
    session = Session(segmenter, policy=policy)
    mask = np.zeros((40, 56), bool)
    mask[10:30, 10:40] = True
    session.prompt(mask=mask)
    results = [session.step(frame) for frame in clip()]
    assert [int(r.blocks.sum()) for r in results[1:]] == [3] * 3
    return [result.low_res_logits for result in results]


def test_what_is_trained(segmenter: Segmenter, make_measure: MakeMeasure) -> None:
    method = RDS(CONFIG)
    prepared = method.prepare(segmenter, make_measure(segmenter))
    adapters, router = prepared.groups
    assert adapters["lr"] == CONFIG.adapters.rate and router["lr"] == CONFIG.router.router_rate
    trained = {id(p) for group in prepared.groups for p in group["params"]}
    modules = [prepared.network, prepared.policy]
    wanting = {id(p) for m in modules for p in m.parameters() if p.requires_grad}  # type: ignore[union-attr]
    assert trained == wanting
    assert len(method.adapters.blocks) == 4 and {0, 5} <= set(method.adapters.blocks)


def test_the_view_varies_what_is_adapted_and_nothing_else(
    segmenter: Segmenter, make_measure: MakeMeasure
) -> None:
    disagreeing = {
        "global_drops": [0, 4, 3, 2, 1, 0],
        "local_changes": [0, 1, 2, 4, 3, 0],
        "always_on": [0, 5],
    }
    starts, adapted = [], set()
    for view in ("both", "global", "local"):
        method = RDS(replace(CONFIG, adapters=AdapterConfig(3, view, rank=2)))  # type: ignore[arg-type]
        method.prepare(deepcopy(segmenter), make_measure(segmenter), {"importance": disagreeing})
        assert method.router is not None
        starts.append(method.router.head.bias.tolist())
        adapted.add(method.adapters.blocks)
    assert starts[0] == starts[1] == starts[2] and len(adapted) == 2
    method = RDS(replace(CONFIG, adapters=AdapterConfig(3, "local", rank=2)))
    measure = make_measure(segmenter)
    method.prepare(segmenter, measure)
    assert measure.scored == 5, "both views are measured"


def test_resuming_measures_nothing_anew(
    segmenter: Segmenter, other_model: Segmenter, make_measure: MakeMeasure
) -> None:
    first = RDS(CONFIG)
    first.prepare(segmenter, make_measure(segmenter))
    measure = make_measure(other_model)
    again = RDS(CONFIG)
    again.prepare(other_model, measure, first.state())
    assert measure.scored == 0
    assert again.adapters.blocks == first.adapters.blocks


def test_an_adapter_saved_and_loaded_gives_the_same_masks(
    segmenter: Segmenter, make_measure: MakeMeasure, tmp_path: Any
) -> None:
    sample = base_sample(segmenter)
    base = {name: x.clone() for name, x in segmenter.state_dict().items()}
    method = trained_rds(segmenter, make_measure)
    # Unmerged, by peft, and routed by the router in memory.
    made = method.export()
    assert method.router is not None
    live = attach_live(method)
    before = follow(segmenter, live)
    folder = save_adapter(tmp_path / "adapter", "rds", "nano", sample, made)
    assert sorted(p.name for p in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]
    plain = Segmenter(segmenter.config).eval()
    plain.load_state_dict(base)
    attached = attach_adapter(plain, read_adapter(folder), attach)
    assert attached.make_policy is not None
    after = follow(attached.network, attached.make_policy(Routing()))
    for one, other in zip(before, after, strict=True):
        assert np.allclose(one, other, atol=1e-3)
        assert np.array_equal(one > 0, other > 0)


def attach_live(method: RDS) -> RecurrentPolicy:
    from tempomask.routing.budget import FixedBudget, TopK

    assert method.router is not None
    return RecurrentPolicy(method.router, FixedBudget(CONFIG.budget), TopK())


def test_the_full_model_has_adapters_and_no_router(
    segmenter: Segmenter, make_measure: MakeMeasure, tmp_path: Any
) -> None:
    sample = base_sample(segmenter)
    method = FullModel(CONFIG)
    prepared = method.prepare(segmenter, make_measure(segmenter))
    assert prepared.policy is None and len(prepared.groups) == 1
    folder = save_adapter(tmp_path / "full", "full", "nano", sample, method.export())
    plain = Segmenter(segmenter.config).eval()
    adapter = read_adapter(folder)
    sampled = save_adapter(tmp_path / "own", "full", "nano", base_sample(plain), adapter.export)
    attached = attach_adapter(plain, read_adapter(sampled), attach_without_router)
    assert attached.make_policy is None
    model = Model(attached.network, adapter=attached._replace(method="full"))
    assert model.policy() is None and model.policy(Routing(router="full")) is None
    with pytest.raises(InputError, match="need a router"):
        model.policy(Routing(0.5))


def test_adapters_and_k_can_be_chosen(segmenter: Segmenter, make_measure: MakeMeasure) -> None:
    adapters = AdapterConfig(blocks=(4, 1), rank=2)
    method = RDS(RDSConfig(0.5, RouterTraining(always_on=(2, 5)), adapters))
    prepared = method.prepare(segmenter, make_measure(segmenter))
    assert method.adapters.blocks == (1, 4) and method.router is not None
    adapted = {n.split(".")[2] for n, p in segmenter.named_parameters() if "lora_" in n}
    assert adapted == {"1", "4"} and prepared.policy is method.policy
    assert method.router.config.always_on == (2, 5)
    assert method.adapters.importance is not None
    drops = method.adapters.importance.global_drops
    assert [drop == 0 for drop in drops] == [False, False, True, False, False, True]
    assert method.export().settings["router"]["always_on"] == [2, 5]


def test_an_adapter_with_a_chosen_k_runs_it(
    segmenter: Segmenter, make_measure: MakeMeasure
) -> None:
    plain = Segmenter(segmenter.config).eval()
    plain.load_state_dict(segmenter.state_dict())
    method = RDS(replace(CONFIG, router=RouterTraining(always_on=(2,))))
    method.prepare(segmenter, make_measure(segmenter))
    attached = attach(plain, method.export())
    assert attached.make_policy is not None
    x, masks = torch.randn(1, 4, 4, 32), torch.randn(1, 1, 16, 16)
    least = attached.make_policy(Routing(1 / 6)).plan(x, masks).blocks
    assert least.tolist() == [False, False, True, False, False, False]


def test_named_blocks_need_no_importance_where_the_router_starts_equal(
    segmenter: Segmenter, make_measure: MakeMeasure
) -> None:
    measure = make_measure(segmenter)
    adapters = AdapterConfig(blocks=(1, 4), rank=2)
    method = RDS(RDSConfig(0.5, RouterTraining(importance_start=0.0), adapters))
    method.prepare(segmenter, measure)
    assert measure.scored == 0 and method.state() == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            RDSConfig(0.5, RouterTraining(always_on=(0, 6))),
            r"there are no blocks \[6\]: .* blocks 0 to 5",
        ),
        (
            RDSConfig(0.3, RouterTraining(always_on=(0, 1))),
            r"2 of the 6 blocks always run; .* 0\.334",
        ),
        (
            RDSConfig(0.5, adapters=AdapterConfig(blocks=(1, 9))),
            r"there are no blocks \[9\]: the encoder has blocks 0 to 5",
        ),
    ],
    ids=["K", "K too large", "adapters"],
)
def test_blocks_that_cannot_be_chosen(
    segmenter: Segmenter, make_measure: MakeMeasure, config: RDSConfig, message: str
) -> None:
    measure = make_measure(segmenter)
    with pytest.raises(InputError, match=message):
        RDS(config).prepare(segmenter, measure)
    assert measure.scored == 0, "refused before anything is measured"


def test_the_temperature_falls_over_the_training(
    segmenter: Segmenter, make_measure: MakeMeasure
) -> None:
    method = RDS(replace(CONFIG, router=RouterTraining(learn_worth=1.0, worth_warmup=4)), steps=21)
    method.prepare(segmenter, make_measure(segmenter))
    policy = method.policy
    assert policy is not None and policy.router.config.temperature == 0.2
    seen = []
    for step in range(21):
        method.on_step(step)
        seen.append((policy.temperature, policy.settled, policy.straight_through))
    temperatures = [temperature for temperature, _, _ in seen]
    assert temperatures[0] == 1.0 and temperatures[20] == pytest.approx(0.2)
    assert temperatures[10] == pytest.approx(0.2**0.5), "geometrically"
    assert [step for step, (_, settled, _) in enumerate(seen) if settled] == list(range(15, 21))
    assert [step for step, (_, _, learns) in enumerate(seen) if not learns] == [0, 1, 2, 3]


def test_the_papers_training_is_a_variant() -> None:
    ours = RouterTraining(learn_worth=1.0, worth_warmup=3, mask_frames=4)
    paper = ours.as_in_the_paper()
    assert (paper.weights, paper.draws, paper.settled_share) == ("paper", "bernoulli", 0.0)
    assert paper.first_temperature == paper.last_temperature == 1.0
    assert paper.importance_start == paper.learn_worth == paper.worth_warmup == 0
    assert paper.skipped_gradient, "as X' = r h(X) + (1 - r) X has it"
    assert paper.mask_frames == 4


# Blocks that nano-rds ran before routers had versions, on the frames of `moving_box`.
NANO_RDS = {
    Routing(0.6): ["11100001010111", "11110000010111", "11110000010111", "11110000010111"],
    Routing(0.5): ["11100000010111", "11100000010111", "11110000000111", "11110000000111"],
    Routing(0.3): ["10100000000011", "11100000000001", "11100000000001", "11100000000001"],
    Routing(0.6, "calibrated"): ["11100001010111"] + 3 * ["11100000000111"],
    Routing(0.6, "threshold"): 2 * ["11111111011111"] + 2 * ["11110101011111"],
    Routing(0.6, "stochastic", seed=2): [
        "11110111010111", "11111011001111", "11110001011111", "11100101000011",
    ],
}  # fmt: skip


def moving_box() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    back = rng.integers(0, 255, (12, 16, 3)).repeat(16, 0).repeat(16, 1)
    frames = []
    for t in range(5):
        frame = back.copy()
        frame[60 + 8 * t : 120 + 8 * t, 40 + 20 * t : 110 + 20 * t] = (250, 200, 40)
        frames.append(frame.astype(np.uint8))
    return frames


def test_an_adapter_made_before_routers_had_versions_gives_the_same_plans() -> None:
    model = load("nano", adapter="nano-rds", image_size=256, dtype="float32", engine="plain")
    mask = np.zeros((192, 256), bool)
    mask[60:120, 40:110] = True
    for routing, expected in NANO_RDS.items():
        session = model.session(num_frames=5, routing=routing)
        session.prompt(mask=mask)
        ran = [session.step(frame).blocks for frame in moving_box()]
        assert ["".join(str(int(b)) for b in blocks) for blocks in ran[1:]] == expected, routing


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0.2, "the smallest budget is 0.334"),
        (1.2, r"budget 1\.2 must be more than 0 and at most 1"),
    ],
)
def test_budgets_that_cannot_be_trained(
    segmenter: Segmenter, make_measure: MakeMeasure, budget: float, message: str
) -> None:
    measure = make_measure(segmenter)
    with pytest.raises(InputError, match=message):
        RDS(RDSConfig(budget)).prepare(segmenter, measure)
    assert measure.scored == 0, "refused before anything is measured"


def test_an_unknown_importance_is_refused() -> None:
    with pytest.raises(InputError, match="'some'"):
        AdapterConfig(view="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_learning_rates_that_are_none_are_refused(rate: float) -> None:
    with pytest.raises(InputError, match="^rate "):
        AdapterConfig(rate=rate)
    with pytest.raises(InputError, match="^router_rate "):
        RouterTraining(router_rate=rate)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdapterConfig(rank=0), "rank of adapters must be 1 or more"),
        (lambda: AdapterConfig(decay=-0.1), r"decay must be a number from 0 up, got -0\.1"),
        (lambda: RouterTraining(settled_share=1.5), "settled_share must lie between 0 and 1"),
        (lambda: RouterTraining(importance_start=float("nan")), "importance_start must be a"),
        (lambda: RouterTraining(weights="some"), "weights must be free or paper, got 'some'"),  # type: ignore[arg-type]
        (lambda: RouterTraining(draws="some"), "draws must be exact or bernoulli, got 'some'"),  # type: ignore[arg-type]
        (lambda: RouterTraining(last_temperature=0.0), r"last_temperature must lie between 0\.01"),
        (lambda: RouterTraining(learn_worth=-1.0), "learn_worth must be a weight from 0 up, got"),
        (lambda: RouterTraining(worth_warmup=9), "with a learn_worth above 0; got 9 with 0"),
    ],
    ids=["rank", "decay", "settled", "start", "weights", "draws", "temperature", "worth", "warmup"],
)
def test_settings_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_rank_wider_than_the_encoder_is_refused_before_anything_is_measured(
    segmenter: Segmenter, make_measure: MakeMeasure
) -> None:
    measure = make_measure(segmenter)
    with pytest.raises(InputError, match="got 100"):
        RDS(RDSConfig(0.5, adapters=AdapterConfig(rank=100))).prepare(segmenter, measure)
    assert measure.scored == 0


def test_an_adapter_that_has_diverged_is_neither_written_nor_read(
    segmenter: Segmenter, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = base_sample(segmenter)
    export = Export({}, {"lora.blocks.1.qkv.up": torch.tensor([1.0, float("nan")])})
    message = r"lora\.blocks\.1\.qkv\.up is not finite: the adapter.s training"
    with pytest.raises(InputError, match=message):
        save_adapter(tmp_path / "made", "full", "nano", sample, export)
    assert not (tmp_path / "made").exists()
    monkeypatch.setattr("tempomask.adaptation.adapter_file._check_trained", lambda *_: None)
    save_adapter(tmp_path / "old", "full", "nano", sample, export)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"qkv\.up is not finite"):
        read_adapter(tmp_path / "old")


@pytest.fixture
def folder(segmenter: Segmenter, make_measure: MakeMeasure, tmp_path: Any) -> Any:
    sample = base_sample(segmenter)
    method = trained_rds(segmenter, make_measure)
    return save_adapter(tmp_path / "adapter", "rds", "nano", sample, method.export())


@pytest.mark.parametrize(
    ("name", "value"),
    [("thresholds", None), ("thresholds", {"0.5": 10**400}), ("budget", "half")],
)
def test_damaged_settings_are_named_and_nothing_is_merged(
    folder: Any, segmenter: Segmenter, name: str, value: Any
) -> None:
    plain = Segmenter(segmenter.config).eval()
    before = {key: x.clone() for key, x in plain.state_dict().items()}
    export = read_adapter(folder).export
    with pytest.raises(InputError, match=f"setting '{name}'"):
        attach(plain, Export({**export.settings, name: value}, export.tensors))
    assert all(torch.equal(x, before[key]) for key, x in plain.state_dict().items())


def test_an_adapter_of_another_model_is_refused(folder: Any, other_model: Segmenter) -> None:
    with pytest.raises(InputError, match="nano, not to another"):
        attach_adapter(other_model, read_adapter(folder), attach)


def test_a_sample_of_whole_numbers_is_of_other_weights(folder: Any, segmenter: Segmenter) -> None:
    adapter = read_adapter(folder)
    sample = torch.zeros_like(adapter.sample).int()
    save_adapter(folder, adapter.method, adapter.model, sample, adapter.export)
    with pytest.raises(InputError, match="other weights"):
        attach_adapter(segmenter, read_adapter(folder), attach)


def test_an_adapter_of_other_weights_is_refused(folder: Any, other_weights: Segmenter) -> None:
    before = {name: x.clone() for name, x in other_weights.state_dict().items()}
    with pytest.raises(InputError, match="other weights"):
        attach_adapter(other_weights, read_adapter(folder), attach)
    assert all(torch.equal(x, before[name]) for name, x in other_weights.state_dict().items())


def test_weights_kept_in_bfloat16_are_the_same_weights(segmenter: Segmenter, tmp_path: Any) -> None:
    save_adapter(tmp_path, "full", "nano", base_sample(segmenter), Export({}, {}))
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.copy_(parameter.bfloat16().float())
    assert (
        attach_adapter(segmenter, read_adapter(tmp_path), attach_without_router).network
        is segmenter
    )


def test_settings_can_be_changed_on_disk(folder: Any) -> None:
    change_settings(folder, {"thresholds": {"0.500": 0.4}})
    export = read_adapter(folder).export
    assert export.settings["thresholds"] == {"0.500": 0.4} and export.settings["budget"] == 0.5


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "adapter.json").unlink(), "there is no adapter at"),
        (lambda f: (f / "adapter.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "adapter.json").write_text('{"format": 1}'), "has no method"),
        (lambda f: (f / "adapter.safetensors").unlink(), "no checkpoint at"),
        (lambda f: (f / "adapter.safetensors").write_bytes(b"no"), "is neither a PyTorch"),
        (
            lambda f: (f / "adapter.json").write_text(
                '{"format": 2, "method": "rds", "model": "nano", "settings": {}}'
            ),
            "method 'rds' in format 2; this version reads format 1",
        ),
    ],
    ids=["gone", "cut", "empty", "no tensors", "damaged", "newer"],
)
def test_damaged_adapters_are_refused(folder: Any, harm: Any, message: str) -> None:
    harm(folder)
    with pytest.raises(InputError, match=message) as caught:
        read_adapter(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_adapter(tmp_path: Any) -> None:
    with pytest.raises(InputError, match="adapter .*nothing"):
        find_adapter(tmp_path / "nothing")


def test_a_router_that_does_not_fit(
    folder: Any, segmenter: Segmenter, other_model: Segmenter
) -> None:
    adapter = read_adapter(folder)
    settings = dict(adapter.export.settings)
    settings["router"] = {**settings["router"], "always_on": [0, 9]}
    base = Segmenter(segmenter.config)
    with pytest.raises(InputError, match="own adapter"):
        attach(base, Export(settings, adapter.export.tensors))
    kept = {k: v for k, v in adapter.export.tensors.items() if k != "router.head.bias"}
    with pytest.raises(InputError, match="router is incomplete"):
        attach(base, Export(adapter.export.settings, kept))
