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
    quality = f"{number(mask['J&F'])}, {number(box['J&F'])}, {number(click['J&F'])}"
    objects = read(f"{RESULTS}/performance/objects_nano")["curves"][0]["rows"][0]
    rows = [("nano", "nano (bundled)", quality, objects["fps"])]
    for size, title in (("tiny", "SAM 2.1-T"), ("large", "SAM 2.1-L")):
        report = read(f"{RESULTS}/performance/against_{size}")
        ours = next(r for r in report["rows"] if (r["side"], r["dtype"]) == ("fast", "bfloat16"))
        rows.append((f"sam2.1-{size}", title, "not run here", 1 / ours["seconds"]))
    head = ("model", ">parameters", ">J&F from mask, box, click", ">frames a second, AMX")
    cells = []
    for name, title, scores, amx in rows:
        size = f"{MODELS[name].parameters:.1f} M"
        cells.append((title, size, scores, _rate(amx), *_rates_without_units(name)))
    return table((*head, ">AVX2", ">AVX2, budgets"), cells)


def _rates_without_units(name: str) -> tuple[str, str]:
    """Frames a second by AVX2 alone: exact, and with the budgets that lose little."""
    report = read(f"{RESULTS}/performance/turns_{name}_avx2")
    seconds = {row["side"]: row["seconds"] for row in report["rows"]}
    sides = ("fast:float32", "fast+memory=0.3+blocks=0.6:float32")
    exact, budgets = (_rate(1 / seconds[side]) for side in sides)
    return exact, budgets


def _rate(frames_per_second: float) -> str:
    return number(frames_per_second, 1 if frames_per_second >= 2 else 2)


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
