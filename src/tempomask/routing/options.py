"""What a user may ask of routing, as one frozen dataclass: `Routing`; names of its settings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from tempomask.errors import InputError, check_choice, check_share

RuleName = Literal["top-k", "threshold", "calibrated", "stochastic"]
# What a router sees, how its logits become weights, and how plans are drawn in training.
RouterInputs = Literal["both", "mask", "image"]
WeightsForm = Literal["free", "paper"]
Draws = Literal["exact", "bernoulli"]


@dataclass(frozen=True)
class Routing:
    """What runs on a frame: which encoder blocks, and how much of the memory attention.

    The defaults leave the blocks to the model's adapter, and let all tokens attend to memories.

    `Model.track`, `Model.session` and `evaluate` take one as `routing=`; a number there is short
    for a budget.

    Args:
        budget: Share of the encoder's blocks that may run, above 0 and at most 1. None: the share
            that the adapter was trained for.
        rule: "top-k" holds the budget on every frame. "threshold" runs blocks whose weight reaches
            `threshold`. "calibrated" uses the threshold that `tempomask calibrate` found.
            "stochastic" draws blocks with the probability of their weight.
        threshold: For the rule "threshold", from 0 to 1. None: the paper's 0.5.
        seed: Of the draws of the rule "stochastic". None: 0.
        adaptive: Hard frames get more blocks and easy ones fewer; the mean stays at the budget.
            Only with "top-k", as the other rules do not hold what a frame is given.
        fps: Choose the budget frame by frame so that this many frames come a second; in place of
            `budget` and `adaptive`.
        count_waiting: Whether `fps` counts the time between frames, such as reading and writing.
            None: where frames need not be waited for, as in a file.
        router: "auto" is the adapter's, or none without an adapter; "none" runs all blocks; "rds"
            and other methods' names ask for an adapter of that method; "plan-a" and "plan-b" are
            fixed choices for SAM 2's large encoder.
        memory_budget: Share of a frame's tokens that may attend to the memories of an object, above
            0 and at most 1: those near its last mask, and a coarse grid (`routing/memory.py`). 1 is
            exact. Works with any segmenter, without an adapter.

    Raises:
        InputError: For an unknown rule, and for values that do not go together.

    Example:
        >>> Routing(0.6, adaptive=True).budget
        0.6
    """

    budget: float | None = None
    rule: RuleName = "top-k"
    threshold: float | None = None
    seed: int | None = None
    adaptive: bool = False
    fps: float | None = None
    count_waiting: bool | None = None
    router: str = "auto"
    memory_budget: float = 1.0

    def __post_init__(self) -> None:
        check_share("memory_budget", self.memory_budget)
        if self.budget is not None:
            check_share("budget", self.budget)
        if self.fps is not None and not self.fps > 0:
            raise InputError(f"fps must be frames a second, above 0, got {self.fps:g}")
        check_choice("rule", self.rule, RuleName)
        for name, value, rule in (
            ("threshold", self.threshold, "threshold"),
            ("seed", self.seed, "stochastic"),
        ):
            if value is not None and self.rule != rule:
                raise InputError(
                    f"a {name} is for the rule {rule}, not for {self.rule}; leave it out, or choose"
                    " that rule"
                )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold must lie between 0 and 1, got {self.threshold:g}")
        if self.fps is not None and (self.budget is not None or self.adaptive):
            raise InputError("fps chooses the budget itself; leave budget and adaptive out")
        if self.rule == "calibrated" and (self.fps is not None or self.adaptive):
            raise InputError(
                'a calibrated threshold holds for one budget; with fps or adaptive use rule="top-k"'
            )
        if self.adaptive and self.rule != "top-k":
            raise InputError(
                f'the rule {self.rule} does not hold a budget; with adaptive use rule="top-k"'
            )

    @classmethod
    def of(cls, routing: Routing | float | None) -> Routing:
        """What stands for a routing as one: a budget, or None; InputError for anything else."""
        if routing is None:
            return cls()
        if isinstance(routing, int | float) and not isinstance(routing, bool):
            return cls(budget=float(routing))
        if isinstance(routing, Routing):
            return routing
        raise InputError(f"routing must be a budget, a Routing or a policy, got {routing!r}")

    def settings(self) -> dict[str, Any]:
        """The fields that are not at their defaults, as summaries and journals name them."""
        known = fields(Routing)
        changed = {f.name: v for f in known if (v := getattr(self, f.name)) != f.default}
        if "seed" in changed:
            changed["routing_seed"] = changed.pop("seed")
        return changed
