"""How well two frames agree with the truth when each is decoded to another layer (Figure 2).

    python -m studies.tar.layer_pairs --weights nano-vis.safetensors --data validation.json \
        --out studies/tar/layer_pairs.json

"3+1" takes the third layer's output on the previous frame and the first one's on this frame. The
queries of both are matched as MinVIS matches them, which makes tracks two frames long, and the
tracks are matched with the true ones so that their overlaps (intersections over unions, both summed
over the two frames) add up to most. The paper gives no more than "matching these combinations with
the Ground Truth"; classes and scores play no part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from studies.bootstrap import bootstrap_difference
from tempomask.data.youtube_vis import VideoEntry, YouTubeVIS
from tempomask.devices import DTypeName
from tempomask.files import make_folder, write_json
from tempomask.frames import Size
from tempomask.instances.model import InstanceModel, load_instances
from tempomask.instances.session import network_image, network_size, upsampled
from tempomask.models.instances.minvis import match_queries

LAYERS = (1, 2, 3, 6, 9)
# Of MinVIS R50 with the layers of Figure 2; its "1+1" can only be read off the plot.
PAPER = {"3+1": 82.68, "9+9": 81.58}

# Of a layer: queries after the decoder's norm (1, Q, C), and masks bool (Q, H * W).
Output = tuple[Tensor, NDArray[np.bool_]]


@torch.no_grad()
def outputs(
    model: InstanceModel, frame: NDArray[np.uint8], layers: Sequence[int]
) -> dict[int, Output]:
    """What each of these layers, from 1, makes of a frame (H, W, 3)."""
    network = model.segmenter.network
    size: Size = frame.shape[0], frame.shape[1]
    inner = network_size(size, model.config)
    with torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32):
        features = network.encode(network_image(frame, inner, model.device))
        decoded = network.decode(features)
        found = {}
        for layer in layers:
            queries = decoded.intermediate[layer]
            logits = network.query_decoder.predict(queries, features.mask_features).mask_logits
            masks = upsampled(logits[0].float(), inner, size) > 0
            normed = network.query_decoder.norm(queries).float()
            found[layer] = normed, masks.flatten(1).cpu().numpy()
    return found


def best_overlaps(
    predicted: Sequence[NDArray[np.bool_]], truth: Sequence[NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """(N,) overlap of each true track with the predicted one that it is matched with.

    predicted: (Q, P) masks of each frame, flat, by track. truth: (N, P) likewise.
    """
    shared = np.zeros((len(predicted[0]), len(truth[0])))
    either = np.zeros_like(shared)
    for found, true in zip(predicted, truth, strict=True):
        common = found.astype(np.float32) @ true.T.astype(np.float32)
        shared += common
        either += found.sum(1)[:, None] + true.sum(1) - common
    overlaps = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    rows, columns = linear_sum_assignment(-overlaps)
    best = np.zeros(len(truth[0]))
    best[columns] = overlaps[rows, columns]
    return best


def video_overlaps(
    model: InstanceModel, dataset: YouTubeVIS, video: VideoEntry, layers: Sequence[int]
) -> dict[str, list[float]]:
    """Overlaps of all true tracks in all pairs of adjacent frames, by pair of layers."""
    found: dict[str, list[float]] = {f"{m}+{n}": [] for m in layers for n in layers}
    before: tuple[dict[int, Output], NDArray[np.bool_]] | None = None
    for now in _frames(model, dataset, video, layers):
        if before is not None:
            seen = before[1].any(1) | now[1].any(1)
            for m in layers:
                for n in layers if seen.any() else ():
                    (left, first), (right, second) = before[0][m], now[0][n]
                    order = match_queries(left, right)[0].cpu().numpy()
                    tracks, truth = (first, second[order]), (before[1][seen], now[1][seen])
                    found[f"{m}+{n}"] += best_overlaps(tracks, truth).tolist()
        before = now
    return found


def _frames(
    model: InstanceModel, dataset: YouTubeVIS, video: VideoEntry, layers: Sequence[int]
) -> Iterator[tuple[dict[int, Output], NDArray[np.bool_]]]:
    """Outputs and true masks (N, H * W) of each frame."""
    tracks = [track for track in dataset.annotations(video.id) if not track.is_crowd]
    for index, frame in enumerate(dataset.frames(video)):
        masks = [track.mask(index).ravel() for track in tracks]
        truth = np.array(masks).reshape(len(tracks), -1)
        yield outputs(model, frame, layers), truth


def report_of(model: InstanceModel, dataset: YouTubeVIS) -> dict[str, Any]:
    """Mean overlap of all tracks in percent by pair of layers.

    difference: of the means of videos, to the last layer on both frames, with its interval.
    """
    layers = [n for n in LAYERS if n <= model.config.query_decoder.layers]
    by_video = [video_overlaps(model, dataset, video, layers) for video in dataset.videos]
    names = [video.name for video in dataset.videos]
    rows = {}
    for pair in by_video[0]:
        values = [found[pair] for found in by_video]
        overlaps = np.concatenate(values)
        rows[pair] = {
            "mIoU": round(100 * float(overlaps.mean()), 2),
            "videos": {
                name: round(100 * float(np.mean(own)), 3)
                for name, own in zip(names, values, strict=True)
                if own
            },
            "paper": PAPER.get(pair),
        }
    reference = list(rows)[-1]
    for row in rows.values():
        difference = bootstrap_difference(row["videos"], rows[reference]["videos"])
        row["difference"] = difference.to_dict()
    return {
        "model": model.name,
        "videos": len(dataset),
        "tracks_in_pairs": len(overlaps),
        "reference": reference,
        "pairs": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="YouTube-VIS file with truth")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    given = parser.parse_args()
    model = load_instances(
        checkpoint=given.weights,
        router="none",
        device=given.device,
        dtype=cast(DTypeName, given.dtype),
    )
    make_folder(given.out.parent)
    report = report_of(model, YouTubeVIS(given.data))
    write_json(given.out, report)
    for pair, row in report["pairs"].items():
        print(f"{pair}: mIoU {row['mIoU']:.2f}")


if __name__ == "__main__":
    main()
