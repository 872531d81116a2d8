"""A segmenter whose steps are ONNX graphs, run by ONNX Runtime; sessions do not notice.

Graphs have fixed shapes and take one object: objects come one after the other, and places for
memories and points that are not taken are marked so. Choosing among masks, resizing, and all of
`tempomask.tracking` are the same as with torch.

N objects, S image side, h = w = S / 16, C hidden_dim, T places for memories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tempomask.adaptation.adapter_file import read_adapter
from tempomask.adaptation.method import LoadedAdapter
from tempomask.adaptation.rds import attach_router
from tempomask.errors import InputError, warn
from tempomask.export.folder import ABOUT, CONSTANTS, onnx_missing, read_export
from tempomask.export.graphs import EMPTY, block_name
from tempomask.models.encoder import Policy, RoutedBlock
from tempomask.models.mask_decoder import MaskProposals
from tempomask.models.prompt_encoder import NOT_A_POINT
from tempomask.models.segmenter import Encoded, MemoryInputs, Segmenter

# In order of preference.
PROVIDERS = {
    "cuda": ("CUDAExecutionProvider",),
    "auto": ("CUDAExecutionProvider", "OpenVINOExecutionProvider"),
}


def open_graph(path: Path, providers: Sequence[str]) -> Any:
    """An ONNX Runtime session; InputError if it is not installed, or the file is damaged."""
    try:
        import onnxruntime
    except ImportError as error:
        raise onnx_missing("running an export", error) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait for the next graph would take the cores of torch's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What a run leaves serves the runs of all graphs, and no plan takes as much once more.
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # its own classes derive from Exception alone
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from None


@cache
def _share_memory() -> None:
    """One pool of memory on the CPU for all graphs of the process."""
    import onnxruntime as ort

    kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    info = ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT)
    # Its own exceptions: a program around this one may have made a pool, which then serves.
    with suppress(Exception):
        ort.create_and_register_allocator(info, ort.OrtArenaCfg({}))


def providers_for(device: str) -> list[str]:
    """What ONNX Runtime is to compute with on a device, the CPU at last.

    Raises:
        InputError: The device is not there, or ONNX Runtime was installed without it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise onnx_missing("running an export", error) from None
    kind = device.partition(":")[0]
    there = onnxruntime.get_available_providers()
    found = [name for name in PROVIDERS.get(kind, ()) if name in there]
    if kind not in ("auto", "cpu") and not found:
        raise InputError(
            f"ONNX Runtime has no provider for device {device!r} here; use auto or cpu, or install"
            " onnxruntime-gpu"
        )
    return [*found, "CPUExecutionProvider"]


class OnnxSegmenter(Segmenter):
    """A segmenter of an exported folder.

    Args:
        folder: That `tempomask export` wrote.
        providers: Of ONNX Runtime, in order of preference.

    Raises:
        InputError: For a folder that is not an export, of another version, or incomplete.
    """

    def __init__(self, folder: str | Path, providers: Sequence[str]) -> None:
        about = read_export(folder)
        # The network without its weights, for what asks of its structure.
        with torch.device("meta"):
            super().__init__(about.model)
        if len(about.blocks) != self.encoder.num_blocks:
            raise InputError(f"{folder}: its blocks are not those of {about.model.name}")
        self.about = about
        for name in CONSTANTS:
            owner, _, own = name.rpartition(".")
            value = about.constant(name, self.get_parameter(name))
            setattr(self.get_submodule(owner), own, nn.Parameter(value, requires_grad=False))
        self._graphs = {
            name: open_graph(Path(folder) / f"{name}.onnx", providers) for name in about.graphs
        }
        for name, graph in self._graphs.items():
            taken = {each.name: each.shape for each in graph.get_inputs()}
            if taken != about.graphs[name]["inputs"]:
                raise InputError(
                    f"{folder}: {name}.onnx does not take what {ABOUT} says; export the model again"
                )
        self._warned = False
        if about.plan == "routed":
            for index in range(self.encoder.num_blocks):
                self.encoder.blocks[index] = _GraphBlock(self._run, block_name(index))

    def router(self, folder: Path) -> LoadedAdapter | None:
        """The router that was exported with the graphs, if any."""
        if self.about.plan == "static":
            return None
        adapter = read_adapter(folder / "adapter")
        return attach_router(self, adapter.export)._replace(method=adapter.method)

    @property
    def device(self) -> torch.device:
        """Where sessions keep their tensors, whatever the graphs run on."""
        return torch.device("cpu")

    def _run(self, graph: str, **inputs: Tensor) -> list[Tensor]:
        """The outputs of a graph, in their order."""
        shapes = self.about.graphs[graph]["inputs"]
        arrays = {name: inputs[name].contiguous().numpy() for name in shapes}
        return [torch.from_numpy(x) for x in self._graphs[graph].run(None, arrays)]

    def encode(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> Encoded:
        """Same as `Segmenter.encode`; a policy must be the one that was exported."""
        keep, routed = tuple(self.about.blocks), self.about.plan == "routed"
        if policy is not None and policy.memory_budget != 1:
            raise InputError("the graphs attend with all tokens; leave the memory budget out")
        if policy is not None and not routed and policy.fixed_keep != keep:
            raise InputError(
                f"the graphs run {sum(keep)} of {len(keep)} encoder blocks on every frame; leave"
                " budgets and routers out, or export the model with them"
            )
        if routed:
            return self._encode_in_pieces(image, policy, previous_masks)
        parts = [self._run("encode", image=one) for one in image.split(1)]
        features, *fine = (torch.cat(maps) for maps in zip(*parts, strict=True))
        return Encoded(features, tuple(fine), torch.tensor(keep))

    def _encode_in_pieces(
        self, image: Tensor, policy: Policy | None, previous_masks: Tensor | None
    ) -> Encoded:
        """One image, or several with the same blocks, through the blocks that a policy chooses."""
        found, blocks = [], torch.empty(0)
        for one in image.split(1):
            embedding, *early = self._run("embed", image=one)
            maps, blocks = self.encoder.run_blocks(embedding, policy, previous_masks)
            named = {f"map_{n}": x for n, x in enumerate(maps)}
            features, *late = self._run("finish", **named)
            found.append((features, *early, *late))
        features, *fine = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Encoded(features, tuple(fine), blocks)

    def attend(self, features: Tensor, memory: MemoryInputs | None) -> Tensor:
        """Same as `Segmenter.attend`. With more memories than places the oldest are left out."""
        if memory is None:
            return super().attend(features, None)
        conditioned = []
        for n in range(len(memory.spatial)):
            own = features[n % len(features)][None]
            conditioned += self._attend(own, memory, n)
        return torch.cat(conditioned)

    def _attend(self, features: Tensor, memory: MemoryInputs, n: int) -> list[Tensor]:
        """What object n attends to, in the places of a graph."""
        count = memory.spatial.shape[1]
        there = torch.ones(count + memory.pointers.shape[1], dtype=torch.bool)
        if memory.absent is not None:
            there = ~memory.absent[n % len(memory.absent)]
        rows, pointers = (part.nonzero()[:, 0] for part in there.tensor_split([count]))
        lone = len(rows) == 1 and "attend_lone" in self.about.graphs
        graph = "attend_lone" if lone else "attend"
        shapes = self.about.graphs[graph]["inputs"]
        places, others = shapes["spatial"][1], shapes["pointers"][1]
        rows, pointers = self._fitting(rows, memory.temporal_index, places), pointers[:others]
        present = torch.zeros(1, places + others)
        present[:, : len(rows)] = present[:, places : places + len(pointers)] = 1
        distance = memory.pointer_distance
        distance = distance if distance.ndim == 1 else distance[n % len(distance)]
        inputs = {
            "spatial": _placed(memory.spatial[n, rows], places),
            "temporal_index": _placed(memory.temporal_index[rows], places)[0],
            "pointers": _placed(memory.pointers[n, pointers], others),
            "pointer_distance": _placed(distance[pointers], others),
        }
        if memory.images is not None:
            inputs["images"] = _placed(memory.images[n % len(memory.images), rows], places)
        return self._run(graph, features=features, present=present, **inputs)

    def _fitting(self, rows: Tensor, temporal_index: Tensor, places: int) -> Tensor:
        """The rows of memories that have a place: conditioning frames first, then the nearest."""
        if len(rows) <= places:
            return rows
        if not self._warned:
            self._warned = True
            warn(
                f"an object has {len(rows)} memories and the graphs hold {places}: the oldest are"
                f" left out; export with --memories {len(rows)} for the same masks as the network's"
            )
        conditioning = temporal_index[rows] == self.config.memory_frames - 1
        first, rest = rows[conditioning][:places], rows[~conditioning]
        return torch.cat([first, rest[len(rest) - (places - len(first)) :]])

    def propose(
        self,
        features: Tensor,
        high_resolution: tuple[Tensor, ...],
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask_prompt: Tensor | None = None,
    ) -> MaskProposals:
        """Same as `Segmenter.propose`; the tokens are object pointers already."""
        maps = dict(zip(("stride_4", "stride_8"), high_resolution, strict=False))
        prompts: Mapping[str, Tensor] = {}
        if points is not None or mask_prompt is not None:
            prompts = self._prompts(len(features), points, labels, mask_prompt)
        found = []
        for n in range(len(features)):
            inputs = {name: x[n % len(x)][None] for name, x in {**maps, **prompts}.items()}
            graph = "segment" if prompts else "decode"
            found.append(self._run(graph, features=features[n : n + 1], **inputs))
        logits, iou, pointers, score = (torch.cat(x) for x in zip(*found, strict=True))
        return MaskProposals(logits, iou, pointers, score)

    def _prompts(
        self, count: int, points: Tensor | None, labels: Tensor | None, mask: Tensor | None
    ) -> dict[str, Tensor]:
        """Prompts of N objects in the places of the graph."""
        places, side = self.about.points, self.config.image_size // 4
        if points is None or labels is None:
            points, labels = torch.zeros(count, 1, 2), torch.full((count, 1), NOT_A_POINT)
        if points.shape[1] > places:
            raise InputError(
                f"{points.shape[1]} points on one frame, and the graphs take {places}, of which a"
                " box is two; give fewer, or a mask"
            )
        rest = places - points.shape[1]
        return {
            "points": torch.cat([points.float(), points.new_zeros(count, rest, 2).float()], dim=1),
            "labels": torch.cat([labels.float(), torch.full((count, rest), float(EMPTY))], dim=1),
            "mask": torch.zeros(1, 1, side, side) if mask is None else mask.float(),
            "has_mask": torch.full((1,), float(mask is not None)),
        }

    def _pointers(self, tokens: Tensor, present: Tensor) -> Tensor:
        return torch.where(present, tokens, self.no_object_pointer)

    def memorise(self, features: Tensor, mask: Tensor, object_score: Tensor) -> Tensor:
        """Same as `Segmenter.memorise`."""
        scores = object_score.float().expand(len(mask)).split(1)
        parts = zip(mask.float().split(1), scores, strict=True)
        return torch.cat(
            [
                self._run(
                    "encode_memory",
                    features=features[n % len(features)][None],
                    mask=one,
                    object_score=score,
                )[0]
                for n, (one, score) in enumerate(parts)
            ]
        )


class _GraphBlock(RoutedBlock):
    """An encoder block that is a graph."""

    def __init__(self, run: Callable[..., list[Tensor]], name: str) -> None:
        super().__init__()
        self.run, self.name = run, name

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.name, x=x)[0]


def _placed(x: Tensor, places: int) -> Tensor:
    """Values x (A, ...) in the first of so many places (1, places, ...), zeros in the others."""
    return torch.cat([x, x.new_zeros(places - len(x), *x.shape[1:])])[None]
