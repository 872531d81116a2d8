"""I-LoRA of RDS on a network: adapters measured, chosen, inserted and exported, for any method."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any

from tempomask.adaptation.importance import Importance, check_count, measure_importance
from tempomask.adaptation.lora import add_lora, check_rank, suitable_rank
from tempomask.adaptation.method import Measure
from tempomask.adaptation.options import AdapterConfig
from tempomask.models.encoder import Encoder, RoutedNetwork, always_on_blocks, check_block_indices


def insert_adapters(
    network: RoutedNetwork, blocks: Collection[int], config: AdapterConfig
) -> tuple[dict[str, Any], int]:
    """Freeze a network and adapt blocks of its encoder: the adapters' optimiser group, their rank.

    The `blocks` and `view` of config are not used.
    """
    encoder = network.encoder
    total = sum(p.numel() for p in network.parameters())
    rank = config.rank or suitable_rank(encoder, blocks, total)
    network.requires_grad_(False)
    parameters = add_lora(encoder, blocks, rank, config.scale, config.seed)
    return {"params": parameters, "lr": config.rate, "weight_decay": config.decay}, rank


class ImportantAdapters:
    """I-LoRA on one network: measured, chosen, inserted, and exported. Any method can use it.

    always_on: K, the encoder's own if None.
    """

    def __init__(
        self,
        config: AdapterConfig,
        progress: Callable[[int, int], None] | None = None,
        always_on: tuple[int, ...] | None = None,
    ) -> None:
        self.config, self._progress, self._always_on = config, progress, always_on
        self.importance: Importance | None = None
        self.blocks: tuple[int, ...] = ()
        self.rank = 0

    def insert(
        self,
        network: RoutedNetwork,
        measure: Measure,
        state: Mapping[str, Any] | None = None,
        ranked: bool = False,
    ) -> dict[str, Any]:
        """Freeze the network, add adapters, and give their optimiser group.

        state: from `state` in the run that is resumed. ranked: measure the importance even where
        the blocks are named.
        """
        config, encoder = self.config, network.encoder
        # Before anything is measured.
        if config.rank is not None:
            check_rank(encoder, config.rank)
        named = config.blocks if isinstance(config.blocks, tuple) else None
        if named is not None:
            check_block_indices(named, encoder)
        elif isinstance(config.blocks, int):
            core = always_on_blocks(encoder, self._always_on)
            check_count(config.blocks, encoder.num_blocks, core)
        if ranked or named is None:
            self.importance = self._importance(network, measure, state)
        self.blocks = self._chosen(encoder) if named is None else tuple(sorted(set(named)))
        group, self.rank = insert_adapters(network, self.blocks, config)
        return group

    def _importance(
        self, network: RoutedNetwork, measure: Measure, state: Mapping[str, Any] | None
    ) -> Importance:
        if state is None:
            return measure_importance(network, measure, self._progress, self._always_on)
        return Importance(**{name: tuple(value) for name, value in state["importance"].items()})

    def _chosen(self, encoder: Encoder) -> tuple[int, ...]:
        """The most important blocks, with K."""
        assert self.importance is not None and not isinstance(self.config.blocks, tuple)
        count = self.config.blocks
        if count is None:
            count = max(encoder.num_blocks // 2, len(self.importance.always_on))
        return self.importance.select(count, self.config.view)

    def state(self) -> dict[str, Any]:
        """What was measured, for `insert` to resume."""
        if self.importance is None:
            return {}
        return {"importance": {k: list(v) for k, v in asdict(self.importance).items()}}

    def settings(self) -> dict[str, Any]:
        """For people who read an adapter's description."""
        return {"adapted_blocks": list(self.blocks), "rank": self.rank, **self.state()}
