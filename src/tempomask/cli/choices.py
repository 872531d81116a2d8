"""Options that several commands share: which model, where it runs, how it tracks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tempomask.cli import console
from tempomask.errors import InputError, check_share
from tempomask.routing.options import Routing, RuleName

if TYPE_CHECKING:
    from tempomask.devices import DTypeName
    from tempomask.model import Model

_MODEL = "Model"
_ROUTING = "Speed"
_TRACKING = "Tracking"
# What options with a value of their own are when nobody gives them.
_USUAL = {
    "compatibility": "official",
    "device": "auto",
    "dtype": "auto",
    "preset": "evaluation",
    "prompt": "mask",
    "router": "auto",
    "rule": "top-k",
}

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Name as in `tempomask models`. Default: what the checkpoint holds, or nano.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        help="Weights: a file, a folder or a Hub id. Default: the model's own.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Side of the square the network sees. Default: the model's own.",
        rich_help_panel=_MODEL,
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=_MODEL)
]
DType = Annotated[
    str,
    typer.Option(
        help="Of the computation: auto, float32, bfloat16 or float16.", rich_help_panel=_MODEL
    ),
]
PresetName = Annotated[
    str,
    typer.Option(
        help="evaluation: SAM 2's benchmark settings. interactive: its settings for clicking, with"
        " holes filled and unstable masks replaced.",
        rich_help_panel=_TRACKING,
    ),
]
CompatibilityName = Annotated[
    str,
    typer.Option(
        help="official, or transformers to give the masks of its implementation.",
        rich_help_panel=_TRACKING,
    ),
]
FillHoles = Annotated[
    int | None,
    typer.Option(
        help="Fill holes of at most so many low-resolution pixels. Default: the preset's.",
        rich_help_panel=_TRACKING,
        show_default=False,
    ),
]
NonOverlapping = Annotated[
    bool,
    typer.Option(
        "--non-overlapping",
        help="Give each pixel to one object at most.",
        rich_help_panel=_TRACKING,
    ),
]
DynamicMultimask = Annotated[
    bool,
    typer.Option(
        "--dynamic-multimask",
        help="Let an unstable mask give way to the best of three.",
        rich_help_panel=_TRACKING,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="recent: the last frames, as SAM 2. samurai: motion chooses masks and memories."
        " samurai-official: with the mistakes of its released code. Default: recent.",
        rich_help_panel=_TRACKING,
        show_default=False,
    ),
]
MemoryStride = Annotated[
    int | None,
    typer.Option(
        help="Remember every so many frames besides the last. Default: 1.",
        rich_help_panel=_TRACKING,
        show_default=False,
    ),
]
PooledMemory = Annotated[
    bool,
    typer.Option(
        "--pooled-memory",
        help="Attend to memories pooled 2x2: faster with several objects, a little less exact.",
        rich_help_panel=_TRACKING,
    ),
]
ObjectsPerBatch = Annotated[
    int | None,
    typer.Option(
        help="Objects that go through the network at once. Default: all.",
        rich_help_panel=_TRACKING,
        show_default=False,
    ),
]


Adapter = Annotated[
    str | None,
    typer.Option(
        help="What tempomask adapt made: a folder, or the name of a bundled one.",
        rich_help_panel=_ROUTING,
        show_default=False,
    ),
]
Router = Annotated[
    str,
    typer.Option(
        help="Which encoder blocks run: auto (the adapter's choice, else all), none (all), rds"
        " (chosen anew for each frame), plan-a, plan-b.",
        rich_help_panel=_ROUTING,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        help="Share of the encoder's blocks that may run. Default: the adapter's.",
        rich_help_panel=_ROUTING,
        show_default=False,
    ),
]
RuleOption = Annotated[
    str,
    typer.Option(
        "--rule",
        help="top-k holds the budget on every frame; calibrated on average, after tempomask"
        " calibrate; threshold and stochastic are the paper's.",
        rich_help_panel=_ROUTING,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Of --rule threshold: blocks whose weight reaches it run. Default: 0.5.",
        rich_help_panel=_ROUTING,
        show_default=False,
    ),
]
RoutingSeed = Annotated[
    int | None,
    typer.Option(
        help="Of the draws of --rule stochastic. Default: 0.",
        rich_help_panel=_ROUTING,
        show_default=False,
    ),
]
FramesPerSecond = Annotated[
    float | None,
    typer.Option(
        "--fps",
        help="Choose the budget frame by frame so that frames come this fast.",
        rich_help_panel=_ROUTING,
        show_default=False,
    ),
]
Adaptive = Annotated[
    bool,
    typer.Option(
        "--adaptive",
        help="Spend more on hard frames and less on easy ones; the mean stays at the budget.",
        rich_help_panel=_ROUTING,
    ),
]


def routing_options(
    router: str,
    budget: float | None,
    rule: str,
    fps: float | None = None,
    adaptive: bool = False,
    threshold: float | None = None,
    seed: int | None = None,
) -> Routing:
    """What is asked of the router.

    InputError for a budget or fps that is none, and for a threshold or seed of another rule.
    """
    if budget is not None:
        check_share("--budget", budget)
    if fps is not None and not fps > 0:
        raise InputError(f"--fps {fps:g} must be more than 0")
    for name, value, needed in (
        ("threshold", threshold, "threshold"),
        ("routing-seed", seed, "stochastic"),
    ):
        if value is not None and rule != needed:
            raise InputError(f"--{name} is for --rule {needed}; leave it out, or give that rule")
    chosen = cast("RuleName", rule)
    return Routing(budget, chosen, threshold, seed, adaptive, fps, router=router)


def adapter_for(
    adapter: str | None, model: str | None, checkpoint: str | None, routing: Routing
) -> str | None:
    """The adapter to load: the one named, else the model's bundled one if it is asked for.

    routing: a router's name asks for it, as do a budget and fps.
    """
    if adapter is not None or checkpoint is not None or routing == Routing():
        return adapter
    from tempomask.adaptation.adapter_file import bundled_adapters

    name = f"{model or 'nano'}-{'rds' if routing.router == 'auto' else routing.router}"
    return name if name in bundled_adapters() else None


def load_model(
    model: str | None,
    checkpoint: str | None,
    image_size: int | None,
    device: str,
    dtype: str = "auto",
    adapter: str | None = None,
    pooled_memory: bool = False,
) -> Model:
    """The model that the options name, with a spinner while it loads; InputError as `load`."""
    with console.waiting("loading the model"):
        from tempomask.model import load

        precision = cast("DTypeName", dtype)
        return load(
            model,
            checkpoint,
            image_size,
            device,
            precision,
            adapter,
            pooled_memory=pooled_memory,
        )


def chosen(**options: Any) -> dict[str, Any]:
    """The options that were given: those that are neither None nor False."""
    return {
        name: value for name, value in options.items() if value is not None and value is not False
    }


def unusual(**options: Any) -> dict[str, Any]:
    """Those of `chosen` that are not what they are when nobody gives them."""
    given = chosen(**options).items()
    return {name: value for name, value in given if _USUAL.get(name) != value}


def refuse(why: str, **options: Any) -> None:
    """InputError that names the first of the options that was given, if one was."""
    for name in unusual(**options):
        raise InputError(f"{why}; leave --{name.replace('_', '-')} out")
