"""`tempomask instances`: every object of the known classes in a video, found and followed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.options import FRAMES, MODEL, ModelOptions, RunOutput
from tempomask.devices import DTypeName
from tempomask.instances.options import InstanceOptions

if TYPE_CHECKING:
    from tempomask.instances.model import InstanceModel


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True)
class InstanceModelOptions(ModelOptions):
    """Which instance segmenter, and where it runs.

    Args:
        model: Such as nano-vis, minvis-r50-ytvis19, dvis-plus-r50-ovis. Default: what the
            checkpoint holds, or nano-vis.
        checkpoint: Weights: a file, a folder or a Hub id. Default: the model's own.
        image_size: Shorter side of what the network sees. Default: the model's own.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Number type of the computation.
        router: Which decoder layers run: tar routes by the model's TAR weights, none runs all, a
            number so many on every frame; auto takes TAR where the file has it.
        classes: Other names for the classes: a text file with one a line, or JSON.
    """

    # Named again, as the library resolves the names of types in this module.
    dtype: DTypeName = "auto"
    router: Literal["auto", "tar", "none"] | int = "auto"
    classes: Path | None = None

    def load_instances(self) -> InstanceModel:
        """The model, with a spinner while it loads; InputError as from its loader."""
        with console.waiting("loading the model"):
            from tempomask.instances.model import load_instances

            return load_instances(
                self.model,
                self.checkpoint,
                self.router,
                self.classes,
                self.image_size,
                self.device,
                self.dtype,
            )


def instances(
    source: str,
    /,
    *,
    model: InstanceModelOptions = InstanceModelOptions(),
    shown: Annotated[
        InstanceOptions, Parameter(name="*", group="What is shown")
    ] = InstanceOptions(),
    start: Annotated[int, Parameter(group=FRAMES)] = 0,
    end: Annotated[int | None, Parameter(group=FRAMES)] = None,
    output: RunOutput = RunOutput(),
) -> int:
    """Find, classify and follow every instance in SOURCE, frame by frame.

    `tempomask instances street.mp4 --out street`

    Formats of --save: overlay, json, tracks, boxes, masks. Default: overlay,json,tracks. Ctrl-C
    stops after the frame at hand and keeps what is finished; the exit code is then 130.

    Args:
        source: Video file, folder of images, stream URL, or a number for a camera.
        start: First frame.
        end: Frame to stop before.
    """
    output.check("instances")
    with console.waiting("starting"):
        from tempomask.cli.instance_task import InstanceTask, print_report
        from tempomask.cli.run import Run
        from tempomask.io.video import open_video

    saved, weights = ("overlay", "json", "tracks"), model.checkpoint
    request = output.request(source, "instances", saved, start=start, end=end, checkpoint=weights)
    with open_video(source) as video:
        run = Run(request, InstanceTask(shown), video)
        report, files = run.execute(model.load_instances())
    return console.conclude(report, files, output.as_json, print_report)
