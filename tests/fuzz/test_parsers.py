"""Every parser of files, given what nobody meant to write: a result or one InputError, no more.

Inputs are valid ones with a part replaced, and with bytes changed; the corpus is made here. More of
them, and a report of how many: `make fuzz`.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from tempomask.adaptation.adapter_file import DESCRIPTION, TENSORS, read_adapter
from tempomask.data.box_tracking import read_boxes
from tempomask.data.segmentations import mask_of
from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.errors import InputError
from tempomask.evaluation.instance_results import read_predictions
from tempomask.files import read_json
from tempomask.io.images import image_size, read_image, read_mask
from tempomask.io.journal import open_journal
from tempomask.io.prompt_file import read_prompts
from tempomask.io.result_folder import ResultFolder
from tempomask.io.video import open_video
from tempomask.limits import parse_limits
from tempomask.models.config import SEGMENTERS
from tempomask.rle import decode_rle, encode_rle
from tempomask.web.project import Project, VideoFacts
from tempomask.weights.files import read_checkpoint
from tempomask.weights.own import SEGMENTER_KEY, config_to_json
from tempomask.weights.pickles import read_pickle
from tempomask.weights.segmenters import load_segmenter

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
REPORT = os.environ.get("FUZZ_REPORT")
TRIED: Counter[str] = Counter()
FAILED: Counter[str] = Counter()

MASK = np.eye(6, 8, dtype=bool)
RLE = encode_rle(MASK)
# What replaces a part of a valid file.
NASTY = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), -float("inf"), "", "0", "..", "../../x", "/etc/passwd", "a\0b"),
    *("a\\b", "~root", "concat:a|b", "%d", "\x1b[31m", "\ud800", "é" * 5000, "x" * 300, "oooo0"),
    *([], {}, [[]], [None], {"": 0}, [1, 2], [0] * 1000, [2**63 - 1] * 4, [[1.0, 2.0]], {"id": 1}),
]  # fmt: skip
DEEP = [depth * b"[" + depth * b"]" for depth in (70, 900, 100_000)] + [b'{"a":' * 5000]


@dataclass(frozen=True)
class Parser:
    """How a file is read, and what is written into it.

    name: of the file. read: takes its path. documents: valid content as JSON values. raw: as bytes.
    """

    name: str
    read: Callable[[Path], Any]
    documents: tuple[Any, ...] = ()
    raw: tuple[bytes, ...] = ()


def journal_document() -> list[Any]:
    item = {"id": 1, "score": 1.0, "predicted_iou": 0.5, "box": [0, 0, 8, 6], "area": 6}
    header = {"tempomask": 1, "size": [6, 8], "fps": 10.0, "num_frames": 3, "names": {"1": "dog"}}
    line = {"frame": 0, "blocks": "10", "objects": [{**item, "rle": RLE["counts"]}], "name": "0"}
    return [{**header, "settings": {"named": True}, "source": None}, line, {**line, "frame": 2}]


def read_journal(path: Path) -> None:
    """Its records and masks; then, as a new run does, remove the results that it lists."""
    with suppress(ValueError, RecursionError):
        values = json.loads(path.read_bytes())
        lines = values if isinstance(values, list) else [values]
        path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    journal = open_journal(path)
    for record in journal.records():
        assert record.masks.shape[1:] == journal.info.size
        assert record.names is not None
    ResultFolder(path.parent, journal.info.task).remove(journal)


def history_document() -> list[Any]:
    """A change of every table, a run of two lines, and steps."""
    values = {
        "objects": (1, {"id": 1, "name": "dog", "color": "#ff0000"}),
        "prompts": ([0, 1], [{"points": [[1.0, 2.0]], "labels": [1]}, {"mask": RLE["counts"]}]),
        "masks": ([0, 1], [RLE["counts"], 1.0, 0.5, [0.0, 0.0, 6.0, 6.0], 6]),
        "blocks": (0, "10"),
        "settings": ("speed", {"budget": 0.5, "fps": None}),
    }
    edits = [[table, key, None, value] for table, (key, value) in values.items()]
    run = {"change": 2, "label": "track", "edits": [["blocks", 0, "10", "11"]], "ended": False}
    all_tables = {"change": 1, "label": "all", "edits": edits, "ended": True}
    return [all_tables, run, {**run, "edits": [], "ended": True}] + 2 * [{"step": "undo"}]


def read_project(path: Path) -> None:
    """A project, and all that undo and redo do."""
    for name in ("project.json", "prompts.json", "frames.jsonl"):
        if name != path.name:
            path.with_name(name).unlink(missing_ok=True)
    if path.name == "history.jsonl":
        with suppress(ValueError, RecursionError):
            values = json.loads(path.read_bytes())
            lines = values if isinstance(values, list) else [values]
            path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    project = Project.open(path.parent, VideoFacts("clip.mp4", (6, 8), 3))
    try:
        while project.state.undo() is not None:
            pass
        while (change := project.state.redo()) is not None:
            project.save(change.touched)
    finally:
        project.close()


def project_document() -> dict[str, Any]:
    dog = {"id": 1, "name": "dog", "color": "#ff0000", "visible": True, "locked": False}
    return {
        "tempomask_project": 1, "source": "clip.mp4", "name": "clip.mp4", "size": [6, 8],
        "num_frames": 3, "fps": 10.0, "objects": [dog], "settings": {"budget": 0.5, "fps": None},
    }  # fmt: skip


def read_rle(path: Path) -> None:
    value = read_json(path, "the mask")
    assert decode_rle(value).size <= 100_000_000
    mask_of(value, (6, 8))


def read_vis(path: Path) -> None:
    dataset = YouTubeVIS(path, path.parent)
    for video in dataset.videos:
        for annotation in dataset.annotations(video.id):
            for frame in range(len(video)):
                annotation.mask(frame)
        for frame in range(len(video)):
            assert (dataset.images / video.file_names[frame]).resolve().is_relative_to(path.parent)


def vis_document() -> dict[str, Any]:
    track = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "areas": [6.0, None]}
    return {
        "videos": [{"id": 1, "width": 8, "height": 6, "length": 2, "file_names": ["a/0.jpg", "1"]}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{**track, "segmentations": [dict(RLE), None], "bboxes": None}],
    }  # fmt: skip


def prediction_document() -> list[Any]:
    return [{"video_id": 1, "category_id": 1, "score": 0.5, "segmentations": [dict(RLE), None]}]


def read_results(path: Path) -> None:
    annotations = path.with_name("annotations.json")
    annotations.write_text(json.dumps(vis_document()))
    for tracks in read_predictions(path, YouTubeVIS(annotations, path.parent)).values():
        for mask in (mask for track in tracks for mask in track.masks if mask is not None):
            decode_rle(mask)


def adapter(path: Path) -> None:
    (path.parent / TENSORS).write_bytes(
        save({"base.sample": torch.zeros(2, 8), "a": torch.ones(2)})
    )
    read_adapter(path.parent)


def read_frames(path: Path) -> None:
    with open_video(path, prefetch=0) as video:
        for _ in video.frames(0, 3):
            pass


def read_images(path: Path) -> None:
    for reader in (image_size, read_image, read_mask):
        try:
            reader(path)
        except InputError:
            continue


def read_config(path: Path) -> None:
    """The configuration of a checkpoint, and the network that it is of."""
    own = path.with_name("own.safetensors")
    marks = {"no_memory": torch.zeros(1), "prompt_encoder.frequencies": torch.zeros(1)}
    metadata = {SEGMENTER_KEY: path.read_text("utf-8", "replace")}
    own.write_bytes(save(marks, metadata))
    load_segmenter(None, own)


def encoded(size: tuple[int, int], mode: str, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    array = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)
    Image.fromarray(array).convert(mode).save(out, kind, **options)
    return out.getvalue()


def videos() -> Iterator[bytes]:
    import av

    for kind, codec in (
        ("mp4", "libx264"),
        ("avi", "mjpeg"),
        ("matroska", "libvpx"),
        ("gif", "gif"),
    ):
        out = io.BytesIO()
        with av.open(out, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = 32, 32
            stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
            for i in range(4):
                frame = av.VideoFrame.from_ndarray(
                    np.full((32, 32, 3), i, np.uint8), format="rgb24"
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        yield out.getvalue()
    yield b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield b"ffconcat version 1.0\nfile 'a.mp4'\n"
    yield b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"></svg>'


def pickles() -> Iterator[bytes]:
    arrays = {"a": np.ones((2, 3), np.float32), "n": np.float32(2), "m": [np.arange(3)], "b": True}
    for protocol in range(2, 6):
        yield pickle.dumps({"model": arrays}, protocol)
    # An array of objects whose buffer is the address of one; objects; memory by number.
    array = b"cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00OC\x08AAAAAAAAtRs."
    yield b"\x80\x03}X\x01\x00\x00\x00a" + array
    yield b"\x80\x03cos\nsystem\nX\x04\x00\x00\x00true\x85R."
    yield b"\x80\x03}r\xff\xff\xff\x7f."
    yield pickle.dumps({"a": np.array([print], dtype=object)})
    yield pickle.dumps({"a": np.zeros(2, dtype=[("x", "f4"), ("y", "O")])})


def checkpoints() -> Iterator[bytes]:
    yield save({"a": torch.ones(2, 3)}, {"tempomask": config_to_json(SEGMENTERS["nano"])})
    for new in (True, False):
        out = io.BytesIO()
        torch.save({"model": {"a": torch.ones(2, 3)}}, out, _use_new_zipfile_serialization=new)
        yield out.getvalue()
        if new:
            squeezed = io.BytesIO()
            with zipfile.ZipFile(out) as source, zipfile.ZipFile(squeezed, "w", 8) as target:
                for entry in source.infolist():
                    target.writestr(entry.filename, source.read(entry))
            yield squeezed.getvalue()
    for header in (
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
        b"{}",
    ):
        yield struct.pack("<Q", len(header)) + header


PARSERS = [
    Parser("rle.json", read_rle, (dict(RLE), {"size": [6, 8], "counts": [40, 8]})),
    Parser("frames.jsonl", read_journal, (journal_document(),)),
    Parser(
        DESCRIPTION, adapter, ({"format": 1, "method": "rds", "model": "nano", "settings": {}},)
    ),
    Parser(
        "prompts.json",
        read_prompts,
        ([{"frame": 0, "object": 1, "points": [[1, 2]], "labels": [1], "box": [0, 0, 4, 4]}],),
    ),
    Parser("project.json", read_project, (project_document(),)),
    Parser("history.jsonl", read_project, (history_document(),)),
    Parser("vis.json", read_vis, (vis_document(),)),
    Parser("results.json", read_results, (prediction_document(),)),
    Parser(
        "model.safetensors.index.json",
        lambda path: read_checkpoint(path.parent),
        ({"metadata": {}, "weight_map": {"a": "model-1.safetensors"}},),
    ),
    Parser(
        "config.json",
        read_config,
        tuple(json.loads(config_to_json(SEGMENTERS[name])) for name in ("nano", "sam2.1-tiny")),
    ),
    Parser("limits.txt", lambda p: parse_limits(p.read_text("latin1")), raw=(b"pixels=4e8,a=1",)),
    Parser("boxes.txt", read_boxes, raw=(b"1,2,3,4\n5\t6\t7\t8\n", b"nan,inf,-1,1e999\n")),
    Parser("model.pkl", read_pickle, raw=tuple(pickles())),
    Parser("model.bin", read_checkpoint, raw=tuple(checkpoints())),
    Parser(
        "image.png",
        read_images,
        raw=(
            encoded((5, 7), "L", "PNG"),
            encoded((5, 7), "P", "PNG"),
            encoded((5, 7), "RGB", "JPEG"),
            encoded((5, 7), "I;16", "TIFF"),
            encoded((5, 7), "RGB", "TIFF", compression="tiff_lzw"),
            encoded((5, 7), "RGBA", "WEBP"),
            encoded((5, 7), "RGB", "BMP"),
        ),
    ),
    Parser("video.mp4", read_frames, raw=tuple(videos())),
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a document."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The document with another part at a place; without the part for Ellipsis."""
    if not path:
        return None if new is ... else new
    document = copy.deepcopy(document)
    at = document
    for key in path[:-1]:
        at = at[key]
    if new is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return document


@st.composite
def inputs(draw: st.DrawFn, parser: Parser) -> bytes:
    """A valid file with up to three faults."""
    if parser.documents and draw(st.integers(0, 4)):
        document = draw(st.sampled_from(parser.documents))
        for _ in range(draw(st.integers(1, 2))):
            parts = list(places(document))
            document = replaced(
                document, draw(st.sampled_from(parts)), draw(st.sampled_from([*NASTY, ...]))
            )
        return json.dumps(document).encode()
    if parser.documents and draw(st.booleans()):
        return draw(st.sampled_from(DEEP))
    whole = parser.raw or tuple(json.dumps(each).encode() for each in parser.documents)
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + 4] = draw(st.binary(min_size=4, max_size=4))
        elif kind == 2:
            data[at : at + 1] = draw(
                st.sampled_from([b"", b"\xff", b"\0", b"9" * 30, b'"', b"[" * 99])
            )
        else:
            data[at:at] = data[: draw(st.integers(0, 40))]
    return bytes(data)


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    """With FUZZ_REPORT, write how many inputs each parser was given."""
    yield
    if REPORT:
        rows = [
            {"parser": name, "inputs": TRIED[name], "failures": FAILED[name]}
            for name in sorted(TRIED)
        ]
        Path(REPORT).write_text(json.dumps(rows, indent=2) + "\n")


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_whatever_a_file_holds_is_read_or_refused(parser: Parser, tmp_path: Path) -> None:
    outside = tmp_path / "precious.png"
    outside.write_bytes(b"mine")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="FUZZ_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(parser))
    def read(data: bytes) -> None:
        TRIED[parser.name] += 1
        folder = tmp_path / "a" / "b" / "folder"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / parser.name).write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                parser.read(folder / parser.name)
            except InputError as error:
                assert "\n" not in str(error)
        assert outside.read_bytes() == b"mine"

    try:
        read()
    except BaseException:
        FAILED[parser.name] += 1
        raise
