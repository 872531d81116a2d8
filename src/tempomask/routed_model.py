"""What every model of the front doors is: a routed network on a device, and its adapter."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from tempomask.errors import InputError
from tempomask.models.encoder import Policy, RoutedNetwork
from tempomask.models.segmenter import as_segmenter
from tempomask.routing.options import Routing
from tempomask.routing.static import STATIC_PLANS, StaticPlan, static_plan

if TYPE_CHECKING:
    from tempomask.adaptation.method import LoadedAdapter

# What stands for a routing: one itself, a budget, or a policy; None leaves it to the adapter.
RoutingChoice = Routing | float | Policy | None


class RoutedModel:
    """A network on a device, with the adapter that came with it: what all models share.

    Args:
        network: With a routed encoder.
        dtype: Of the computation, by autocast.
        adapter: What was loaded with it, if anything.
    """

    def __init__(
        self, network: RoutedNetwork, dtype: torch.dtype, adapter: LoadedAdapter | None
    ) -> None:
        self.network = network.eval()
        self.dtype = dtype
        self.adapter = adapter

    @property
    def name(self) -> str:
        """Of the configuration, as `load` takes it."""
        return self.network.name

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def image_size(self) -> int:
        """Side of the square that the network sees, in pixels; of a propagator, the short side."""
        raise TypeError(f"{type(self).__name__} must implement image_size")

    @property
    def pooling(self) -> str | None:
        """How its memories are pooled; None where they are not, or where there are none."""
        return None

    def __repr__(self) -> str:
        kind, dtype = type(self).__name__, str(self.dtype).removeprefix("torch.")
        size, device = self.image_size, self.device
        return f"{kind}({self.name!r}, image_size={size}, device='{device}', dtype={dtype})"

    def policy(
        self, routing: RoutingChoice = None, *, count_waiting: bool | None = None
    ) -> Policy | None:
        """Which encoder blocks run, as the network takes it.

        Args:
            routing: Same as in `Model.track`.
            count_waiting: For a `Routing` that leaves it open.

        Returns:
            The policy; None where all blocks run.

        Raises:
            InputError: For a router that is not there, a budget that it cannot keep, and for a
                budget, rule or fps where no router could follow it.
        """
        if isinstance(routing, Policy):
            return routing
        asked = Routing.of(routing)
        if asked.count_waiting is None:
            asked = replace(asked, count_waiting=count_waiting)
        if asked.memory_budget == 1:
            return self._block_policy(asked)
        encoder = as_segmenter(self.network).encoder
        policy = self._block_policy(replace(asked, memory_budget=1.0))
        # A copy, as an adapter may give the same policy to several.
        policy = copy(policy) if policy else StaticPlan(range(encoder.num_blocks), encoder)
        policy.memory_budget = asked.memory_budget
        return policy

    def _block_policy(self, asked: Routing) -> Policy | None:
        """Which encoder blocks run; None for all."""
        adapter, router = self.adapter, asked.router
        if adapter is not None and adapter.make_policy and router in ("auto", adapter.method):
            return adapter.make_policy(asked)
        from tempomask.baselines.methods import METHODS

        if router not in (known := ("auto", "none", *METHODS, *STATIC_PLANS)):
            raise InputError(f"unknown router {router!r}; use {', '.join(known)}")
        if replace(asked, router="auto", count_waiting=None).settings():
            if router == "none":
                raise InputError(
                    "router none runs all blocks, so that a budget, a rule and fps mean nothing;"
                    " leave them out, or the router"
                )
            raise InputError(
                "a budget, a rule and fps need a router: load the model with an adapter, as"
                " tempomask adapt makes them (nano-rds comes with the package, for nano)"
            )
        if router in STATIC_PLANS:
            return static_plan(router, self.network.encoder)
        if router in ("auto", "none") or (adapter is not None and router == adapter.method):
            return None
        has = "no adapter" if adapter is None else f"an adapter of {adapter.method}"
        raise InputError(
            f"router {router!r} needs an adapter of that method, and the model has {has}; use auto,"
            f" none, {', '.join(STATIC_PLANS)}, or load it with adapter=..."
        )
