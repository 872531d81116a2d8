"""The methods that `speed.py` times, at a ratio, on random weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tempomask.baselines.adavit import AdaViT
from tempomask.baselines.dyt import DyT
from tempomask.baselines.gates import fit_threshold
from tempomask.baselines.pruning import (
    block_widths,
    choose_bottlenecks,
    choose_embedding,
    everything,
    group_importances,
    is_rotary,
    prune,
)
from tempomask.baselines.static import static_blocks
from tempomask.errors import InputError
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.routing.options import Routing
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import recurrent_policy
from tempomask.routing.static import StaticPlan

METHODS = ("rds", "static-a", "static-b", "slim", "adavit", "dyt")


@dataclass
class Candidate:
    """One method at one ratio.

    routers: modules whose time is routing. times: of each round the medians, in seconds: of a
    frame, of the encoder in it, of the routers in that. ran: of each timed frame, bool (L,), which
    blocks.
    """

    method: str
    budget: float
    segmenter: Segmenter
    policy: Policy | None
    routers: list[nn.Module] = field(default_factory=list)
    times: list[tuple[float, float, float]] = field(default_factory=list)
    ran: list[list[bool]] = field(default_factory=list)


def build(method: str, budget: float, base: Segmenter, image: Tensor) -> Candidate | None:
    """A method at a ratio on random weights; None where it cannot be so cheap.

    image: (1, 3, S, S), on which the thresholds of gates are set to the ratio.
    """
    encoder, device = base.encoder, image.device
    try:
        if method.startswith("static-"):  # PBD and the plans: no routing at all
            plan = StaticPlan(
                static_blocks(encoder, "a" if method == "static-a" else "b", budget), encoder
            )
            return Candidate(method, budget, base, plan)
        if method == "rds":
            router = PredictiveRouter(RouterConfig.for_encoder(encoder)).to(device).eval()
            nn.init.normal_(router.head.weight, std=1.0)
            policy = recurrent_policy(router, Routing(budget), budget, {})
            return Candidate(method, budget, base, policy, [router])
        if method == "slim":
            return Candidate(method, budget, slimmed(base, budget), None)
        gated = AdaViT(encoder, budget) if method == "adavit" else DyT(encoder, budget)
        gated = gated.to(device).eval()
        for gate in gated.gates.parameters():
            nn.init.normal_(gate, std=0.5)
        share = gated.share_of_gates(budget) if isinstance(gated, AdaViT) else budget
        fit_threshold(gated, encoder, image, share)
        return Candidate(method, budget, base, gated, list(gated.gates.children()))
    except InputError:
        return None


def slimmed(base: Segmenter, budget: float) -> Segmenter:
    """SlimSAM's network; which random channels go does not matter to its speed."""
    weights = {n: torch.rand_like(p) for n, p in base.named_parameters()}
    found = group_importances(base, weights)
    embedding = choose_embedding(found.embedding, budget**0.5)
    ratio = min(1.0, budget * len(found.embedding[0]) / len(embedding[0]))
    rotary = is_rotary(base.encoder.blocks[0])
    kept = choose_bottlenecks(found, block_widths(base), ratio, rotary)
    return prune(prune(base, embedding, everything(base)[1]), everything_of(base, embedding), kept)


def everything_of(base: Segmenter, embedding: list[Tensor]) -> list[Tensor]:
    """All channels that an embedding pruning has left."""
    return [torch.arange(len(channels)) for channels in embedding]
