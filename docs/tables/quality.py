"""Quality: tables of the README, docs/nano.md and the guides."""

from __future__ import annotations

from docs.tables.markdown import number, percent, read, table
from tempomask.weights.zoo import MODELS

RESULTS = "docs/results"


def _davis(name: str) -> dict[str, float]:
    return read(f"{RESULTS}/nano-davis16-val-dev-{name}/summary")


def readme() -> str:
    """The one table of the README: what nano and the larger models give."""
    mask, box, click = (_davis(name) for name in ("mask", "box", "click"))
    objects = read(f"{RESULTS}/performance/objects_nano")["curves"][0]["rows"][0]
    rows = [
        (
            "nano (bundled)",
            f"{MODELS['nano'].parameters:.1f} M",
            f"{number(mask['J&F'])}, {number(box['J&F'])}, {number(click['J&F'])}",
            number(objects["fps"], 1),
        )
    ]
    for name, title in (("tiny", "SAM 2.1-T"), ("large", "SAM 2.1-L")):
        report = read(f"{RESULTS}/performance/against_{name}")
        ours = next(r for r in report["rows"] if (r["side"], r["dtype"]) == ("fast", "bfloat16"))
        size = f"{MODELS[f'sam2.1-{name}'].parameters:.1f} M"
        rows.append((title, size, "not run here", number(1 / ours["seconds"], 2)))
    head = ("model", ">parameters", ">J&F from mask, box, click", ">frames a second")
    return table(head, rows)


def davis() -> str:
    """J&F on DAVIS of nano and of trackers without a network."""
    baselines = read(f"{RESULTS}/davis_baselines")
    rows = [
        ("repeating the first mask", number(baselines["repeat"]["mean"])),
        ("warping the first mask by optical flow", number(baselines["flow"]["mean"])),
        *(
            (f"nano, from {text}", number(_davis(name)["J&F"]))
            for name, text in (("mask", "the first mask"), ("box", "a box"), ("click", "one click"))
        ),
    ]
    return table(("", ">J&F"), rows)


def models() -> str:
    """Every model that tracks, from the registry."""
    rows = [
        (f"`{name}`", f"{entry.parameters:.1f} M", f"`{entry.repository or 'bundled'}`")
        for name, entry in MODELS.items()
    ]
    return table(("name", ">parameters", "weights"), rows)


def propagation() -> str:
    """J&F of label propagation over nano's features."""
    rows = [
        (
            row["short_side"],
            "all" if row["budget"] is None else f"RDS {row['budget']:g}",
            percent(row["blocks_run"]),
            number(row["J&F"]),
        )
        for row in read(f"{RESULTS}/propagation_quality")["quality"]
    ]
    return table((">short side", "blocks", ">blocks run", ">J&F"), rows)


def propagation_speed() -> str:
    """Seconds of a frame of label propagation over DINOv3, full and routed."""
    rows = [
        (
            row["model"],
            row["policy"],
            percent(row["blocks_run"]),
            number(row["frame_s"], 2),
            f"{row['speed_up']:.2f}x",
        )
        for row in read(f"{RESULTS}/propagation_speed")["speed"]
    ]
    return table(("model", "policy", ">blocks run", ">s a frame", ">speed-up"), rows)


def inputs_tried() -> str:
    """How many inputs each parser was given by `make fuzz`, and how many it did not survive."""
    rows = read(f"{RESULTS}/fuzz")
    total = {"parser": "all", **{k: sum(row[k] for row in rows) for k in ("inputs", "failures")}}
    cells = [(row["parser"], f"{row['inputs']:,}", row["failures"]) for row in (*rows, total)]
    return table(("file", ">inputs", ">failures"), cells)
