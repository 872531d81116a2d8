"""Each data set's protocol, on tiny copies of its layout, against scorers derived anew."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tempomask.data import vos_sets
from tempomask.data.davis import Davis
from tempomask.errors import InputError, InputWarning
from tempomask.evaluation.protocols import DAVIS, LVOS, MOSE2, SAV, VOST, YOUTUBE_VOS
from tempomask.evaluation.vos import EvaluationSummary, evaluate_masks
from tests.evaluation import vos_layouts as tiny


def close(summary: EvaluationSummary, **expected: float) -> None:
    for name, value in expected.items():
        name = name.replace("JF", "J&F")
        assert summary.scores[name] == pytest.approx(100 * value, abs=1e-6), name


def stems(length: int, step: int = 1, digits: int = 5, start: int = 0) -> list[str]:
    return [f"{start + step * k:0{digits}d}" for k in range(length)]


def write_clip(folder: Path, names: list[str], clip: list[np.ndarray]) -> None:
    for name, labels in zip(names, clip, strict=True):
        tiny.save(folder / f"{name}.png", labels)


def test_sparse_annotations_and_odd_ids(tmp_path: Path) -> None:
    """Scored are annotated frames; ids of 16 bits; an object may vanish; 255 and extra ids."""
    root, pred = tmp_path / "DAVIS", tmp_path / "pred"
    objects = []
    for number, ids in enumerate(((1, 2), (7, 255, 300))):
        name, names = f"v{number}", stems(9)
        truth, guess = (tiny.blobs(number, ids, 9, shake) for shake in (0, 5))
        for t in (4, 5):
            truth[t][truth[t] == ids[0]] = 0
        guess[3][:10, :10] = 9  # of no object
        tiny.save_frames(root / "JPEGImages" / name, names)
        shown = [0, 2, 3, 4, 8]
        for k in shown:
            tiny.save(root / "Annotations" / name / f"{names[k]}.png", truth[k])
        write_clip(pred / name, names, guess)
        for object_id in ids:
            pairs = [(guess[k] == object_id, truth[k] == object_id) for k in shown[1:-1]]
            objects.append(tiny.j_and_f(pairs))
    summary = evaluate_masks(Davis(root, sparse=True), pred, protocol=DAVIS)
    j, f = np.mean(objects, axis=0)
    close(summary, J=j, F=f, JF=(j + f) / 2)
    assert summary.objects == 5 and list(summary.rows) == [
        ("v0", 1), ("v0", 2), ("v1", 7), ("v1", 255), ("v1", 300),
    ]  # fmt: skip
    assert [note[:2] for note in summary.notes[:2]] == ["v0", "v1"]
    assert summary.notes[2:] == ("only some frames are annotated, and scored, of v0, v1",)


def youtube(root: Path, split: str = "valid", full: bool = True, step: int = 1) -> dict[str, Any]:
    """Object 1 from the start, 2 from the third listed frame on."""
    names = stems(6, 5)
    videos, clips = {}, {}
    for number, category in enumerate(("cat", "yeti")):
        clip = tiny.blobs(20 + number, (1, 2), 6)
        for labels in clip[:2]:
            labels[labels == 2] = 0
        video = f"{number:04x}"
        listed = {"1": names, "2": names[2:]}
        videos[video] = {
            "objects": {key: {"category": category, "frames": f} for key, f in listed.items()}
        }
        every = stems(26) if step == 1 else names
        tiny.save_frames(root / split / "JPEGImages" / video, names)
        if step == 1:
            tiny.save_frames(root / f"{split}_all_frames" / "JPEGImages" / video, every)
        for k in range(6) if full else (0, 2):
            tiny.save(root / split / "Annotations" / video / f"{names[k]}.png", clip[k])
        clips[video] = clip
    tiny.save_json(root / split / "meta.json", {"videos": videos})
    (root / "train").mkdir(exist_ok=True)
    seen = {"0": {"objects": {"1": {"category": "cat", "frames": ["00000"]}}}}
    tiny.save_json(root / "train" / "meta.json", {"videos": seen})
    return clips


def test_youtube_vos(tmp_path: Path) -> None:
    clips = youtube(tmp_path / "yt")
    names = stems(6, 5)
    groups: dict[str, list[tuple[float, float]]] = {"seen": [], "unseen": []}
    for number, (video, truth) in enumerate(clips.items()):
        guess = tiny.blobs(20 + number, (1, 2), 6, 4)
        write_clip(tmp_path / "pred" / video, names, guess)
        for object_id, first in ((1, 0), (2, 2)):
            pairs = [(guess[k] == object_id, truth[k] == object_id) for k in range(first + 1, 6)]
            groups["seen" if number == 0 else "unseen"].append(tiny.j_and_f(pairs))
    summary = evaluate_masks(
        vos_sets.youtube_vos(tmp_path / "yt"), tmp_path / "pred", protocol=YOUTUBE_VOS
    )
    (js, fs), (ju, fu) = (np.mean(groups[name], axis=0) for name in ("seen", "unseen"))
    close(summary, J_seen=js, F_seen=fs, J_unseen=ju, F_unseen=fu, G=(js + fs + ju + fu) / 4)
    close(summary, J=np.mean([p[0] for g in groups.values() for p in g]))


def lvos(root: Path) -> dict[str, dict[int, tuple[int, int]]]:
    """Videos of 9 annotated frames; object 2 from the fourth to the seventh of them."""
    names, videos, spans = stems(9, 5, 8, 1), {}, {}
    for number in range(3):
        video = f"vid{number}"
        spans[video] = {1: (0, 9), 2: (3, 7)}
        videos[video] = {
            "objects": {
                str(i): {
                    "frame_range": {
                        "start": str(1 + 5 * a), "end": str(1 + 5 * b), "frame_nums": str(b - a),
                    }
                }
                for i, (a, b) in spans[video].items()
            }
        }  # fmt: skip
        tiny.save_frames(root / "valid" / "JPEGImages" / video, names)
        write_clip(root / "valid" / "Annotations" / video, names, lvos_truth(number))
    tiny.save_json(root / "valid" / "valid_meta.json", {"videos": videos})
    (root / "unseen_videos.txt").write_text("vid2\nelsewhere\n")
    return spans


def lvos_truth(number: int) -> list[np.ndarray]:
    clip = tiny.blobs(40 + number, (1, 2), 9)
    for labels in (*clip[:3], *clip[7:]):
        labels[labels == 2] = 0
    return clip


def test_lvos(tmp_path: Path) -> None:
    spans = lvos(tmp_path / "lvos")
    rows: dict[str, list[tuple[float, ...]]] = {"seen": [], "unseen": []}
    for number, (video, ranges) in enumerate(spans.items()):
        guess, truth = tiny.blobs(40 + number, (1, 2), 9, 6), lvos_truth(number)
        write_clip(tmp_path / "pred" / video, stems(9, 5, 8, 1), guess)
        for i, (a, b) in ranges.items():
            pairs = [(guess[k] == i, truth[k] == i) for k in range(a + 1, b - 1)]
            group = "unseen" if video == "vid2" else "seen"
            rows[group].append((*tiny.j_and_f(pairs), tiny.lvos_v(pairs)))
    summary = evaluate_masks(vos_sets.lvos(tmp_path / "lvos"), tmp_path / "pred", protocol=LVOS)
    (js, fs, vs), (ju, fu, vu) = (np.mean(rows[name], axis=0) for name in ("seen", "unseen"))
    close(summary, J_seen=js, F_seen=fs, V_seen=vs, J_unseen=ju, F_unseen=fu, V_unseen=vu)
    close(
        summary, J_groups=(js + ju) / 2, V_groups=(vs + vu) / 2, JF_groups=(js + fs + ju + fu) / 4
    )
    together = np.mean([row[:2] for group in rows.values() for row in group])
    close(summary, JF=together)
    assert "groups" in summary.protocol
    (tmp_path / "lvos" / "unseen_videos.txt").unlink()
    alone = evaluate_masks(vos_sets.lvos(tmp_path / "lvos"), tmp_path / "pred", protocol=LVOS)
    assert alone.mean == summary.mean and "J_seen" not in alone.scores
    assert "unseen_videos.txt" in alone.notes[0]


def test_mose_version_2(tmp_path: Path) -> None:
    """Objects come, go and come back; sizes on both sides of the bound; one video is missing."""
    root, names = tmp_path / "mose", stems(14)
    videos, results = {}, []
    gone = {1: (4, 5, 9), 2: (0, 1, 2, 7), 3: (), 4: (11, 12, 13)}
    for number in range(3):
        video, ids = f"m{number}", (1, 2, 3, 4) if number < 2 else (1,)
        truth, guess = (tiny.blobs(60 + number, ids, 14, shake) for shake in (0, 4))
        for i in ids:
            for t in gone[i]:
                truth[t][truth[t] == i] = 0
                if t % 2:
                    guess[t][guess[t] == i] = 0
        tiny.save_frames(root / "valid" / "JPEGImages" / video, names)
        write_clip(root / "valid" / "Annotations" / video, names, truth)
        videos[video] = {
            "length": 14, "height": tiny.HEIGHT, "width": tiny.WIDTH,
            "objects": [str(i) for i in ids],
        }  # fmt: skip
        if number < 2:
            write_clip(tmp_path / "pred" / video, names, guess)
            pairs = {i: [(guess[k] == i, truth[k] == i) for k in range(1, 13)] for i in ids}
            results += [tiny.mose2(pairs[i]) for i in ids]
        else:
            results.append(dict.fromkeys(("J", "F", "F_new"), 0.0))
    tiny.save_json(root / "valid" / "meta.json", {"videos": videos})
    data = vos_sets.mose(root, version=2)
    summary = evaluate_masks(data, tmp_path / "pred", protocol=MOSE2)
    j, f, new = (np.mean([row[name] for row in results]) for name in ("J", "F", "F_new"))
    close(summary, J=j, F=f, F_new=new, JF_new=(j + new) / 2, JF=(j + f) / 2)
    for name in ("disappear", "reappear"):
        there = [row[name] for row in results if row.get(name) is not None]
        assert len(there) > 2
        close(summary, **{f"JF_new_{name}": np.mean(there)})
    assert any(note.startswith("m2: nothing was predicted") for note in summary.notes)


def test_sa_v(tmp_path: Path) -> None:
    """24 frames a second in, 6 scored; objects overlap; one comes late, one is guessed early."""
    root, every, scored = tmp_path / "sav", stems(29), list(range(0, 29, 4))
    results = []
    for number in range(2):
        video = f"sav_{number}"
        tiny.save_frames(root / "JPEGImages_24fps" / video, every)
        for i in range(3):
            truth, guess = (tiny.blobs(80 + 3 * number + i, (1,), 29, shake) for shake in (0, 6))
            if i:
                for t in range(12):
                    truth[t][:] = 0
                for t in range(12 if i == 1 else 8):
                    guess[t][:] = 0
            name = f"{i:03d}"
            for k in range(29):
                if k in scored:
                    white = (truth[k] > 0).astype(np.uint8) * 255
                    tiny.save(root / "Annotations_6fps" / video / name / f"{k:05d}.png", white)
                tiny.save(tmp_path / "pred" / video / name / f"{k:05d}.png", guess[k])
            pairs = [(guess[k] > 0, truth[k] > 0) for k in scored[1:-1]]
            counted = list(itertools.dropwhile(lambda pair: not (pair[0] | pair[1]).any(), pairs))
            results.append(tiny.j_and_f(counted))
    (root / "sav_val.txt").write_text("sav_1\nsav_0\n")
    data = vos_sets.sav(root)
    assert [sequence.name for sequence in data] == ["sav_1", "sav_0"]
    assert [o.first for o in next(iter(data)).objects] == [0, 12, 12]
    summary = evaluate_masks(data, tmp_path / "pred", protocol=SAV)
    j, f = np.mean(results, axis=0)
    close(summary, J=j, F=f, JF=(j + f) / 2)


def test_vost(tmp_path: Path) -> None:
    root, names, shown = tmp_path / "vost", stems(30), list(range(0, 30, 3))
    truth, guess = tiny.blobs(5, (1, 2), 30), tiny.blobs(5, (1, 2), 30, 5)
    tiny.save_frames(root / "JPEGImages" / "a", names)
    for k in shown:
        tiny.save(root / "Annotations" / "a" / f"{names[k]}.png", truth[k])
    write_clip(tmp_path / "pred" / "a", names, guess)
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "val.txt").write_text("a\na\n")
    with pytest.warns(InputWarning, match="1 again, .* a; "):
        data = vos_sets.vost(root)
    summary = evaluate_masks(data, tmp_path / "pred", protocol=VOST)
    scores = [[tiny.jaccard(guess[k] == i, truth[k] == i) for k in shown[1:-1]] for i in (1, 2)]
    close(summary, J=np.mean(scores), J_last=np.mean([row[6:] for row in scores]))
    assert summary.headline == "J" and "F" not in summary.scores


def test_lists_of_other_sets_are_refused(tmp_path: Path) -> None:
    lvos(tmp_path / "lvos")
    meta = tmp_path / "lvos" / "valid" / "valid_meta.json"
    meta.rename(meta.with_name("meta.json"))
    with pytest.raises(InputError, match="frames.* YouTube-VOS"):
        vos_sets.youtube_vos(tmp_path / "lvos")
    with pytest.raises(InputError, match="length.* MOSEv2"):
        vos_sets.mose(tmp_path / "lvos", version=2)
    with pytest.raises(InputError, match=r"valid_meta\.json.*LVOS"):
        vos_sets.lvos(tmp_path / "lvos")
    with pytest.raises(InputError, match="JPEGImages_24fps"):
        vos_sets.sav(tmp_path / "lvos")


def test_what_does_not_belong_together_is_named(tmp_path: Path) -> None:
    clips = youtube(tmp_path, full=False)
    base = tmp_path / "valid"
    (base / "JPEGImages" / "0000" / "00015.jpg").unlink()
    with pytest.raises(InputError, match="'0002'"):
        vos_sets.youtube_vos(tmp_path, sequences=["0002"])
    data = vos_sets.youtube_vos(tmp_path)
    assert "no frame 00015" in data.flaws["0000"] and len(data) == 1
    # The first mask of object 2 is missing; then it is of another size.
    first = base / "Annotations" / "0001" / "00010.png"
    tiny.save(first, np.where(clips["0001"][2] == 2, 0, clips["0001"][2]))
    (sequence,) = vos_sets.youtube_vos(tmp_path)
    with pytest.raises(InputError, match="object 2 .* 00010"):
        sequence.check_prompts()
    Image.fromarray(np.ones((5, 6), np.uint8)).save(first)
    (sequence,) = vos_sets.youtube_vos(tmp_path)
    with pytest.raises(InputError, match="00010.png .*6 x 5 .*0001 .*170"):
        sequence.check_prompts()
