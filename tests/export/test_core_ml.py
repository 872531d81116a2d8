"""The graphs convert to Core ML, which says nothing of how fast or exact they are on a device."""

from __future__ import annotations

import pytest
import torch

from tempomask.export.graphs import constant_tables, graphs
from tests.export.conftest import MakeTiny

coremltools = pytest.importorskip("coremltools")


def converted(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[str]:
    """The outputs of the Core ML program of a step."""
    module(*inputs)
    program = torch.export.export(module, inputs).run_decompositions({})
    aten = torch.ops.aten
    for node in list(program.graph.nodes):
        # Two things that coremltools 9 does not take: copies of constants, and whole bounds.
        if node.target == aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.target == aten.hardtanh.default:
            node.args = (node.args[0], *map(float, node.args[1:]))
    program.graph_module.recompile()
    model = coremltools.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS18,
        skip_model_load=True,
    )
    return [output.name for output in model.get_spec().description.output]


@pytest.mark.filterwarnings("ignore")
def test_every_step_converts(network: MakeTiny) -> None:
    plain = network("nano").requires_grad_(False)
    with constant_tables(plain):
        for graph in graphs(plain, None, 7):
            outputs = converted(graph.module, tuple(graph.inputs.values()))
            assert len(outputs) == len(graph.outputs), graph.name
