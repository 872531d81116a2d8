"""ONNX graphs against the network they are made of, and what cannot be exported or run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tempomask.adaptation.adapter_file import base_sample, read_adapter, save_adapter
from tempomask.adaptation.method import Export as Adapted
from tempomask.adaptation.rds import attach_router
from tempomask.cli.main import main
from tempomask.errors import InputError, InputWarning
from tempomask.export import writer
from tempomask.export.folder import ABOUT, shapes
from tempomask.export.graphs import Graph, constant_tables, graphs, routed_graphs
from tempomask.export.runtime import OnnxSegmenter
from tempomask.export.writer import (
    export_segmenter,
    largest_difference,
    outputs_of,
    quantise,
    write_graph,
)
from tempomask.images.session import image_sessions
from tempomask.model import Model, load
from tempomask.models.encoder import KeepPlan, Policy
from tempomask.models.segmenter import MemoryInputs
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.routing.options import Routing
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import recurrent_policy
from tempomask.routing.static import StaticPlan
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import Direction
from tests.export.conftest import CPU, MakeExport, MakeTiny

NAMES = ["toy", "sam2", "efficienttam-eq6", "edgetam"]
MAPS = ("stride_4", "stride_8")
MASK = np.zeros((48, 80), dtype=bool)
MASK[8:22, 5:21] = True
# Several objects, every kind of prompt, a correction, and one that is there from a later frame on.
PROMPTS = [
    Prompt(0, 1, points=[(12, 14)]),
    Prompt(0, 2, box=(30, 20, 60, 40)),
    Prompt(0, 3, mask=MASK),
    Prompt(4, 2, points=[(70, 5), (40, 30)], labels=[0, 1]),
    Prompt(6, 4, points=[(50, 40)]),
]
Frames = list[NDArray[np.uint8]]


def check_equal(
    found: list[FrameResult], expected: list[FrameResult], tolerance: float = 1e-4
) -> None:
    assert [r.index for r in found] == [r.index for r in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.object_ids == b.object_ids
        scale = max(1.0, float(np.abs(b.low_res_logits).max()))
        assert np.abs(a.low_res_logits - b.low_res_logits).max() <= tolerance * scale
        assert np.abs(a.predicted_iou - b.predicted_iou).max() <= 1e-4
        assert np.abs(a.object_scores - b.object_scores).max() <= 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_clips_of_the_network(
    name: str, network: MakeTiny, exported: MakeExport, clip: Callable[[int], Frames]
) -> None:
    """With memories as they are, so that rounding does not hide anything."""
    plain, onnx = Model(network(name)), load(str(exported(name)), threads=1)

    def check(options: TrackingOptions, direction: Direction, tolerance: float) -> None:
        found, expected = (
            list(model.track(clip(12), PROMPTS, direction=direction, options=options))
            for model in (onnx, plain)
        )
        check_equal(found, expected, tolerance)
        assert len(expected) == 12

    # Of two passes the results of the first are kept in half precision.
    check(TrackingOptions(memory_dtype="float32", lookahead=True), "both", 2e-3)
    check(TrackingOptions.transformers(memory_dtype="float32"), "forward", 1e-4)


def test_attention_holds_few_logits_at_once(
    network: MakeTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, some queries at a time, and the outputs the same."""
    import onnx

    limit = 2**11
    monkeypatch.setattr(writer, "LOGITS", limit)
    plain = network("sam2").requires_grad_(False)
    sizes: dict[str, list[int]] = {}
    with constant_tables(plain):
        for graph in graphs(plain, None, 7):
            if graph.name not in ("encode", "attend"):
                continue
            path = tmp_path / f"{graph.name}.onnx"
            expected = outputs_of(graph)
            write_graph(graph, path, 18)
            assert largest_difference(graph, path, expected) <= 1e-4
            found = onnx.load(path).graph
            dims = {x.name: x.type.tensor_type.shape.dim for x in found.value_info}
            outputs = [dims[n.output[0]] for n in found.node if n.op_type == "Softmax"]
            sizes[graph.name] = [int(np.prod([d.dim_value for d in shape])) for shape in outputs]
    assert len(sizes["attend"]) > 2 * plain.config.memory_attention.layers
    assert 0 < max(*sizes["attend"], *sizes["encode"]) <= limit


class Growing(torch.nn.Module):
    """Subtracts nearly equal values, so that float32 keeps three digits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 1e4) - 1e4


def test_rounding_of_the_network_itself_is_allowed() -> None:
    torch.manual_seed(0)
    graph = Graph("growing", Growing(), {"x": torch.rand(100)}, ("y",))
    expected = outputs_of(graph)
    rounding = float((expected["y"] - graph.inputs["x"]).abs().max() / graph.inputs["x"].max())
    assert rounding > writer.TOLERANCE
    writer.check_rounding(graph, expected, 1.9 * rounding)
    for wrong in (2.1 * rounding, float("nan")):
        with pytest.raises(InputError, match="graph growing differs.*try another"):
            writer.check_rounding(graph, expected, wrong)


def test_images(network: MakeTiny, exported: MakeExport, clip: Callable[[int], Frames]) -> None:
    networks = OnnxSegmenter(exported("sam2"), CPU), network("sam2")
    found, expected = (image_sessions(one, clip(2)) for one in networks)
    for a, b in zip(found, expected, strict=True):
        for prompts in (PROMPTS[:2], Prompt(object_id=1, mask=MASK)):
            check_equal(a.candidates(prompts), b.candidates(prompts))
        check_equal([a.segment(PROMPTS[1])], [b.segment(PROMPTS[1])])


def test_motion_chooses_among_the_masks_of_graphs(
    network: MakeTiny, exported: MakeExport, clip: Callable[[int], Frames]
) -> None:
    options = TrackingOptions(memory="samurai", memory_dtype="float32")
    found, expected = (
        list(model.track(clip(8), PROMPTS[0], options=options))
        for model in (load(str(exported("sam2"))), Model(network("sam2")))
    )
    check_equal(found, expected)


def test_the_oldest_memories_give_way(network: MakeTiny, exported: MakeExport) -> None:
    """Twelve places for three prompted frames and thirteen others: the four oldest go."""
    plain, onnx = network("sam2"), OnnxSegmenter(exported("sam2"), CPU)
    config = plain.config
    features = torch.randn(1, config.hidden_dim, 4, 4)
    memory = MemoryInputs(
        torch.randn(2, 16, config.memory_dim, 4, 4),
        None,
        torch.tensor([6, 6, 6, *[0, 1, 2, 3, 4, 5] * 2, 0]),
        torch.randn(2, 25, config.hidden_dim),
        torch.rand(25),
    )
    left = [0, 1, 2, *range(7, 16)]
    fitting = MemoryInputs(
        memory.spatial[:, left],
        None,
        memory.temporal_index[left],
        memory.pointers[:, :21],
        memory.pointer_distance[:21],
    )
    with torch.no_grad(), pytest.warns(InputWarning, match="--memories 16"):
        found, expected = onnx.attend(features, memory), plain.attend(features, fitting)
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_a_static_plan_is_part_of_the_graphs(
    network: MakeTiny, exported: MakeExport, tmp_path: Path
) -> None:
    plain = network("sam2").requires_grad_(False)
    plan = StaticPlan([0, 1, 2, 4], plain.encoder)
    with constant_tables(plain):
        graph = next(graphs(plain, plan, 7))
        expected = outputs_of(graph)
        write_graph(graph, tmp_path / "encode.onnx", 18)
    assert largest_difference(graph, tmp_path / "encode.onnx", expected) <= 1e-4
    folder = damaged(exported("sam2"), tmp_path / "plan", blocks=list(plan.keep))
    assert (folder / "encode.onnx").stat().st_size > (tmp_path / "encode.onnx").stat().st_size
    shutil.copy(tmp_path / "encode.onnx", folder)
    model = load(str(folder))
    image = torch.randn(1, 3, 64, 64)
    for policy in (None, plan):
        found = model.segmenter.encode(image, policy)
        assert found.blocks.tolist() == list(plan.keep)
    with torch.no_grad():
        assert torch.allclose(found.features, plain.encode(image, plan).features, atol=1e-4)
    with pytest.raises(InputError, match="4 of 5"):
        model.segmenter.encode(image, StaticPlan(range(5), plain.encoder))
    with pytest.raises(InputError, match="memory budget"):
        list(
            model.track(
                np.zeros((2, 48, 80, 3), np.uint8), PROMPTS[0], routing=Routing(memory_budget=0.5)
            )
        )


class EverySecond(Policy):
    """All blocks on every second frame, else the first alone."""

    def __init__(self) -> None:
        self.frame = -1

    def begin_frame(self) -> None:
        self.frame += 1

    def plan(self, embedding: torch.Tensor, previous_masks: torch.Tensor | None) -> KeepPlan:
        return KeepPlan([True, self.frame % 2 == 0])


@pytest.fixture(scope="module")
def routed(
    network: MakeTiny, exported: MakeExport, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The toy with its encoder in pieces, and a router that may skip the second block."""
    plain, folder = network("toy").requires_grad_(False), tmp_path_factory.mktemp("routed") / "toy"
    shutil.copytree(exported("toy"), folder)
    pieces = {}
    with constant_tables(plain):
        for graph in routed_graphs(plain, {"image": torch.randn(1, 3, 64, 64)}, MAPS):
            expected = outputs_of(graph)
            write_graph(graph, folder / f"{graph.name}.onnx", 18)
            assert largest_difference(graph, folder / f"{graph.name}.onnx", expected) <= 1e-4
            pieces[graph.name] = {"inputs": shapes(graph.inputs), "outputs": shapes(expected)}
    assert list(pieces) == ["embed", "block_00", "block_01", "finish"]
    router = PredictiveRouter(RouterConfig.for_encoder(plain.encoder, always_on=(0,)))
    settings = {"budget": 0.5, "thresholds": {}, "router": router.config.to_settings()}
    tensors = {f"router.{name}": x.detach() for name, x in router.state_dict().items()}
    save_adapter(folder / "adapter", "rds", "toy", base_sample(plain), Adapted(settings, tensors))
    about = json.loads((folder / ABOUT).read_text())
    graphs = {name: x for name, x in about["graphs"].items() if name != "encode"}
    (folder / ABOUT).write_text(
        json.dumps({**about, "plan": "routed", "graphs": {**graphs, **pieces}})
    )
    return folder


def test_blocks_that_a_policy_leaves_out_are_not_run(
    routed: Path, network: MakeTiny, clip: Callable[[int], Frames]
) -> None:
    found, expected = (
        list(model.track(clip(6), PROMPTS[0], routing=EverySecond()))
        for model in (load(str(routed)), Model(network("toy")))
    )
    check_equal(found, expected)
    assert [r.blocks.tolist() for r in found] == [[True, True], [True, False]] * 3


def test_the_router_goes_along(
    routed: Path, network: MakeTiny, clip: Callable[[int], Frames]
) -> None:
    model, plain = load(str(routed)), network("toy")
    adapter = attach_router(plain, read_adapter(routed / "adapter").export)
    found, expected = (
        list(one.track(clip(4), PROMPTS[0], routing=Routing(budget=0.5)))
        for one in (model, Model(plain, adapter=adapter))
    )
    check_equal(found, expected)
    assert [int(r.blocks.sum()) for r in found] == [2, 1, 1, 1]
    assert len(list(model.track(clip(2), PROMPTS[0]))) == 2


def test_a_router_asks_for_blocks_whatever_the_image(tiny: MakeTiny) -> None:
    encoder = tiny("sam2").encoder
    router = PredictiveRouter(RouterConfig.for_encoder(encoder))
    with torch.no_grad():
        router.head.bias.copy_(torch.tensor([0.0, 0.0, -1.0, 0.0, 2.0, 1.0, 0.0]))
    policy = recurrent_policy(router, Routing(), 0.8)
    # The first, the last and those that change the shape, then the fifth block.
    assert policy.usual_blocks(6 / 7) == [0, 1, 3, 4, 5, 6]


def test_int8_is_near(
    network: MakeTiny, exported: MakeExport, tmp_path: Path, clip: Callable[[int], Frames]
) -> None:
    shutil.copytree(exported("sam2"), tmp_path / "int8")
    for path in (tmp_path / "int8").glob("*.onnx"):
        quantise(path)
        assert path.stat().st_size < (exported("sam2") / path.name).stat().st_size
    found = list(load(str(tmp_path / "int8")).track(clip(4), PROMPTS[2]))
    expected = list(Model(network("sam2")).track(clip(4), PROMPTS[2]))
    a, b = (np.stack([r.low_res_logits for r in results]) for results in (found, expected))
    assert 0 < np.abs(a - b).max() < 0.5 * np.abs(b).max()


def test_the_command_line_takes_an_export(exported: MakeExport, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    command = ["segment", str(tmp_path / "image.png"), "--model", str(exported("toy"))]
    assert main([*command, "--point", "20,20", "--out", str(tmp_path / "masks")]) == 0
    assert any((tmp_path / "masks").iterdir())


def damaged(folder: Path, target: Path, **changes: object) -> Path:
    shutil.copytree(folder, target)
    about = json.loads((target / ABOUT).read_text())
    (target / ABOUT).write_text(json.dumps({**about, **changes}))
    return target


def test_what_is_no_export_of_this_version(exported: MakeExport, tmp_path: Path) -> None:
    folder = exported("toy")
    (tmp_path / "empty").mkdir()
    lacking = damaged(folder, tmp_path / "lacking")
    (lacking / "decode.onnx").unlink()
    cut = damaged(folder, tmp_path / "cut")
    (cut / "decode.onnx").write_bytes((folder / "decode.onnx").read_bytes()[:1000])
    other = damaged(folder, tmp_path / "other")
    (other / "decode.onnx").write_bytes((folder / "segment.onnx").read_bytes())
    wrong = [
        (tmp_path / "empty", "is no export"),
        (other, "decode.onnx does not take what export.json says"),
        (damaged(folder, tmp_path / "newer", version=99), "of format 99.*export the model again"),
        (damaged(folder, tmp_path / "text", opset="18"), "opset.*not a whole number"),
        (damaged(folder, tmp_path / "blocks", blocks=[True]), "its blocks"),
        (damaged(folder, tmp_path / "constants", constants={}), "lack no_memory"),
        (lacking, "lacks decode.onnx"),
        (damaged(folder, tmp_path / "graphs", graphs={}), "lacks encode.onnx"),
        (damaged(folder, tmp_path / "routed", plan="routed"), "lacks embed.onnx"),
        (cut, "cannot read .*decode.onnx"),
    ]
    for path, message in wrong:
        with pytest.raises(InputError, match=message) as caught:
            load(str(path), engine="onnx")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"checkpoint": "x.pt"}, "made for one checkpoint"),
        ({"image_size": 128}, "made for one image_size"),
        ({"adapter": "nano-rds"}, "made for one adapter"),
        ({"pooled_memory": True}, "made for one pooled_memory"),
        ({"dtype": "bfloat16"}, "made for one dtype"),
        ({"device": "cuda"}, "no provider for device 'cuda'"),
    ],
)
def test_what_an_export_was_not_made_for(
    given: dict[str, object], message: str, exported: MakeExport
) -> None:
    with pytest.raises(InputError, match=message):
        load(str(exported("toy")), **given)  # type: ignore[arg-type]


def test_what_cannot_be_exported(network: MakeTiny, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    plain, out = network("toy"), tmp_path / "out"
    with pytest.raises(InputError, match="holds other files"):
        export_segmenter(plain, tmp_path / "other")
    with pytest.raises(InputError, match="memories"):
        export_segmenter(plain, out, memories=0)
    with pytest.raises(InputError, match="opset"):
        export_segmenter(plain, out, opset=11)
    with pytest.raises(InputError, match="notes.txt"):
        export_segmenter(plain, tmp_path / "other" / "notes.txt")
    with pytest.raises(InputError, match="parts of blocks"):
        export_segmenter(plain, out, EverySecond())
    router = PredictiveRouter(RouterConfig.for_encoder(plain.encoder))
    with pytest.raises(InputError, match="need its adapter"):
        export_segmenter(plain, out, recurrent_policy(router, Routing(), 1.0))
    with pytest.raises(InputError, match='engine="plain"'):
        export_segmenter(load("nano").segmenter, out)
    for wrong in (["--image-size", "100"], ["--plan", "routed"], ["--budget", "0.5"]):
        assert main(["export", *wrong, "--out", str(out)]) == 2
    assert not out.exists()
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_more_points_than_places(exported: MakeExport) -> None:
    onnx = OnnxSegmenter(exported("efficienttam-eq6"), CPU)
    with pytest.raises(InputError, match="17 points"):
        onnx.propose(torch.zeros(1, 32, 4, 4), (), torch.zeros(1, 17, 2), torch.ones(1, 17))
