"""Track a clicked object with ONNX Runtime and NumPy alone, as a program in any language would.

tempomask export --model nano --out graphs
python examples/track_onnx.py graphs frames.npy 104 92 masks.npy

frames.npy: (T, H, W, 3) uint8, RGB; masks.npy: (T, H, W) bool. docs/guides/export.md explains.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

# Of inputs that are not float32.
KINDS = {"temporal_index": np.int64}


def resize(maps, height, width):
    """Bilinear, with antialiasing: (..., h, w) to (..., height, width)."""

    def weights(old, new):
        centres = (np.arange(new)[:, None] + 0.5) * old / new - 0.5
        near = np.maximum(0, 1 - np.abs(centres - np.arange(old)) / max(old / new, 1))
        return (near / near.sum(axis=1, keepdims=True)).astype(np.float32)

    return weights(maps.shape[-2], height) @ maps @ weights(maps.shape[-1], width).T


class Tracker:
    """One object; its first frame is clicked, and is remembered for good."""

    def __init__(self, folder):
        self.about = json.loads((folder / "export.json").read_text())
        self.model, self.bank, self.time = self.about["model"], [], 0
        self.fixed = {k: np.float32(v) for k, v in self.about["constants"].items()}
        self.graphs = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx")
            for name in self.about["graphs"]
        }

    def run(self, graph, values):
        """The outputs of a graph by name; inputs that are not in `values` are zeros."""
        shapes = self.about["graphs"][graph]
        inputs = {}
        for name, shape in shapes["inputs"].items():
            kind, given = KINDS.get(name, np.float32), values.get(name, 0)
            inputs[name] = np.zeros(shape, kind)
            # Fewer memories or points than there are places fill the first ones.
            inputs[name][tuple(map(slice, np.shape(given)))] = given
        names = list(shapes["outputs"])
        return dict(zip(names, self.graphs[graph].run(names, inputs), strict=True))

    def attended(self, features):
        """The features, conditioned on the clicked frame and those just before."""
        t, recent = self.time, self.model["memory_frames"] - 1
        first, others = self.bank[0], self.bank[1:]
        seen = [first, *others[-recent:]]  # from the oldest to the newest
        index = [recent, *(t - m["time"] - 1 for m in seen[1:])]
        named = [first, *others[::-1]]  # from the newest to the oldest
        longest = self.model["max_pointers"] - 1
        values = {
            "features": features,
            "spatial": [[m["memory"] for m in seen]],
            "images": [[m["image"] for m in seen]],
            "temporal_index": index,
            "pointers": [[m["pointer"] for m in named]],
            "pointer_distance": [[(t - m["time"]) / longest for m in named]],
        }
        graph = "attend_lone" if len(seen) == 1 and "attend_lone" in self.graphs else "attend"
        places = self.about["graphs"][graph]["inputs"]["spatial"][1]
        present = np.zeros(self.about["graphs"][graph]["inputs"]["present"], np.float32)
        present[:, : len(seen)] = present[:, places : places + len(named)] = 1
        return self.run(graph, {**values, "present": present})["conditioned"]

    def step(self, frame, click=None):
        """The mask (H, W) on the next frame (H, W, 3)."""
        side, (height, width) = self.model["image_size"], frame.shape[:2]
        image = resize(frame.transpose(2, 0, 1) / np.float32(255), side, side)
        image = (image.T - self.about["mean"]).T / np.reshape(self.about["std"], (3, 1, 1))
        encoded = self.run("encode", {"image": image[None]})
        features, clicks = encoded["features"], int(click is not None)
        if click is None:
            found = self.run("decode", {**encoded, "features": self.attended(features)})
        else:
            labels = np.full((1, self.about["points"]), -2)  # -2: no point in this place
            labels[0, 0] = 1
            points = np.multiply(click, (side / width, side / height))
            features = features + self.fixed["no_memory"][:, None, None]
            prompts = {"features": features, "points": [[points]], "labels": labels}
            found = self.run("segment", {**encoded, **prompts})
        several = self.model["multimask_min_points"] <= clicks <= self.model["multimask_max_points"]
        best = 1 + found["iou"][0, 1:].argmax() if several else 0
        logits, pointer = found["logits"][0, best], found["pointers"][0, best]
        if found["object_score"][0] <= 0:
            logits, pointer = np.full_like(logits, -1024), self.fixed["no_object_pointer"]
        mask = 1 / (1 + np.exp(-resize(logits, side, side)))
        seen = {"features": encoded["features"], "mask": mask[None, None]}
        memory = self.run("encode_memory", {**seen, "object_score": found["object_score"]})
        kept = {"time": self.time, "memory": memory["memory"][0], "pointer": pointer}
        self.bank.append({**kept, "image": encoded["features"][0]})
        self.bank[1 : 1 - self.model["max_pointers"]] = []  # the clicked one, and the newest
        self.time += 1
        return resize(logits, height, width) > 0


def main(folder, frames, x, y, masks):
    """Track through a file of frames."""
    tracker, found = Tracker(Path(folder)), []
    for frame in np.load(frames):
        found.append(tracker.step(frame, None if found else (float(x), float(y))))
    np.save(masks, found)


if __name__ == "__main__":
    main(*sys.argv[1:])
