"""Track live, frame by frame, in bounded memory; an object may be added on the way.

python examples/live_camera.py --camera 0

Without a camera the bundled clip plays its part.
"""

from __future__ import annotations

import argparse
from itertools import islice

from clip import BOX, VIDEO
from tempomask import load
from tempomask.io.video import open_video


def main(arguments: list[str] | None = None) -> None:
    """Print where the objects are, for some frames."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camera", type=int, default=None)
    parser.add_argument("--frames", type=int, default=96)
    given = parser.parse_args(arguments)

    session = load("nano").session()
    session.prompt(object_id=1, box=BOX)
    with open_video(VIDEO if given.camera is None else given.camera) as video:
        for index, frame in islice(video.frames(), given.frames):
            if index == 10:
                session.prompt(object_id=2, points=[(500, 120)], labels=[1])
            result = session.step(frame)
            for object_id, box in zip(result.object_ids, result.boxes, strict=True):
                print(index, object_id, box.round().astype(int).tolist())


if __name__ == "__main__":
    main()
