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

from tempomask.cli.main import main
from tempomask.errors import InputError, InputWarning
from tempomask.export.folder import ABOUT
from tempomask.export.graphs import constant_tables, graphs
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
from tempomask.models.segmenter import MemoryInputs
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.routing.options import Routing
from tempomask.routing.static import StaticPlan
from tempomask.tracking.options import TrackingOptions
from tests.export.conftest import CPU, MakeExport, MakeTiny

NAMES = ["toy", "sam2", "efficienttam-eq6"]
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


def check_equal(found: list[FrameResult], expected: list[FrameResult]) -> None:
    assert [r.index for r in found] == [r.index for r in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.object_ids == b.object_ids
        scale = max(1.0, float(np.abs(b.low_res_logits).max()))
        assert np.abs(a.low_res_logits - b.low_res_logits).max() <= 1e-4 * scale
        assert np.abs(a.predicted_iou - b.predicted_iou).max() <= 1e-4
        assert np.abs(a.object_scores - b.object_scores).max() <= 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_clips_of_the_network(
    name: str, network: MakeTiny, exported: MakeExport, clip: Callable[[int], Frames]
) -> None:
    """Both directions, with memories as they are, so that rounding does not hide anything."""
    plain, onnx = Model(network(name)), load(str(exported(name)), threads=1)
    for options in (
        TrackingOptions(memory_dtype="float32", lookahead=True),
        TrackingOptions.transformers(memory_dtype="float32"),
    ):
        found, expected = (
            list(model.track(clip(12), PROMPTS, direction="both", options=options))
            for model in (onnx, plain)
        )
        check_equal(found, expected)
    assert len(expected) == 12


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
    plan = StaticPlan([0, 1, 3, 4, 6], plain.encoder)
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
    with pytest.raises(InputError, match="run 5 of 7 encoder blocks"):
        model.segmenter.encode(image, StaticPlan(range(7), plain.encoder))
    with pytest.raises(InputError, match="leave budgets"):
        list(
            model.track(
                np.zeros((2, 48, 80, 3), np.uint8), PROMPTS[0], routing=Routing(memory_budget=0.5)
            )
        )


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
    wrong = [
        (tmp_path / "empty", "is no export"),
        (damaged(folder, tmp_path / "newer", version=99), "of format 99.*export the model again"),
        (damaged(folder, tmp_path / "text", opset="18"), "opset.*not a whole number"),
        (damaged(folder, tmp_path / "blocks", blocks=[True]), "its blocks"),
        (damaged(folder, tmp_path / "constants", constants={}), "lack no_memory"),
        (lacking, "lacks decode.onnx"),
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
    with pytest.raises(InputError, match="memories must be 1"):
        export_segmenter(plain, out, memories=0)
    with pytest.raises(InputError, match="opset must be 18 to"):
        export_segmenter(plain, out, opset=11)
    with pytest.raises(InputError, match='engine="plain"'):
        export_segmenter(load("nano").segmenter, out)
    assert main(["export", "--image-size", "100", "--out", str(out)]) == 2
    assert not out.exists()
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_more_points_than_places(exported: MakeExport) -> None:
    onnx = OnnxSegmenter(exported("efficienttam-eq6"), CPU)
    with pytest.raises(InputError, match="17 points on one frame"):
        onnx.propose(torch.zeros(1, 32, 4, 4), (), torch.zeros(1, 17, 2), torch.ones(1, 17))
