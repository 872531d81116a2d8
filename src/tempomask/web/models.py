"""The networks behind a page: the whole one for clicks, and its submodel where a budget is set."""

from __future__ import annotations

from collections.abc import Callable

from tempomask.model import Model


class Models:
    """Loads each of them when it is first needed, in the worker's thread.

    Args:
        load: Loads a model with an adapter, or without one for None.
        adapter: That brings a router; None where there is none.
        name: Of the model.
    """

    def __init__(self, load: Callable[[str | None], Model], adapter: str | None, name: str) -> None:
        self._load, self.adapter, self.name = load, adapter, name
        self._loaded: dict[str | None, Model] = {}

    @property
    def can_route(self) -> bool:
        """Whether a budget can be set."""
        return self.adapter is not None

    def plain(self) -> Model:
        """The model as it is."""
        return self._get(None)

    def routed(self) -> Model:
        """The model with its router."""
        return self._get(self.adapter)

    def _get(self, adapter: str | None) -> Model:
        if adapter not in self._loaded:
            self._loaded[adapter] = self._load(adapter)
            self.name = self._loaded[adapter].name
        return self._loaded[adapter]
