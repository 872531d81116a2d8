"""The four steps of a segmenter as compiled graphs, for the shapes that a warm-up has met.

A GPU computes a frame of a small network faster than Python can ask for its parts. `torch.compile`
fuses them, and on CUDA a recorded graph asks for all of them at once. Both hold for one set of
shapes; any other set runs as it would without this file, as compiling in the middle of a video
would cost seconds. What the steps compute stands in `tempomask.models`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tempomask.errors import InputError
from tempomask.models.encoder import KeepPlan, Policy
from tempomask.models.prompt_encoder import NOT_A_POINT
from tempomask.models.segmenter import Decoded, Encoded, MemoryInputs, Segmenter
from tempomask.ops.position import grid_sine

# Graphs of one function that may be made: encoders have many kinds of blocks.
MOST_GRAPHS = 256

Part = TypeVar("Part", bound=nn.Module)


class _OfThread(local):
    """Whether a thread is preparing graphs, and the graphs that it has recorded: its own alone."""

    def __init__(self) -> None:
        self.preparing = False
        self.recorded: set[Hashable] = set()


class CompiledSegmenter(Segmenter):
    """The same function as the accelerated segmenter that it wraps.

    Prompted frames, which come in many shapes, are not compiled.

    Args:
        network: From `accelerate`; it stays as it is.
        backend: Of torch.compile.
        cuda_graphs: Record the graphs of CUDA too.

    Raises:
        InputError: For a network that is not accelerated.
    """

    fast = compiled = True

    def __init__(self, network: Segmenter, backend: str = "inductor", cuda_graphs: bool = False):
        if not network.fast:
            raise InputError('compiling needs the fast engine; load the model with engine="fast"')
        nn.Module.__init__(self)
        self.network, self.encoder = network, network.encoder
        self.config, self.dtype = network.config, network.dtype
        self._cuda_graphs = cuda_graphs
        mode = "reduce-overhead" if cuda_graphs else None
        # In dictionaries, so that they do not become parts of the network.
        self._plain: dict[str, Callable[..., Any]] = {
            "encode": self._encode,
            "attend": network.memory_attention.forward,
            "decode": self._decode,
            "encode_memory": network.encode_memory,
        }
        self._graphs = {
            name: torch.compile(step, fullgraph=True, dynamic=False, backend=backend, mode=mode)
            for name, step in self._plain.items()
        }
        self._routed = {"network": _with_compiled_blocks(network, backend)}
        self._compiled: set[Hashable] = set()
        self._thread = _OfThread()
        self._no_prompts: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    def __getstate__(self) -> dict[str, Any]:
        raise InputError(
            f"a compiled {self.config.name} can be neither copied nor pickled; do that with the"
            " model it was compiled from"
        )

    @property
    def _known(self) -> set[Hashable]:
        """What this thread may run as a graph."""
        return self._thread.recorded if self._cuda_graphs else self._compiled

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Make a graph of every new set of shapes that this thread meets inside the block."""
        import torch._dynamo as dynamo

        # Its name before torch 2.7.
        names = ("recompile_limit", "cache_size_limit")
        limit = next(name for name in names if hasattr(dynamo.config, name))
        self._thread.preparing = True
        try:
            with dynamo.config.patch({limit: MOST_GRAPHS}):
                yield
        finally:
            self._thread.preparing = False

    def _run(self, step: str, *args: Any) -> Any:
        """One step, by its graph if there is one for these shapes."""
        key: tuple[Hashable, ...] = (step, _signature(args))
        known = self._known
        if key not in known and not self._thread.preparing:
            return self._plain[step](*args)
        result = self._graphs[step](*args)
        # Only now: one that failed would fail again.
        known.add(key)
        # The next run of the same CUDA graph writes to the same place.
        return _copied(result) if self._cuda_graphs else result

    def encode(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> Encoded:
        """Same as `Segmenter.encode`. Where a router decides, each block is a graph of its own."""
        everything = (True,) * self.encoder.num_blocks
        keep = everything if policy is None else policy.fixed_keep
        if keep is None:
            return self._routed["network"].encode(image, policy, previous_masks)
        features, *fine = self._run("encode", image, keep)
        return Encoded(features, tuple(fine), torch.tensor(keep))

    def _encode(self, image: Tensor, keep: tuple[bool, ...]) -> tuple[Tensor, ...]:
        encoded = self.network.encode(image, _Fixed(keep))
        return (encoded.features, *encoded.high_resolution)

    def attend(self, features: Tensor, memory: MemoryInputs | None) -> Tensor:
        """Same as in `Segmenter`."""
        if memory is None:
            return self.network.attend(features, None)
        position = grid_sine(*features.shape[2:], features.shape[1], features.device)
        return self._run("attend", features, position, self.network.memory_tokens(memory))

    def decode(
        self,
        features: Tensor,
        high_resolution: tuple[Tensor, ...],
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask_prompt: Tensor | None = None,
        multimask: bool = False,
        dynamic_multimask: bool = False,
        presence_threshold: float = 0.0,
    ) -> Decoded:
        """Same as in `Segmenter`."""
        choice = multimask, dynamic_multimask, presence_threshold
        if points is not None or mask_prompt is not None:
            return self.network.decode(
                features, high_resolution, points, labels, mask_prompt, *choice
            )
        prompts = self._without_prompts(features)
        return Decoded(*self._run("decode", features, tuple(high_resolution), *prompts, *choice))

    def _without_prompts(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sparse and dense prompts of N objects that have none, and the grid's positions."""
        count = len(features)
        if count not in self._no_prompts:
            points = torch.zeros(count, 1, 2, device=features.device)
            labels = torch.full((count, 1), NOT_A_POINT, device=features.device)
            encoder = self.network.prompt_encoder
            sparse, dense = encoder(points, labels, None, self.config.image_size)
            position = encoder.grid_position(*features.shape[2:])
            self._no_prompts[count] = sparse, dense, position
        return self._no_prompts[count]

    def _decode(
        self,
        features: Tensor,
        high_resolution: tuple[Tensor, ...],
        sparse: Tensor,
        dense: Tensor,
        position: Tensor,
        *choice: Any,
    ) -> tuple[Tensor, ...]:
        proposals = self.network.mask_decoder(features + dense, position, sparse, high_resolution)
        return tuple(self.network.select(proposals, *choice))

    def encode_memory(
        self, features: Tensor, logits: Tensor, object_score: Tensor, binarise: bool = False
    ) -> Tensor:
        """Same as in `Segmenter`."""
        if binarise or logits.shape[-1] == self.config.image_size:
            return self.network.encode_memory(features, logits, object_score, binarise)
        return self._run("encode_memory", features, logits, object_score)


class _Fixed(Policy):
    """Runs blocks that are known beforehand."""

    def __init__(self, keep: tuple[bool, ...]) -> None:
        self.keep = keep

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> _FixedPlan:
        return _FixedPlan(self.keep)


class _FixedPlan(KeepPlan):
    @property
    def blocks(self) -> Any:
        """No tensor: one on the host would keep the graph from being recorded."""
        return self.keep


def _with_compiled_blocks(network: Segmenter, backend: str) -> Segmenter:
    """A shallow copy of the network with every block of its encoder a graph of its own.

    Not recorded by CUDA: a recording holds for one order of graphs, and a router takes many.
    """
    routed, encoder = _shallow(network), _shallow(network.encoder)
    blocks = [torch.compile(block, dynamic=False, backend=backend) for block in encoder.blocks]
    encoder.blocks = nn.ModuleList(blocks)  # type: ignore[arg-type]
    routed.encoder = encoder
    return routed


def _shallow(module: Part) -> Part:
    """A module with the same parts, which can be exchanged without changing the other one's."""
    other = copy.copy(module)
    other._modules = dict(module._modules)
    return other


def _signature(value: Any) -> Hashable:
    """What a graph is made for: shapes, strides and types of tensors, other values as they are."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, Sequence):
        return tuple(_signature(x) for x in value)
    return value


def _copied(value: Any) -> Any:
    """Copies of the tensors of a step's result."""
    return value.clone() if isinstance(value, Tensor) else tuple(x.clone() for x in value)
