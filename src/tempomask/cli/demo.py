"""`tempomask demo`: one prompt on the bundled clip, tracked by a model and its routed submodel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.options import OUTPUT, SPEED, Json, ModelOptions, RoutingOptions

if TYPE_CHECKING:
    from tempomask.prompts import Prompt

# On and around the saucer, in the first frame of the clip.
CLICK = (104.0, 92.0)
BOX = (53.0, 42.0, 158.0, 139.0)


def demo(
    *,
    out: Annotated[Path, Parameter(group=OUTPUT)] = Path("demo"),
    prompt: Literal["click", "box", "mask"] = "click",
    model: ModelOptions = ModelOptions(),
    adapter: Annotated[str | None, Parameter(group=SPEED)] = None,
    budget: Annotated[float | None, Parameter(group=SPEED)] = None,
    as_json: Json = False,
) -> int:
    """Track a flying saucer through the bundled clip from its mask, a box or a click.

    Writes an overlay video, masks, a contact sheet and a chart of which encoder blocks ran, and
    compares the masks with the exact ones that come with the clip. The routed submodel, which comes
    with nano, tracks the same object beside the full model: how much faster, how like its masks.

    Args:
        out: Folder for the results.
        prompt: What is given on the first frame.
        adapter: What tempomask adapt made: a folder, or the name of a bundled one.
        budget: Share of the encoder's blocks that may run. Default: the adapter's.
    """
    given = first_prompt(prompt)
    routing = RoutingOptions(budget, adapter=adapter, router="rds")
    with console.waiting("starting"):
        from tempomask.cli import demo_runs
        from tempomask.cli.tracking_task import print_report

    full = model.load()
    runs = {"full model": demo_runs.track_clip(out, given, full, {"masks", "overlay", "chart"})}
    report, files = dict(runs["full model"].report), dict(runs["full model"].files)
    adapter = routing.adapter_for(model.model, model.checkpoint)
    if adapter is not None and not report["interrupted"]:
        name, folder = Path(adapter).name, out / "submodel"
        routed = model.load(adapter)
        saved = {"masks", "overlay", "blocks"}
        runs[name] = demo_runs.track_clip(folder, given, routed, saved, budget)
        report["interrupted"] = runs[name].report["interrupted"]
        files |= {f"submodel {kind}": path for kind, path in runs[name].files.items()}
        if not report["interrupted"]:
            with console.waiting("measuring the speed of both"):
                times = demo_runs.measure(routed, full, given, budget)
            report["submodel"] = {"adapter": name, **demo_runs.compare(*runs.values()), **times}
    files["sheet"] = demo_runs.draw_sheet(out / "contact_sheet.png", runs)

    def show(_: Any) -> None:
        print_report(report, remedy="run it again")
        console.out.print(f"mean IoU with the exact masks: {report['iou']:.3f}")
        if "submodel" in report:
            demo_runs.print_comparison(report, report["submodel"])

    return console.conclude(report, files, as_json, show)


def first_prompt(kind: Literal["click", "box", "mask"]) -> Prompt:
    """The click, box or mask on the first frame."""
    from tempomask.cli.demo_runs import CLIP
    from tempomask.io.images import read_mask
    from tempomask.prompts import Prompt

    if kind == "click":
        return Prompt(points=[CLICK])
    if kind == "box":
        return Prompt(box=BOX)
    return Prompt(mask=read_mask(CLIP / "first_mask.png"))
