"""SlimSAM: prune the encoder's channels in two steps, each healed by distillation.

arXiv 2312.05284: step 1 prunes embedding channels, and aligns the untouched bottlenecks (queries,
keys and values, hidden layers of MLPs) and the output to the network before pruning; step 2 prunes
the bottlenecks, and aligns the embeddings, which step 1 left comparable, and the output. The weight
of the hidden part is 1/2 in the first fifteenth of step 1 and 0 after it, and falls linearly to 0
over the same share of step 2 (10 of 150 epochs).

Two trainings. `slim-paper` has the stages of the RDS paper (supplement A.2): the two steps by
distillation alone, of encoder and neck, as the release trains them; then the task alone, with all
weights, at 3e-6 for the encoder and 5e-6 for the rest. The release halves its rate when validation
stagnates; here every rate follows the schedule of the run. `slim` is ours, for short runs: the task
counts from the beginning, at 1e-4, and the distillation of each step ends with its hidden part.

Both steps keep the same share of channels, so that the encoder's blocks keep about `budget` of
their multiply-adds. The result is another network, truly smaller, not an adapter on the old one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from tempomask.adaptation.method import (
    ClipOutputs,
    Export,
    LoadedAdapter,
    Measure,
    Method,
    Prepared,
    Replay,
)
from tempomask.baselines.alignment import feature_error
from tempomask.baselines.pruning import (
    Bottleneck,
    Importances,
    block_widths,
    choose_bottlenecks,
    choose_embedding,
    disturbed_importance,
    everything,
    group_importances,
    is_rotary,
    prune,
    stage_of_blocks,
)
from tempomask.baselines.settings import SlimConfig
from tempomask.errors import InputError, check_share
from tempomask.models.config import SegmenterConfig
from tempomask.models.encoder import RoutedNetwork
from tempomask.models.segmenter import Segmenter, as_segmenter
from tempomask.weights.own import config_from_json, config_to_json
from tempomask.weights.pruned import fit_widths

# Hidden features count in this share of a step's training, at first with this weight.
HIDDEN_SHARE, HIDDEN_WEIGHT = 10 / 150, 0.5


class SlimSAM(Method):
    """The two steps.

    Args:
        budget: Share of the blocks' multiply-adds to keep.
        config: Rates, weights and shares.
        steps: Of the whole training.
        seed: Of the disturbance.
        staged: First distillation alone, then the task alone.
    """

    def __init__(
        self, budget: float, config: SlimConfig, steps: int, seed: int = 0, staged: bool = False
    ) -> None:
        check_share("budget", budget)
        self.name = "slim-paper" if staged else "slim"
        self.budget, self.config, self.seed, self.staged = budget, config, seed, staged
        # Steps of the two prunings; after them the second stage.
        self.distilled = steps - int(config.tune_share * steps) if staged else steps
        # The optimiser step before which bottlenecks are pruned.
        self.second_step = self.distilled // 2
        if self.second_step < 1:
            raise InputError(f"SlimSAM prunes in two steps of training, got {steps} in all")

    def prepare(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None = None
    ) -> Prepared:
        segmenter = as_segmenter(network)
        self._teacher = deepcopy(segmenter).eval().requires_grad_(False)
        self._images = measure.images(self.config.images)
        self._bottlenecks: list[Bottleneck] | None = None
        self._tuning = state is not None and state["tuning"]
        if state is None:
            found = self._importances(segmenter)
            self._embedding = choose_embedding(found.embedding, math.sqrt(self.budget))
        else:
            self._embedding = list(state["embedding"])
        slim = prune(segmenter, self._embedding, everything(segmenter)[1])
        if state is not None and state["bottlenecks"] is not None:
            self._bottlenecks = [Bottleneck(*kept) for kept in state["bottlenecks"]]
            slim = prune(slim, everything(slim)[0], self._bottlenecks)
        self._watch(slim)
        return self._prepared()

    def _importances(self, segmenter: Segmenter) -> Importances:
        weights = disturbed_importance(segmenter, self._images, self.seed)
        return group_importances(segmenter, weights)

    def _watch(self, slim: Segmenter) -> None:
        second = self._bottlenecks is not None
        self._slim = slim
        self._student, self._whole = _Hidden(slim, second), _Hidden(self._teacher, second)

    def _prepared(self) -> Prepared:
        """Encoder and neck at one rate, the rest at another, or frozen while only they align."""
        slim, config = self._slim.requires_grad_(True), self.config
        inside = [*slim.encoder.parameters(), *slim.neck.parameters()]
        known = {id(parameter) for parameter in inside}
        rest = [p for p in slim.parameters() if id(p) not in known]
        rates = (config.rate, config.head_rate)
        if self._tuning:
            rates = (config.tune_rate, config.tune_head_rate)
        groups = [{"params": inside, "lr": rates[0], "weight_decay": 0.0}]
        aligning = self.staged and not self._tuning
        if aligning:
            for parameter in rest:
                parameter.requires_grad_(False)
        else:
            groups.append({"params": rest, "lr": rates[1], "weight_decay": 0.0})
        return Prepared(slim, None, groups, task=not aligning)

    def on_step(self, step: int) -> Prepared | None:
        """The second pruning, once, half-way; the second stage, once, after both."""
        prepared = None
        if step >= self.second_step and self._bottlenecks is None:
            self._bottlenecks = self._chosen_bottlenecks()
            self._watch(prune(self._slim, everything(self._slim)[0], self._bottlenecks))
            prepared = self._prepared()
        if step >= self.distilled and not self._tuning:
            self._tuning = True
            prepared = self._prepared()
        self._student.active = self.hidden_weight(step) > 0
        return prepared

    def _chosen_bottlenecks(self) -> list[Bottleneck]:
        whole_width = len(everything(self._teacher)[0][0])
        ratio = min(1.0, self.budget * whole_width / len(self._embedding[0]))
        rotary = is_rotary(self._slim.encoder.blocks[0])
        found = self._importances(self._slim)
        return choose_bottlenecks(found, block_widths(self._slim), ratio, rotary)

    def hidden_weight(self, step: int) -> float:
        """The share of the hidden features in the alignment loss."""
        if step < self.second_step:
            return HIDDEN_WEIGHT if step < HIDDEN_SHARE * self.second_step else 0.0
        length = HIDDEN_SHARE * (self.distilled - self.second_step)
        return max(0.0, 1.0 - (step - self.second_step + 1) / length)

    def extra_loss(self, outputs: ClipOutputs, replay: Replay, step: int) -> Tensor | None:
        weight = self.hidden_weight(step)
        if weight == 0 and (self._tuning or not self.staged):
            return None
        ours = self._student.take()
        self._whole.active = weight > 0
        whole = replay(self._teacher, None)
        loss = (1 - weight) * feature_error(outputs.features, whole.features)
        if weight:
            errors = [
                feature_error(x, self._comparable(index, y))
                for (index, x), (_, y) in zip(ours, self._whole.take(), strict=True)
            ]
            loss = loss + weight * torch.stack(errors).mean()
        return self.config.distillation * loss

    def _comparable(self, index: int, hidden: Tensor) -> Tensor:
        """What the student's hidden feature stands for: in step 2 the channels of step 1."""
        if self._bottlenecks is None:
            return hidden
        kept = self._embedding[stage_of_blocks(self._teacher.config)[index]]
        return hidden.index_select(-1, kept.to(hidden.device))

    def state(self) -> dict[str, Any]:
        kept = self._bottlenecks
        return {
            "tuning": self._tuning,
            "embedding": [channels.cpu() for channels in self._embedding],
            "bottlenecks": kept and [[b.query_key.cpu(), b.value.cpu(), b.mlp.cpu()] for b in kept],
        }

    def export(self) -> Export:
        settings = {"budget": self.budget, "config": config_to_json(self._slim.config)}
        state = {name: x.detach().cpu() for name, x in self._slim.state_dict().items()}
        return Export(settings, state)


class _Hidden:
    """Notes the hidden features of a network's blocks while it is active.

    embeddings: what blocks put out; else the insides of their attention and MLP.
    """

    def __init__(self, segmenter: Segmenter, embeddings: bool) -> None:
        self.active = False
        self._seen: list[tuple[int, Tensor]] = []
        for index, block in enumerate(segmenter.encoder.blocks):
            for layer in (block,) if embeddings else (block.qkv, block.expand):
                assert isinstance(layer, nn.Module)
                layer.register_forward_hook(self._hook(index))

    def _hook(self, index: int) -> Callable[..., None]:
        def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            if self.active:
                self._seen.append((index, output))

        return note

    def take(self) -> list[tuple[int, Tensor]]:
        """Block and feature of every layer passed, in order; then nothing is noted any more."""
        seen, self._seen, self.active = self._seen, [], False
        return seen


def attach(network: RoutedNetwork, export: Export) -> LoadedAdapter:
    """The pruned network, on the device of the one that it replaces; no router."""
    segmenter = as_segmenter(network)
    try:
        config = config_from_json(SegmenterConfig, export.settings["config"])
        config = config.with_image_size(segmenter.config.image_size)
        with torch.device("meta"):
            slim = fit_widths(Segmenter(config), export.tensors)
        state = {name: x.clone() for name, x in export.tensors.items()}
        slim.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError):
        raise InputError("the pruned network is incomplete; train or copy it again") from None
    return LoadedAdapter(slim.to(segmenter.device).eval(), None)
