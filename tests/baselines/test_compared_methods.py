"""PBD, static plans, AdaViT, DyT and SlimSAM under the loop's contract, on a toy segmenter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tempomask.adaptation.adapter_file import Adapter
from tempomask.adaptation.method import Attach, ClipOutputs, Export, Method
from tempomask.adaptation.options import AdapterConfig, RDSConfig
from tempomask.baselines import adavit, dyt, slimsam, static
from tempomask.baselines.adavit import AdaViTMethod
from tempomask.baselines.alignment import (
    Aligned,
    aligned,
    box_giou_loss,
    feature_error,
    mask_divergence,
    prediction_alignment,
)
from tempomask.baselines.dyt import DyTMethod
from tempomask.baselines.gates import Decisions, GatedPolicy
from tempomask.baselines.methods import METHODS, attach_of, build_method
from tempomask.baselines.pbd import PBD, least_harmful
from tempomask.baselines.settings import (
    AdaViTConfig,
    AlignmentConfig,
    BaselineConfig,
    DyTConfig,
    PBDConfig,
    SlimConfig,
)
from tempomask.baselines.slimsam import SlimSAM
from tempomask.baselines.static import Static, static_blocks
from tempomask.errors import InputError
from tempomask.models.config import (
    HIERA_SIZES,
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
)
from tempomask.models.encoder import Encoder, Policy, RoutedNetwork
from tempomask.models.hiera import Hiera
from tempomask.models.segmenter import Segmenter
from tempomask.routing.budget import block_count
from tempomask.routing.options import Routing
from tempomask.routing.static import PLAN_A, PLAN_B, StaticPlan
from tempomask.training.losses import LossWeights
from tempomask.training.prompts import PromptSampling
from tempomask.training.unroll import ClipModel

pytest.importorskip("peft")
SIDE, DEPTH = 64, 6
BLOCKS = torch.ones(2, 3, DEPTH, dtype=torch.bool)


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    made = Segmenter(
        SegmenterConfig(
            name="nano",
            encoder=HybridConfig(dim=32, num_heads=2, depth=DEPTH),
            image_size=SIDE,
            hidden_dim=32,
            memory_dim=16,
            memory_attention=MemoryAttentionConfig(layers=1, feedforward_dim=16),
            mask_decoder=MaskDecoderConfig(num_heads=2, feedforward_dim=16, iou_hidden_dim=16),
        )
    )
    return made.eval()


class ToyMeasure:
    """Every block is worth something of its own, and two of them more together."""

    WORTH = (0.0, 0.30, 0.05, 0.20, 0.02, 0.10)

    def __init__(self) -> None:
        self.calls = 0

    def score(self, segmenter: Segmenter, policy: Policy | None = None) -> float:
        self.calls += 1
        keep = [True] * DEPTH if policy is None else list(policy.keep)
        score = sum(worth for worth, kept in zip(self.WORTH, keep, strict=True) if kept)
        # Blocks 2 and 4 stand in for each other: the second to go costs much.
        return score + (0.5 if keep[2] or keep[4] else 0.0)

    def images(self, count: int) -> Tensor:
        return torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))[:count]


VIEW = AdapterConfig(blocks=3)
SHORT = SlimConfig(images=2, tune_share=0.25)
CASES: dict[str, tuple[Callable[[], Method], Attach]] = {
    "pbd": (lambda: PBD(0.5, PBDConfig(), AdapterConfig()), static.attach),
    "pbd-slowly": (lambda: PBD(0.5, PBDConfig(recovery=1), AdapterConfig()), static.attach),
    "pbd-last": (lambda: Static("pbd-last", 0.5, AdapterConfig(), "last"), static.attach),
    "static-a": (lambda: Static("static-a", 0.5, AdapterConfig(), "a"), static.attach),
    "static-b": (lambda: Static("static-b", 0.5, AdapterConfig(), "b"), static.attach),
    "adavit": (lambda: AdaViTMethod(0.5, AdaViTConfig(), VIEW), adavit.attach),
    "dyt": (lambda: DyTMethod(0.5, DyTConfig(), VIEW), dyt.attach),
    "slim": (lambda: SlimSAM(0.5, SHORT, 4), slimsam.attach),
    "slim-paper": (lambda: SlimSAM(0.5, SHORT, 4, staged=True), slimsam.attach),
    "aligned": (
        lambda: Aligned(Static("static-a", 0.5, VIEW, "a"), AlignmentConfig(1.0, 1.0)),
        static.attach,
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Callable[[], Method], Attach]:
    return CASES[request.param]


def clips(step: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    frames = torch.randint(0, 255, (2, 3, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
    masks = torch.zeros(2, 3, SIDE, SIDE)
    masks[:, :, 10 + step : 40, 20:50] = 1.0
    return frames, masks, torch.arange(2)


class Run:
    """The adaptation loop in small: one optimiser step after another."""

    def __init__(self, method: Method, segmenter: Segmenter, state: Any = None) -> None:
        self.method, self.measure = method, ToyMeasure()
        self.losses: list[float] = []
        self.take(method.prepare(segmenter, self.measure, state))

    def take(self, prepared: Any) -> None:
        self.prepared = prepared
        self.model = ClipModel(
            prepared.network,
            LossWeights(),
            PromptSampling(mask=0.0, box=1.0),
            prepared.policy,
            self.method,
            prepared.task,
        )
        self.optimizer = torch.optim.AdamW(
            [{**group, "params": list(group["params"])} for group in prepared.groups]
        )

    def trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def step(self, step: int) -> float:
        changed = self.method.on_step(step)
        if changed is not None:
            self.take(changed)
        self.model.train()
        if isinstance(self.prepared.policy, nn.Module):
            self.prepared.policy.reseed(step)
        losses = self.model(*clips(step), step, 0.0, step)
        self.extra = losses.extra.item()
        self.losses.append(losses.total.item())
        losses.total.backward()
        self.optimizer.step()
        self.silent = [name for name, p in self.trained().items() if p.grad is None]
        self.optimizer.zero_grad()
        return losses.total.item()


def logits(segmenter: Segmenter, policy: Policy | None) -> Tensor:
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return segmenter.eval().encode(image, policy).features


def test_what_is_exported_does_what_was_trained(
    case: tuple[Callable[[], Method], Attach], segmenter: Segmenter
) -> None:
    base = deepcopy(segmenter)
    run = Run(case[0](), segmenter)
    before = logits(run.prepared.network, None)
    for step in range(4):
        assert run.step(step) < 1e4
    export = run.method.export()
    policy = run.prepared.policy
    if isinstance(policy, nn.Module):
        policy.eval()
    wanted = logits(run.prepared.network, policy)
    assert before.shape != wanted.shape or not torch.allclose(wanted, before)
    attached = case[1](deepcopy(base), export)
    again = None if attached.make_policy is None else attached.make_policy(Routing())
    assert torch.allclose(logits(attached.network, again), wanted, atol=1e-4)
    assert export.settings["budget"] == 0.5


def test_a_resumed_run_is_the_uninterrupted_one(
    case: tuple[Callable[[], Method], Attach], segmenter: Segmenter
) -> None:
    """Stopped before each of the last two steps: SlimSAM's second pruning, and after it."""
    whole, saved = Run(case[0](), deepcopy(segmenter)), {}
    for step in range(4):
        trained = {name: p.detach().clone() for name, p in whole.trained().items()}
        saved[step] = (whole.method.state(), deepcopy(whole.optimizer.state_dict()), trained)
        whole.step(step)
    for stop in (2, 3):
        state, optimizer, trained = saved[stop]
        resumed = Run(case[0](), deepcopy(segmenter), state)
        assert resumed.measure.calls == 0
        assert list(resumed.trained()) == list(trained)
        with torch.no_grad():
            for name, parameter in resumed.trained().items():
                parameter.copy_(trained[name])
        resumed.optimizer.load_state_dict(optimizer)
        for step in range(stop, 4):
            resumed.step(step)
        for name, parameter in whole.trained().items():
            assert torch.allclose(parameter, resumed.trained()[name], atol=1e-6), name


def test_gradients_reach_what_is_trained_and_nothing_else(
    case: tuple[Callable[[], Method], Attach], segmenter: Segmenter
) -> None:
    run = Run(case[0](), segmenter)
    frozen = {n: p.clone() for n, p in run.model.named_parameters() if not p.requires_grad}
    run.step(0)
    gates = [n for n in run.trained() if "gates" in n or "adapters" in n]
    assert not set(gates) & set(run.silent)
    unused = ("mask_decoder", "prompt_encoder", "memory_", "no_", "occlusion", "mask_prompt")
    if not run.prepared.task:  # the fine maps serve masks alone
        unused += ("neck.laterals.0", "neck.laterals.1")
    silent = [n for n in run.silent if not any(word in n for word in unused)]
    assert not silent or run.method.name == "pbd", silent
    for name, parameter in run.model.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name]), name


def test_adapters_that_cannot_change_their_budget_say_so(
    case: tuple[Callable[[], Method], Attach], segmenter: Segmenter
) -> None:
    base = deepcopy(segmenter)
    run = Run(case[0](), segmenter)
    attached = case[1](base, run.method.export())
    if attached.make_policy is None:
        return
    attached.make_policy(Routing(budget=0.5))
    for routing in (Routing(budget=0.7), Routing(fps=25.0)):
        with pytest.raises(InputError, match=r"0\.5"):
            attached.make_policy(routing)
    with pytest.raises(InputError, match="'stochastic'"):
        attached.make_policy(Routing(rule="stochastic"))


def test_damaged_settings_are_named(
    case: tuple[Callable[[], Method], Attach], segmenter: Segmenter
) -> None:
    base = deepcopy(segmenter)
    export = Run(case[0](), segmenter).method.export()
    if "kept_blocks" in export.settings:
        damaged, name = {**export.settings, "kept_blocks": 3}, "kept_blocks"
    elif "config" in export.settings:
        return  # SlimSAM has no settings but its network
    else:
        damaged, name = {**export.settings, "budget": "some"}, "budget"
    with pytest.raises(InputError, match=f"'{name}'"):
        case[1](base, Export(damaged, export.tensors))


def test_pbd_drops_the_least_harmful_blocks_as_brute_force_does(segmenter: Segmenter) -> None:
    run = Run(PBD(0.5, PBDConfig(), AdapterConfig()), segmenter)
    measure = ToyMeasure()

    def score(kept: tuple[int, ...]) -> float:
        return measure.score(segmenter, StaticPlan(kept, segmenter.encoder))

    # Each drop is the best of all single drops from where it stands ...
    kept = tuple(range(DEPTH))
    for index in run.method.state()["dropped"]:
        rests = [tuple(i for i in kept if i != j) for j in kept]
        chosen = tuple(i for i in kept if i != index)
        assert score(chosen) == max(map(score, rests))
        kept = chosen
    # ... and here, where 2 and 4 stand in for each other, also the best of all subsets.
    assert score(kept) == max(map(score, combinations(range(DEPTH), 3)))
    assert set(kept) != {1, 3, 5}, "harm measured once, before any drop, would choose these"


def test_pbd_measures_between_drops(segmenter: Segmenter) -> None:
    run = Run(PBD(0.5, PBDConfig(recovery=2), AdapterConfig()), segmenter)
    counts = []
    for step in range(6):
        run.step(step)
        counts.append(len(run.method.state()["dropped"]))
    assert counts == [1, 1, 2, 2, 3, 3]
    assert run.prepared.policy is not None
    assert run.method.export().settings["kept_blocks"] == sorted(
        set(range(DEPTH)) - set(run.method.state()["dropped"])
    )


def test_pbd_refuses_a_budget_without_blocks(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="0.334"):
        PBD(0.05, PBDConfig(), AdapterConfig()).prepare(segmenter, ToyMeasure())


def test_blocks_that_change_the_shape_are_never_dropped() -> None:
    assert least_harmful(lambda kept: 0.0, [0, 1, 2], [1, 2]) == 0
    with pytest.raises(InputError, match="no block is left to drop"):
        least_harmful(lambda kept: 0.0, [1, 2], [1, 2])


def test_static_plans_are_the_published_ones_where_they_fit() -> None:
    with torch.device("meta"):
        large = Hiera(HIERA_SIZES["large"])
        tiny = Hiera(HIERA_SIZES["tiny"])
    assert static_blocks(large, "a", 0.5) == list(PLAN_A)
    assert static_blocks(large, "b", 0.5) == list(PLAN_B)
    for encoder in (large, tiny):
        for budget in (0.6, 0.75, 1.0):
            a, b = (static_blocks(encoder, plan, budget) for plan in ("a", "b"))
            assert len(a) == len(b) == block_count(budget, encoder.num_blocks)
            assert set(a) >= {0, encoder.num_blocks - 1, *encoder.required_blocks} <= set(b)
            assert (a == b) == (budget == 1.0)
    with pytest.raises(InputError, match="smallest budget"):
        static_blocks(tiny, "a", 0.2)


def test_the_last_blocks_go_but_for_those_that_begin_a_stage(segmenter: Segmenter) -> None:
    """The PBD of the RDS paper: 24 of SAM 2's 48 blocks; nano has no block that must stay."""
    with torch.device("meta"):
        large = Hiera(HIERA_SIZES["large"])
    assert static_blocks(large, "last", 0.5) == [*range(23), 44]
    assert static_blocks(large, "last", 3 / 48) == [2, 8, 44]
    assert static_blocks(segmenter.encoder, "last", 0.5) == [0, 1, 2]
    with pytest.raises(InputError, match=r"0\.063"):
        static_blocks(large, "last", 2 / 48)


def test_slimsam_in_the_stages_of_the_paper(segmenter: Segmenter) -> None:
    """Distillation of encoder and neck alone, at 1e-4; then the task, at 3e-6 and 5e-6."""
    run = Run(SlimSAM(0.5, SHORT, 4, staged=True), segmenter)
    rates, tasks, extras, heads = [], [], [], []
    for step in range(4):
        run.step(step)
        rates.append([group["lr"] for group in run.prepared.groups])
        tasks.append(run.prepared.task)
        extras.append(run.extra)
        heads.append(any("mask_decoder" in name for name in run.trained()))
    assert rates == [[1e-4]] * 3 + [[3e-6, 5e-6]]
    assert tasks == heads == [False, False, False, True]
    assert all(extra > 0 for extra in extras[:3]) and extras[3] == 0
    # While it aligns nothing of the task is in the loss.
    assert run.losses[:3] == pytest.approx(extras[:3]) and run.losses[3] > 1


def test_slimsam_of_ours_has_the_task_throughout_and_no_distillation_after_its_steps(
    segmenter: Segmenter,
) -> None:
    run = Run(SlimSAM(0.5, SlimConfig(images=2), 6), segmenter)
    extras = [run.step(step) and run.extra for step in range(6)]
    assert [extra > 0 for extra in extras] == [True, False, False, False, False, False]
    assert all(loss > extra + 1 for loss, extra in zip(run.losses, extras, strict=True))


def test_slimsam_gets_narrower_twice(segmenter: Segmenter) -> None:
    widths = []
    run = Run(SlimSAM(0.5, SHORT, 4), segmenter)
    for step in range(4):
        run.step(step)
        slim = run.prepared.network
        attention = sum(block.output.in_features for block in slim.encoder.blocks)
        mlp = sum(block.expand.out_features for block in slim.encoder.blocks)
        widths.append((slim.config.encoder.dim, attention, mlp))
    assert widths[0] == widths[1] == (24, 32 * DEPTH, 128 * DEPTH)
    assert widths[2] == widths[3]
    assert widths[2][0] == 24 and widths[2][1] < 32 * DEPTH and widths[2][2] < 128 * DEPTH


def test_pruned_widths_in_the_configuration_of_earlier_versions_are_read_over(
    segmenter: Segmenter,
) -> None:
    base = deepcopy(segmenter)
    run = Run(SlimSAM(0.5, SHORT, 2), segmenter)
    run.step(0)
    run.step(1)
    export = run.method.export()
    config = json.loads(export.settings["config"])
    config["encoder"] |= {"head_dims": [8] * DEPTH, "mlp_dims": [64] * DEPTH}
    before = Export({**export.settings, "config": json.dumps(config)}, export.tensors)
    found = [logits(slimsam.attach(base, x).network, None) for x in (export, before)]
    assert torch.equal(*found)


def test_hidden_features_count_first_and_less_and_less() -> None:
    method = SlimSAM(0.6, SlimConfig(), 300)
    weights = [method.hidden_weight(step) for step in range(300)]
    assert weights[:10] == [0.5] * 10 and set(weights[10:150]) == {0.0}
    assert weights[150:160] == pytest.approx([0.9 - 0.1 * n for n in range(10)])
    assert set(weights[160:]) == {0.0}


def test_the_hidden_features_of_both_steps_are_those_of_the_teacher(segmenter: Segmenter) -> None:
    """With nothing pruned the student is the teacher, and no step finds a difference."""
    for step in (0, 2):
        method = SlimSAM(1.0, SlimConfig(images=2, tune_share=1 / 3), 45, staged=True)
        prepared = method.prepare(deepcopy(segmenter), ToyMeasure())
        if step:
            changed = method.on_step(15)
            assert changed is not None
            prepared = changed
        else:
            assert method.on_step(0) is None
        model = ClipModel(
            prepared.network, LossWeights(), PromptSampling(), prepared.policy, method
        )
        assert model(*clips(0), 0, 0.0, 15 if step else 0).extra.item() < 1e-6
        noisy = prepared.network.encoder.blocks[1].expand.weight
        noisy.data.add_(torch.randn_like(noisy))
        method.on_step(16 if step else 1)
        assert model(*clips(0), 0, 0.0, 16 if step else 1).extra.item() > 1e-4


def outputs(logits: Tensor) -> ClipOutputs:
    return ClipOutputs(logits, logits, logits, torch.ones(1), torch.zeros(()))


def test_alignment_is_zero_for_equals_and_grows() -> None:
    torch.manual_seed(0)
    wanted = torch.full((2, 3, 16, 16), -8.0)
    wanted[:, :, 4:10, 5:12] = 8.0
    wanted[1, 2] = -1024.0  # absent
    assert mask_divergence(wanted, wanted).item() == pytest.approx(0, abs=1e-7)
    assert box_giou_loss(wanted, wanted).item() == pytest.approx(0, abs=1e-2)
    assert feature_error(wanted, wanted).item() == 0.0
    shifted, far = wanted.roll(2, -1), wanted.roll(6, -1)
    losses = [prediction_alignment(outputs(x), outputs(wanted)) for x in (wanted, shifted, far)]
    assert losses[0] < losses[1] < losses[2]
    student = shifted.clone().requires_grad_()
    prediction_alignment(outputs(student), outputs(wanted)).backward()
    assert student.grad is not None and student.grad.isfinite().all()
    assert student.grad[:, 1:].any() and not student.grad[:, 0].any()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_aligned_and_none_aligns_by_itself(
    name: str, segmenter: Segmenter
) -> None:
    own = BaselineConfig(slim=SlimConfig(images=2, distillation=0.0))
    method = build_method(name, RDSConfig(0.5, adapters=VIEW), None, 4, own)
    assert aligned(method, AlignmentConfig()) is method
    config = AlignmentConfig(2.0, 3.0)
    method = aligned(method, config)
    teacher = deepcopy(segmenter)
    prepared = method.prepare(segmenter, ToyMeasure())
    method.on_step(0)
    torch.manual_seed(0)
    student, whole = (
        ClipOutputs(
            features=torch.randn(2, 3, 32, 4, 4),
            logits=torch.randn(2, 3, 16, 16),
            targets=clips(0)[1],
            blocks=BLOCKS,
            loss=torch.zeros(()),
        )
        for _ in range(2)
    )
    replayed = []

    def replay(
        other: RoutedNetwork, policy: Policy | None, /, *, gradients: bool = False
    ) -> ClipOutputs:
        replayed.append(other)
        same = other.state_dict()
        assert all(torch.equal(x, same[key]) for key, x in teacher.state_dict().items())
        return whole

    if isinstance(prepared.policy, GatedPolicy):  # as after a pass
        logits = torch.zeros(2, 3, requires_grad=True)
        prepared.policy.train()
        prepared.policy.decide(1, logits)
    loss = method.extra_loss(student, replay, 3)
    assert loss is not None and len(replayed) >= 1
    wanted = 2 * prediction_alignment(student, whole) + 3 * feature_error(
        student.features, whole.features
    )
    if not isinstance(prepared.policy, GatedPolicy):
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    else:
        assert len(replayed) == 1 and loss.item() != pytest.approx(wanted.item(), rel=1e-5)


def decisions(block: int, *drawn: list[float]) -> Decisions:
    values = torch.tensor(drawn)
    return Decisions(block, values, torch.full_like(values, 2.0))


def test_the_usage_loss_of_adavit_by_hand() -> None:
    """Blocks 1 and 2 run for 3/4 and 0 of the images, where half shall: mean 3/8."""
    taken = [decisions(1, [1.0], [0.0]), decisions(2, [0.0], [0.0]), decisions(1, [1.0], [1.0])]
    config = AdaViTConfig(usage=2.0, diversity=0.1, entropy=0.3)
    loss = AdaViTMethod(0.5, config, VIEW).usage_loss(taken, 0.5)
    p = 1 / (1 + math.exp(-2))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    each = (0.25 + 0.5) / 2
    assert loss.item() == pytest.approx(2 * (0.125 + 0.1 * each - 0.3 * entropy), rel=1e-5)


def test_the_usage_loss_of_dyt_by_hand() -> None:
    """Of two images of four tokens, in two blocks: what lacks to one half of an image's tokens."""
    taken = [
        decisions(0, [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]),
        decisions(1, [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]),
    ]
    config = DyTConfig(usage=2.0, minimum=0.5, minimum_weight=0.1)
    loss = DyTMethod(0.5, config, VIEW).usage_loss(taken, 0.6)
    usage = (0.625 + 0.25) / 2
    assert loss.item() == pytest.approx(2 * ((usage - 0.6) ** 2 + 0.1 * (0.25 + 0.5)), rel=1e-5)


@pytest.mark.parametrize(
    ("shift", "giou"),
    [(0, 1.0), (2, 2 / 6), (4, 0.0), (6, -2 / 10)],
)
def test_giou_of_boxes_by_hand(shift: int, giou: float) -> None:
    """Boxes 4 wide and 5 high, one shifted along x."""
    a = torch.full((1, 16, 16), -100.0)
    a[:, 3:8, 2:6] = 100.0
    assert 1 - box_giou_loss(a.roll(shift, -1), a).item() == pytest.approx(giou, abs=2e-3)


def test_divergence_is_that_of_bernoulli_variables() -> None:
    p, q = torch.tensor([0.2, 0.7]), torch.tensor([0.5, 0.4])
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean().item()
    assert mask_divergence(q.logit(), p.logit()).item() == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlimSAM(0.0, SHORT, 4), "budget 0 must be"),
        (lambda: SlimSAM(0.5, SHORT, 1), "two steps of training, got 1"),
        (lambda: SlimConfig(images=0), r"slim\.images must be 1 or more"),
        (lambda: SlimConfig(tune_share=1.0), r"slim\.tune_share must be less than 1, got 1"),
        (lambda: DyTMethod(1.5, DyTConfig(), VIEW), r"budget 1\.5 must be"),
        (lambda: PBDConfig(recovery=-1), r"pbd\.recovery must be 0 or more, got -1"),
        (lambda: AlignmentConfig(float("nan")), r"alignment\.predictions must be 0 or more"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_budget_below_what_must_run_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="smallest budget"):
        AdaViTMethod(0.1, AdaViTConfig(), AdapterConfig()).prepare(segmenter, ToyMeasure())


def test_a_method_of_another_version_is_named() -> None:
    adapter = Adapter(Path("folder"), "magic", "nano", Export({}, {}), torch.zeros(1))
    with pytest.raises(InputError, match="'magic'"):
        attach_of(adapter)


def test_gates_of_another_encoder_are_refused(segmenter: Segmenter) -> None:
    run = Run(DyTMethod(0.5, DyTConfig(), VIEW), deepcopy(segmenter))
    export = run.method.export()
    with torch.device("meta"):
        other: Encoder = Hiera(HIERA_SIZES["tiny"])
    segmenter.encoder = other
    with pytest.raises(InputError, match="do not fit this encoder"):
        dyt.attach(segmenter, export)
