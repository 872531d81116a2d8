"""Writes a segmenter as a folder of ONNX graphs, each compared with the network it is made of."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tempomask.adaptation.adapter_file import copy_adapter
from tempomask.errors import InputError, check_choice
from tempomask.export.folder import Export, constants, is_export, onnx_missing, shapes
from tempomask.export.graphs import (
    POINTS,
    Graph,
    constant_tables,
    graphs,
    num_pointers,
)
from tempomask.files import replacing_folder
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.ops.normalise import IMAGENET_MEAN, IMAGENET_STD
from tempomask.routing.recurrent import RecurrentPolicy

Precision = Literal["float32", "int8"]
# torch's exporter builds graphs of 18 and later.
OPSETS = range(18, 24)
# Of the outputs' greatest value, by which a float32 graph may differ from the network.
TOLERANCE = 1e-4
# Of attention, in memory at once: 64 MiB, where SAM 2's 28,736 keys and 4,096 queries have 449.
LOGITS = 2**24
# Called with the name of a graph and how far its outputs are from the network's.
Progress = Callable[[str, float], None]


def export_segmenter(
    segmenter: Segmenter,
    folder: str | Path,
    policy: Policy | None = None,
    *,
    adapter: str | Path | None = None,
    memories: int = 7,
    opset: int = 18,
    precision: Precision = "float32",
    progress: Progress = lambda _name, _difference: None,
) -> Export:
    """Write the graphs of a segmenter to a folder, which appears whole or not at all.

    Args:
        segmenter: On the CPU, of the plain engine; it is not trained any more.
        folder: New, empty, or of an earlier export, which is replaced.
        policy: Which encoder blocks run; None for all. Where it chooses for every frame, each block
            is a graph of its own.
        adapter: Of that policy, whose router goes along.
        memories: Places for memories: six for the frames before, the others for prompted frames.
        opset: Of ONNX.
        precision: "int8" stores the weights of matrix products so, and rounds their inputs to int8.
        progress: Told of every graph.

    Raises:
        InputError: For bad values, a package that is not installed, and a graph that does not give
            what the network gives.
    """
    check_choice("precision", precision, Precision)
    folder, config, keep = Path(folder), segmenter.config, _possible_blocks(segmenter, policy)
    routed = isinstance(policy, RecurrentPolicy)
    _check(segmenter, folder, memories, opset)
    if routed and adapter is None:
        raise InputError("the graphs of a router need its adapter, which goes along; name it")
    segmenter.eval().requires_grad_(False)
    written: dict[str, dict[str, dict[str, list[int]]]] = {}
    with replacing_folder(folder) as part, constant_tables(segmenter):
        for graph in graphs(segmenter, policy, memories):
            expected = outputs_of(graph)
            path = part / f"{graph.name}.onnx"
            write_graph(graph, path, opset)
            if precision == "int8":
                quantise(path)
            difference = largest_difference(graph, path, expected)
            if precision == "float32" and not difference <= TOLERANCE:
                check_rounding(graph, expected, difference)
            progress(graph.name, difference)
            written[graph.name] = {"inputs": shapes(graph.inputs), "outputs": shapes(expected)}
        export = Export(
            model=config,
            precision=precision,
            opset=opset,
            memories=memories,
            pointers=num_pointers(config, memories),
            points=POINTS,
            plan="routed" if routed else "static",
            blocks=keep,
            mean=list(IMAGENET_MEAN),
            std=list(IMAGENET_STD),
            constants=constants(segmenter),
            graphs=written,
        )
        if routed and adapter is not None:
            copy_adapter(adapter, part / "adapter")
        export.write(part)
    return export


def _check(segmenter: Segmenter, folder: Path, memories: int, opset: int) -> None:
    """InputError for what cannot be exported, before any work is done."""
    if memories < 1:
        raise InputError(f"memories must be 1 or more, got {memories}")
    if opset not in OPSETS:
        raise InputError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    if segmenter.fast:
        raise InputError('exporting needs the network as it is; load it with engine="plain"')
    config = segmenter.config
    if config.memory_attention.pooling == "all":
        raise InputError(f"{config.name} pools pointers too, which no graph does; pool otherwise")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a new folder for the export")
    if folder.exists() and not is_export(folder) and any(folder.iterdir()):
        raise InputError(f"{folder} holds other files; choose a new folder for the export")


def _possible_blocks(segmenter: Segmenter, policy: Policy | None) -> list[bool]:
    """Which encoder blocks run, or may run; InputError for a policy that graphs cannot follow."""
    if policy is None or isinstance(policy, RecurrentPolicy):
        return [True] * segmenter.encoder.num_blocks
    keep = policy.fixed_keep
    if keep is None:
        raise InputError(
            "the adapter runs parts of blocks, other ones on every frame, which graphs cannot; take"
            " one of RDS, or a static plan"
        )
    return list(keep)


def outputs_of(graph: Graph) -> dict[str, Tensor]:
    """What the network gives for the example; this also fills the tables that are constants."""
    with torch.no_grad():
        found = graph.module(*graph.inputs.values())
    return dict(zip(graph.outputs, (found,) if isinstance(found, Tensor) else found, strict=True))


def write_graph(graph: Graph, path: Path, opset: int) -> None:
    """Write an ONNX file; InputError if what is needed for it is not installed."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise onnx_missing("exporting", error) from None
    with _quiet(), torch.no_grad(), _AttentionInParts():
        program: Any = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            dynamo=True,
            opset_version=opset,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
        program.save(path, external_data=False)


class _AttentionInParts(TorchFunctionMode):
    """While this is active, attention takes some queries after the others, the result the same.

    The opsets have no attention that keeps its logits to itself, so that they stand in memory.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        (query, key, value), mask = args, kwargs.get("attn_mask")
        length = max(1, LOGITS // (key.shape[:-1].numel()))
        if length >= query.shape[-2] or (mask is not None and mask.shape[-2] > 1):
            return func(*args, **kwargs)
        parts = [func(part, key, value, **kwargs) for part in query.split(length, dim=-2)]
        return torch.cat(parts, dim=-2)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters tell their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "root")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def quantise(path: Path) -> None:
    """Dynamic int8: weights by channel, inputs of matrix products when they come."""
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise onnx_missing("int8", error) from None
    with _quiet():
        quantize_dynamic(
            path,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


def check_rounding(graph: Graph, expected: dict[str, Tensor], difference: float) -> None:
    """InputError for a difference that is more than the rounding of the network and the graph.

    Weights that make values grow from layer to layer, as random ones can, make rounding grow, too.
    """
    with torch.no_grad():
        exact = deepcopy(graph.module).double()(*(_double(x) for x in graph.inputs.values()))
    pairs = zip(expected.values(), (exact,) if isinstance(exact, Tensor) else exact, strict=True)
    rounding = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in pairs)
    # Both may be that far from the exact value, on either side.
    if not difference <= 2 * rounding:
        raise InputError(
            f"the graph {graph.name} differs from the network by {difference:.1g} of its"
            f" greatest output, which rounding ({rounding:.1g}) does not explain; try another"
            " --opset"
        )


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def largest_difference(graph: Graph, path: Path, expected: dict[str, Tensor]) -> float:
    """The greatest difference of an output to the network's, over the greatest value of that."""
    from tempomask.export.runtime import open_graph

    inputs = {name: tensor.numpy() for name, tensor in graph.inputs.items()}
    found = open_graph(path, ["CPUExecutionProvider"]).run(list(expected), inputs)
    pairs = zip(found, (x.numpy() for x in expected.values()), strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)) for a, b in pairs)
