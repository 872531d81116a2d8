"""Memory routing: which tokens of a frame attend to the memories of an object.

RDS asks the last frame which encoder blocks this one needs; here the last frame says where. The
tokens nearest to the outline of the object's last mask, which is also moved on as it moved before,
attend to the memories, and so do those of a coarse grid, which see an object that turns up
elsewhere. Every other token takes the result of the nearest of these.

All tokens attend on an object's first frames, after frames on which it was lost or not found
surely, and as often as the budget pays for it: a routed frame leaves a share of it for that.

N objects, h x w the stride-16 grid, k tokens that attend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tempomask.errors import check_share
from tempomask.models.memory_attention import TokenChoice
from tempomask.ops.transfer import to_device

# The share of the budget that a routed frame leaves for frames on which all tokens attend.
SAVED = 1 / 8
# The share of the tokens that attend which may be the grid's.
GRID = 0.15
# How much nearer a token inside the mask counts than one outside, at the same distance.
INSIDE = 0.25
# A frame is unsure below these shares of the object's running means, which follow at this rate.
SURE_IOU, SURE_SCORE, RATE = 0.9, 0.5, 0.1


@dataclass(frozen=True)
class Focus:
    """How the tokens of one object are chosen on one frame, and what the next frame needs of it.

    Attributes:
        centre: Row and column of the middle of the last mask, in tokens; None of one that is lost.
        shift: How far the middle has moved since the mask before; None where that is unknown.
        iou: Running mean of the predicted IoU since the last prompt or loss; 0 before it.
        score: The same of the object score, a logit.
        saved: Budget that is left over from the frames so far, in frames; negative if overdrawn.
        routed: Whether some of the tokens attend, not all.
        tokens: Those that do then, (k,) and (hw,).
    """

    centre: tuple[float, float] | None
    shift: tuple[float, float] | None
    iou: float
    score: float
    saved: float = 0.0
    routed: bool = False
    tokens: TokenChoice | None = None

    def fits(self) -> bool:
        """Whether all numbers are finite, as after reading them."""
        numbers = (*(self.centre or ()), *(self.shift or ()), self.iou, self.score, self.saved)
        return all(map(math.isfinite, numbers))


def together(members: Sequence[Focus | None]) -> TokenChoice | None:
    """The tokens of objects of which all are routed; None where none is."""
    tokens = [focus.tokens for focus in members if focus is not None and focus.tokens is not None]
    return TokenChoice(*map(torch.stack, zip(*tokens, strict=True))) if tokens else None


class MemoryRouter:
    """Chooses tokens so that objects stay within a budget on every routed frame and on the mean.

    A frame without a motion that is known, as after a prompt or a loss, is not counted: all tokens
    attend, as all blocks run in RDS on a frame without a mask before it. Others may overdraw the
    mean by one whole frame.

    Args:
        budget: Share of the tokens that may attend, above 0 and at most 1.
        grid: h and w.

    Raises:
        InputError: For a budget that is not a share.
    """

    def __init__(self, budget: float, grid: tuple[int, int]) -> None:
        check_share("memory_budget", budget)
        self.budget, self.grid = budget, grid
        tokens = grid[0] * grid[1]
        self.count = max(1, math.floor(budget * (1 - SAVED) * tokens))
        self.step = math.ceil(math.sqrt(tokens / max(1.0, GRID * self.count)))

    def route(
        self, earlier: Sequence[Focus | None], masks: Tensor, scores: Tensor, ious: Tensor
    ) -> list[Focus]:
        """Which tokens attend on a frame, by the frame before it; the host waits for its results.

        Args:
            earlier: Of each object on the frame before; None where it was not tracked there.
            masks: (N, 4h, 4w) logits of that frame.
            scores: (N,) object scores, logits.
            ious: (N,) predicted IoU.
        """
        seen = _on_grid(masks, self.grid)
        area = seen.flatten(1).sum(dim=1)
        axes = [torch.arange(side, device=seen.device).float() for side in self.grid]
        middle = [(seen.sum(dim=2 - i) * axis).sum(dim=1) / area for i, axis in enumerate(axes)]
        # NaN is the middle of an empty mask.
        table = torch.stack([scores, ious, *middle], dim=1).tolist()
        found = [self._next(focus, *row) for focus, row in zip(earlier, table, strict=True)]
        shifts = {i: f.shift for i, f in enumerate(found) if f.routed and f.shift is not None}
        if shifts:
            chosen = self.choose(masks[list(shifts)], list(shifts.values()))
            for i, *tokens in zip(shifts, *chosen, strict=True):
                found[i] = replace(found[i], tokens=TokenChoice(*tokens))
        return found

    def _next(self, earlier: Focus | None, score: float, iou: float, y: float, x: float) -> Focus:
        centre = None if score <= 0 or math.isnan(y) else (y, x)
        if earlier is None:
            # What a prompted frame says of itself is no measure for others.
            return Focus(centre, None, 0.0, 0.0)
        rate = 1.0 if earlier.shift is None else RATE
        mean_iou = earlier.iou + rate * (iou - earlier.iou)
        mean_score = earlier.score + rate * (score - earlier.score)
        if centre is None or earlier.centre is None:
            return Focus(centre, None, mean_iou, mean_score, earlier.saved)
        shift = centre[0] - earlier.centre[0], centre[1] - earlier.centre[1]
        unsure = iou < SURE_IOU * earlier.iou or score < SURE_SCORE * earlier.score
        routed = earlier.saved < 1 - self.budget and not (unsure and earlier.saved >= 0)
        share = self.count / math.prod(self.grid) if routed else 1.0
        saved = earlier.saved + self.budget - share
        return Focus(centre, shift, mean_iou, mean_score, saved, routed)

    def choose(self, masks: Tensor, shifts: Sequence[tuple[float, float]]) -> TokenChoice:
        """The tokens of N objects with masks (N, 4h, 4w), logits, that have moved by shifts."""
        seen = _on_grid(masks, self.grid) > 0
        seen = seen | _moved(seen, shifts)
        outside, inside = _nearest(seen)[0], _nearest(~seen)[0]
        order = torch.where(seen, INSIDE * inside, outside).flatten(1)
        order[:, _coarse(self.grid, self.step, masks.device)] = -1.0
        tokens = order.argsort(dim=1, stable=True)[:, : self.count].sort(dim=1).values
        attends = torch.zeros_like(order, dtype=torch.bool).scatter_(1, tokens, True)
        place = attends.cumsum(dim=1) - 1
        nearest = _nearest(attends.unflatten(1, self.grid))[1].flatten(1)
        return TokenChoice(tokens, place.gather(1, nearest))


def _on_grid(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """1 for the tokens (N, h, w) of which the mask covers anything, 0 for others."""
    return torch.nn.functional.adaptive_max_pool2d((masks > 0).float(), grid)


def _moved(seen: Tensor, shifts: Sequence[tuple[float, float]]) -> Tensor:
    """seen (N, h, w), each moved by whole tokens."""
    shift = to_device([[round(y), round(x)] for y, x in shifts], seen.device)
    height, width = seen.shape[1:]
    rows = torch.arange(height, device=seen.device) - shift[:, :1]
    columns = torch.arange(width, device=seen.device) - shift[:, 1:]
    objects = torch.arange(len(seen), device=seen.device)[:, None, None]
    moved = seen[
        objects, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
    ]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None
    ]
    return moved & inside


def _nearest(marked: Tensor) -> tuple[Tensor, Tensor]:
    """Of each token the nearest one marked in (N, h, w): how far it is, and which, (N, h, w) each.

    Far beyond the grid where none is marked. First along rows, then along columns.
    """
    height, width = (torch.arange(side, device=marked.device).float() for side in marked.shape[1:])
    far = float(marked.shape[1] + marked.shape[2]) ** 2
    along = torch.where(marked, 0.0, far)[:, :, None] + (width[:, None] - width).square()
    in_row, column = along.min(dim=3)
    down = in_row[:, None] + (height[:, None] - height).square()[..., None]
    squared, row = down.min(dim=2)
    return squared.sqrt(), row * marked.shape[2] + column.gather(1, row)


def _coarse(grid: tuple[int, int], step: int, device: torch.device) -> Tensor:
    """The tokens of the coarse grid: of each cell the middle one."""
    rows, columns = (
        (torch.arange(0, side, step, device=device) + step // 2).clamp(max=side - 1)
        for side in grid
    )
    return (rows[:, None] * grid[1] + columns).flatten()
