"""The bundled clip: what ships is what its generator makes, and its parts agree."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import tempomask
from recipes import demo_clip
from tempomask.errors import InputError

SHIPPED = Path(tempomask.__file__).parent / "assets" / "clip"


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, masks of all frames, and the first mask, as a user reads them."""
    with av.open(str(folder / "clip.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with np.load(folder / "masks.npz") as archive:
        masks = np.unpackbits(archive["packed"], axis=-1, count=int(archive["shape"][-1]))
        assert masks.shape == tuple(archive["shape"])
    return np.stack(frames), masks, np.asarray(Image.open(folder / "first_mask.png"))


def test_the_shipped_clip_is_what_the_generator_makes() -> None:
    frames, masks, first = read(SHIPPED)
    composed, labels = demo_clip.compose()
    assert frames.shape == composed.shape == (96, 360, 640, 3)
    assert np.array_equal(first > 0, masks[0] > 0)
    # Other releases of OpenCV may round an edge pixel the other way.
    assert np.mean(masks != (labels == 1)) < 1e-4
    noise = np.mean((frames[::8].astype(np.float32) - composed[::8]) ** 2)
    assert 10 * np.log10(255**2 / noise) > 30
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1_500_000


def test_the_saucer_is_red_then_partly_hidden_then_larger() -> None:
    frames, masks, _ = read(SHIPPED)
    areas = masks.mean(axis=(1, 2))
    hidden = int(areas.argmin())
    assert areas[hidden] < 0.9 * areas[:hidden].max() and areas[-1] > 1.5 * areas[0]
    for frame, mask in zip(frames[::12], masks[::12], strict=True):
        red, _, blue = frame[mask > 0].mean(axis=0)
        assert red > 2 * blue, "the sky behind it is blue"


def test_cutouts_are_cut_within_their_photographs() -> None:
    for cutout, least in ((demo_clip.saucer(), 0.6), (demo_clip.astronaut(), 0.4)):
        assert cutout.mask.shape == cutout.image.shape[:2]
        assert least < cutout.mask.mean() < 0.95


@pytest.fixture
def short_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.zeros((3, 360, 640, 3), np.uint8)
    labels = np.zeros((3, 360, 640), np.uint8)
    labels[:, 100:200, 50:150] = 1
    monkeypatch.setattr(demo_clip, "compose", lambda: (frames, labels))


@pytest.mark.usefixtures("short_clip")
def test_writing_makes_the_three_files(tmp_path: Path) -> None:
    demo_clip.write(tmp_path / "new" / "clip")
    frames, masks, first = read(tmp_path / "new" / "clip")
    assert len(frames) == 3 and masks.sum() == 3 * 10_000
    assert set(np.unique(first)) == {0, 255}
    assert len(list((tmp_path / "new" / "clip").iterdir())) == 3


@pytest.mark.usefixtures("short_clip")
def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(frames: np.ndarray, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk")

    monkeypatch.setattr(demo_clip, "_encode", fail)
    with pytest.raises(OSError, match="disk"):
        demo_clip.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        demo_clip.write(tmp_path / "file")
