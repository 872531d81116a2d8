"""`tempomask export`: a model as ONNX graphs, for other runtimes and for `--model DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tempomask.cli import console
from tempomask.cli.options import MODEL, OUTPUT, SPEED, Json, Positive
from tempomask.errors import InputError
from tempomask.routing.options import Routing


def export(
    *,
    out: Annotated[Path, Parameter(group=OUTPUT)],
    model: Annotated[str | None, Parameter(name=["--model", "-m"], group=MODEL)] = None,
    checkpoint: Annotated[str | None, Parameter(group=MODEL)] = None,
    image_size: Annotated[int | None, Parameter(group=MODEL)] = None,
    memories: Annotated[Positive, Parameter(group=MODEL)] = 7,
    adapter: Annotated[str | None, Parameter(group=SPEED)] = None,
    plan: Annotated[Literal["static", "routed"], Parameter(group=SPEED)] = "static",
    budget: Annotated[float | None, Parameter(group=SPEED)] = None,
    router: Annotated[str, Parameter(group=SPEED)] = "auto",
    pooled_memory: Annotated[bool, Parameter(group=SPEED)] = False,
    precision: Annotated[Literal["float32", "int8"], Parameter(group=SPEED)] = "float32",
    opset: Annotated[int, Parameter(group=OUTPUT)] = 18,
    as_json: Json = False,
) -> None:
    """Write a model as ONNX graphs with fixed shapes, one for each step of a frame.

    Track with them: tempomask track VIDEO --model DIR. docs/guides/export.md tells how to run them
    from other languages.

    Args:
        out: Folder for the graphs and export.json, which describes them.
        model: Name as in `tempomask models`. Default: what the checkpoint holds, or nano.
        checkpoint: Weights: a file, a folder or a Hub id. Default: the model's own.
        image_size: Side of the square that the network sees. Default: the model's own.
        memories: Places for memories: six for the frames before, the others for prompted ones.
        adapter: What tempomask adapt made: a folder, or the name of a bundled one.
        plan: static: the same encoder blocks on every frame; of a router those that it asks for
            whatever the image. routed: the router chooses for every frame.
        budget: Share of the encoder's blocks in a static plan. Default: the adapter's.
        router: Same as for track: auto, none, plan-a, plan-b.
        pooled_memory: Attend to memories pooled 2x2: faster, a little less exact.
        precision: int8 rounds the matrix products; smaller files, masks that differ a little.
        opset: Of ONNX, 18 to 23.
    """
    rows: dict[str, float] = {}
    with console.waiting("loading the model") as status:
        from tempomask.export.writer import export_segmenter
        from tempomask.model import load
        from tempomask.routing.recurrent import RecurrentPolicy
        from tempomask.routing.static import StaticPlan

        loaded = load(
            model,
            checkpoint,
            image_size,
            "cpu",
            "float32",
            adapter,
            engine="plain",
            pooled_memory=pooled_memory,
        )

        def progress(name: str, difference: float) -> None:
            rows[name] = difference
            status.update(f"wrote {name}")

        status.update("exporting")
        policy = loaded.policy(Routing(budget=budget, router=router))
        if plan == "routed" and not isinstance(policy, RecurrentPolicy):
            raise InputError(
                "--plan routed needs --adapter with a router, such as nano-rds for nano"
            )
        if plan == "static" and isinstance(policy, RecurrentPolicy):
            share = policy.control.budget(0.0)
            encoder = loaded.segmenter.encoder
            policy = StaticPlan(policy.usual_blocks(share), encoder)
        export_segmenter(
            loaded.segmenter,
            out,
            policy,
            adapter=adapter,
            memories=memories,
            opset=opset,
            precision=precision,
            progress=progress,
        )
    if as_json:
        console.print_json({"out": str(out), "model": loaded.name, "differences": rows})
        return
    table = console.table("graph", ">size", ">difference")
    for name, difference in rows.items():
        size = (out / f"{name}.onnx").stat().st_size / 1e6
        table.add_row(f"{name}.onnx", f"{size:.1f} MB", f"{difference:.1e}")
    console.out.print(table)
