"""`tempomask vot`: a tracker program for the VOT toolkit, which starts it and sends frames by TraX.

The toolkit itself (GPL) is neither imported nor needed here; the protocol is that of the package
`vot-trax` (BSD). A session answers for all objects; each `initialize` begins a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tempomask.cli.options import ModelOptions, RoutingOptions, TrackingFlags
from tempomask.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tempomask.frames import Size
    from tempomask.prompts import Prompt
    from tempomask.results import FrameResult
    from tempomask.tracking.session import Session


def vot(
    *,
    region: Literal["mask", "rectangle"] = "mask",
    model: ModelOptions = ModelOptions(),
    routing: RoutingOptions = RoutingOptions(),
    tracking: TrackingFlags = TrackingFlags(),
) -> int:
    """Track for the VOT toolkit, which starts this command as trackers.ini says.

    `command = tempomask vot --model sam2.1-tiny --checkpoint tiny.pt`, with `protocol = trax`; see
    docs/guides/evaluation.md.

    Args:
        region: What is received and sent: masks, or the boxes of masks.
    """
    try:
        import trax
    except ImportError:
        raise InputError(
            "the VOT toolkit's protocol needs the package vot-trax: pip install 'tempomask[vot]'"
        ) from None
    from tempomask.io.images import read_image

    options = tracking.options()
    adapter = routing.adapter_for(model.model, model.checkpoint)
    loaded = model.load(adapter, tracking.pooled_memory)
    server = trax.Server([region], [trax.Image.PATH], tracker_name="tempomask", multiobject=True)
    reason = "no frame came"
    try:
        session: Session | None = None
        index = count = 0
        while (request := server.wait()).type != trax.TraxStatus.QUIT:
            (image,) = request.image.values()
            frame = read_image(Path(image.path()))
            if session is None or request.type == trax.TraxStatus.INITIALIZE:
                session, index, count = loaded.session(options=options, routing=routing), 0, 0
            for given, _ in request.objects or ():
                count += 1
                session.add(_prompt(given, index, count, frame.shape[:2]))
            result = session.step(frame)
            index += 1
            server.status([_answer(result, n, region) for n in range(1, count + 1)])
        reason = None
    except InputError as error:
        reason = str(error)
        raise
    finally:
        server.quit(reason)
    return 0


def _prompt(region: Any, index: int, object_id: int, size: Size) -> Prompt:
    """What the toolkit says of an object, as a prompt; InputError for a region without area."""
    import trax

    from tempomask.prompts import Prompt

    if isinstance(region, trax.Rectangle):
        x, y, width, height = region.bounds()
        box = max(x, 0), max(y, 0), min(x + width, size[1]), min(y + height, size[0])
        return Prompt(index, object_id, box=box)
    if isinstance(region, trax.Mask):
        mask = _placed(region.array(), region.offset(), size)
    elif isinstance(region, trax.Polygon):
        mask = _filled([region.get(i) for i in range(region.size())], size)
    else:
        raise InputError(f"object {object_id} comes without a region")
    return Prompt(index, object_id, mask=mask)


def _placed(part: NDArray[Any], offset: tuple[int, int], size: Size) -> NDArray[np.bool_]:
    """A part of a mask at its offset (x, y) in the whole, cut at the edges."""
    import numpy as np

    whole, (x, y) = np.zeros(size, dtype=bool), offset
    part = part[max(0, -y) : size[0] - y, max(0, -x) : size[1] - x] > 0
    top, left = max(0, y), max(0, x)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole


def _filled(points: Sequence[tuple[float, float]], size: Size) -> NDArray[np.bool_]:
    import numpy as np
    from PIL import Image, ImageDraw

    image = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(image).polygon(points, fill=1)
    return np.asarray(image)


def _answer(result: FrameResult, object_id: int, kind: str) -> tuple[Any, dict[str, Any]]:
    """Region and confidence of an object; a special region where it is not to be seen."""
    import numpy as np
    import trax

    row = result.object_ids.index(object_id)
    mask = result.masks[row]
    if not mask.any():
        return trax.Special.create(0), {"confidence": 0.0}
    confidence = {"confidence": round(float(result.predicted_iou[row]), 4)}
    if kind == "mask":
        return trax.Mask.create(np.ascontiguousarray(mask, dtype=np.uint8)), confidence
    x0, y0, x1, y1 = result.boxes[row].tolist()
    return trax.Rectangle.create(x0, y0, x1 - x0, y1 - y0), confidence
