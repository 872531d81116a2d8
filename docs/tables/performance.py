"""Speed, memory and cost: tables of docs/performance.md, docs/nano.md and the README."""

from __future__ import annotations

from docs.tables.markdown import ROOT, number, percent, read, table

FOLDER = "docs/results/performance"
SIDES = {
    "transformers": "transformers",
    "fast": "tempomask",
    "plain": "tempomask, plain engine",
}
ONNX_SIDES = {
    "plain": "torch, plain engine",
    "fast": "torch, fast engine",
    "compiled": "torch, compiled",
    "onnx": "ONNX Runtime",
    "onnx-int8": "ONNX Runtime, int8",
}
COMPARED = {
    "tiny": "SAM 2.1-T, 1",
    "large": "SAM 2.1-L, 1",
    "tiny_10_objects": "SAM 2.1-T, 10",
    "efficienttam_s_2": "EfficientTAM-S (Eq. 6), 1",
    "efficienttam_ti_512": "EfficientTAM-Ti at 512, 1",
}


def beside_transformers() -> str:
    """Seconds a frame, memory and agreement, ours and transformers', by model and type."""
    rows = []
    for name, model in COMPARED.items():
        for row in read(f"{FOLDER}/against_{name}")["rows"]:
            compared = "speedup" in row
            rows.append(
                (
                    model,
                    SIDES[row["side"]],
                    row["dtype"],
                    number(row["seconds"], 3),
                    f"{row['speedup']:.2f}x" if compared else "",
                    row["peak_mib"],
                    f"{row['same_sign_where_clear']:.2%}" if compared else "",
                    number(row["mask_iou"], 4) if compared else "",
                )
            )
    head = ("model, objects", "who", "type", ">s a frame", ">faster than the first", ">peak MiB")
    return table((*head, ">same sign where clear", ">mask IoU"), rows)


def in_turns() -> str:
    """Times of sides of one process, a column for each kind of CPU that was measured."""
    reports = [
        read(f"{FOLDER}/{path.stem}") for path in sorted((ROOT / FOLDER).glob("turns_*.json"))
    ]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for report in reports:
        kind = report["machine"]["kind"] + (", emulated" if report["machine"]["emulated"] else "")
        for row in report["rows"]:
            place = f"{report['model']}, {report['objects']}", row["side"].replace("+", ", ")
            text = f"{number(row['seconds'], 3)} s, {number(row['times_as_fast'], 2)}x"
            cells.setdefault(place, {})[kind] = text
    kinds = sorted({kind for found in cells.values() for kind in found})
    rows = [(*place, *(found.get(kind, "") for kind in kinds)) for place, found in cells.items()]
    return table(("model, objects", "side", *(f">{kind}" for kind in kinds)), rows)


def memory_budget() -> str:
    """J&F of nano against the time of memory attention and of a frame, by budget."""
    rows = []
    for row in read("docs/results/memory_budget")["rows"]:
        (worst, lost), *_ = row["most_lost"].items()
        times = (f"{row[name]:.2f}x" for name in ("attention_faster", "frame_faster"))
        most = f"{worst}, {-lost:+.1f}"
        rows.append((row["variant"], percent(row["queries"]), number(row["J&F"], 1), most, *times))
    head = ("variant", ">tokens that attend", ">J&F", "worst sequence")
    return table((*head, ">memory attention", ">frame"), rows)


def engine_agreement() -> str:
    """Mean IoU of the fast engine's masks with the plain network's in float32."""
    report = read(f"{FOLDER}/agreement")
    rows = []
    for variant, mean in report["mean_iou"].items():
        lowest = min(report["iou"][variant], key=report["iou"][variant].get)
        worst = f"{lowest}, {report['iou'][variant][lowest]:.4f}"
        kind = "float32" if variant.endswith("float32") else "bfloat16"
        rows.append((kind, number(mean, 4), worst))
    return table(("type", ">mean IoU", "lowest sequence"), rows)


def engine_steps() -> str:
    """The engine, and with one part left out."""
    models = read(f"{FOLDER}/engine_steps")["models"]
    parts = [(m, part) for m in models for part in ("encode", "attend")]
    head = ("", *(f">{m['model']} {part}" for m, part in parts))
    rows = []
    for variant in models[0]["seconds"]:
        cells = []
        for model, part in parts:
            value = model["seconds"][variant][part]
            cells.append(number(value["median"] if isinstance(value, dict) else value, 3))
        rows.append((variant, *cells))
    return table(head, rows)


def floor() -> str:
    """How near the encoder is to what the machine allows."""
    rows = []
    for size in ("tiny", "large"):
        report = read(f"{FOLDER}/profile_{size}")
        times, turns = report["seconds"]["fast"], report["encoder_share_of_floor_by_turn"]
        rows.append(
            (
                f"sam2.1-{size}",
                number(sum(report["encoder_floor_seconds"].values()), 3),
                number(report["encoder_seconds"], 3),
                f"{report['encoder_share_of_floor']:.1%} ({min(turns):.0%} to {max(turns):.0%})",
                *(number(times[part], 3) for part in ("attend", "decode", "encode_memory")),
            )
        )
    head = ("", ">encode: floor", ">encode: time", ">share of the floor (turns)", ">attend")
    return table((*head, ">decode", ">encode memory"), rows)


def peaks() -> str:
    """What the floor is made of: measured peaks of each run."""
    rows = []
    for size in ("tiny", "large"):
        report = read(f"{FOLDER}/profile_{size}")
        peak = report["peak_gflops"]
        cells = (number(peak["products"], 0), number(peak["attention"], 0))
        rows.append((f"sam2.1-{size}", *cells, number(report["bandwidth_gb"], 1)))
    return table(("", ">products, GFLOP/s", ">attention, GFLOP/s", ">copies, GB/s"), rows)


def several_objects() -> str:
    """Frames a second by the number of objects, and what an object beyond the first takes."""
    rows, counts = [], [1, 2, 5, 10, 20]
    files = (("tiny", "AMX"), ("nano", "AMX"), ("tiny_avx2", "AVX2"), ("nano_avx2", "AVX2"))
    for name, cpu in files:
        report = read(f"{FOLDER}/objects_{name}")
        model = {"tiny": "sam2.1-tiny"}.get(name.partition("_")[0], "nano")
        for curve in report["curves"]:
            speeds = {row["objects"]: number(row["fps"], 2) for row in curve["rows"]}
            kind = "pooled" if curve["pooled"] else "exact"
            shares = (curve[f"marginal_share_of_{n}"] for n in ("first", "flops"))
            cells = (speeds.get(n, "") for n in counts)
            rows.append((f"{model}, {kind}", cpu, *cells, *map(percent, shares)))
    head = ("FPS", "CPU", *(f">{n}" for n in counts), ">each further object")
    return table((*head, ">its share of the arithmetic"), rows)


def around_the_network() -> str:
    """Start-up, import, decoding and writing, memory."""
    startup, share = read(f"{FOLDER}/startup"), read(f"{FOLDER}/pipeline_share")["share_outside"]
    memory, soak = read("docs/results/flat_memory"), read("docs/results/soak")
    written = ", ".join(soak["saved"])

    def span(name: str) -> str:
        least, most = soak[name]
        return str(most) if least == most else f"{least} to {most}"

    torch, own = (startup[f"import_{n}_seconds"] for n in ("torch", "tempomask_over_torch"))
    return table(
        ("what", ">measured", "command"),
        [
            (
                "`tempomask track` to nano's first mask on disk",
                f"{number(startup['first_mask_seconds'], 2)} s",
                "`benchmarks.speed.startup`",
            ),
            (
                f"importing tempomask, over torch's own {number(torch, 2)} s",
                f"{number(own, 2)} s",
                "`benchmarks.speed.startup`",
            ),
            (
                "decoding, resizing, writing masks and overlay, SAM 2.1-T",
                percent(share, 1),
                "`benchmarks.speed.pipeline_share`",
            ),
            (
                f"growth of resident memory over {memory['frames']:,} frames,"
                f" {memory['objects']} objects",
                percent(memory["growth"], 1),
                "`benchmarks.speed.flat_memory`",
            ),
            (
                f"the same over {soak['frames']:,} frames of nano, writing {written}",
                f"{percent(soak['growth'], 1)}, {span('files')} open files,"
                f" {span('threads')} threads",
                "`benchmarks.speed.flat_memory --save`",
            ),
        ],
    )


def frame_of_nano() -> str:
    """Milliseconds of a frame of nano by size, type and engine."""
    rows = [
        (row["image_size"], row["engine"], row["dtype"], number(row["median_ms"], 0))
        for row in read("docs/results/nano_frame_time")["rows"]
    ]
    return table((">input", "engine", "type", ">ms a frame"), rows)


def instances() -> str:
    """Where the time of an instance segmenter goes."""
    rows = []
    reports = [read("docs/results/instances/speed"), read("docs/results/instances/speed_dvis")]
    for model in (model for report in reports for model in report["models"]):
        for row in model["rows"]:
            if row["name"] in ("all 9 layers", "first 3 layers", "nothing fused"):
                shares = row["network_share"].values()
                name = f"{model['model']}, {model['dtype']}, {row['name']}"
                rows.append((name, number(row["frame_ms"], 0), *(percent(s, 1) for s in shares)))
    head = ("model", ">ms a frame", ">backbone", ">pixel decoder", ">query decoder", ">tracker")
    return table(head, rows)


def instance_models() -> str:
    """Seconds a frame and memory, a row a system."""
    rows = [
        (
            row["model"],
            row["short_side"],
            number(row["million_parameters"], 1),
            number(row["seconds"], 2),
            row["peak_mib"],
        )
        for row in read("docs/results/instances/models")["rows"]
    ]
    head = ("model", ">short side", ">million parameters", ">s a frame", ">peak MiB")
    return table(head, rows)


def fused_parts() -> str:
    """What each fused part of an instance segmenter gives by itself."""
    models = read("docs/results/instances/speed")["models"]
    speedups = []
    for model in models:
        rows = {row["name"]: row["frame_ms"] for row in model["rows"]}
        speedups.append({name: rows["nothing fused"] / ms for name, ms in rows.items()})
    parts = {
        "fused points alone": "point sampling in one pass (`deformable_attention.py`)",
        "fused attention alone": "attention through `scaled_dot_product_attention`",
        "fused masks alone": "mask features resized once a frame (`query_decoder.py`)",
        "folded and packed alone": "norms folded, weights packed (`instances/fast.py`)",
        "all 9 layers": "all of them",
    }
    head = ("part", *(f">{model['model']}" for model in models))
    return table(head, [(text, *(f"{s[n]:.2f}x" for s in speedups)) for n, text in parts.items()])


def annotate() -> str:
    """How soon the page of annotate answers, by threads."""
    rows = []
    for row in read("docs/results/annotate_page")["rows"]:
        for name, what in (("click", "click to mask shown"), ("preview", "pointer to preview")):
            times = (number(row[name][p], 0) for p in ("p50_ms", "p95_ms"))
            rows.append((what, row["threads"], row[name]["count"], *times))
        scrubbed = 1000 / row["scrubbed_frames_per_second"]
        rows.append(("from one frame to the next", row["threads"], "", number(scrubbed, 0), ""))
    return table(("nano", ">threads", ">times", ">median ms", ">95% within ms"), rows)


def batch_throughput() -> str:
    """Many short videos: `track` one by one and divisions of `batch`, frames a second."""
    report = read("docs/results/batch_throughput")
    rows = []
    for side, ratio in report["times_as_fast_as_track"].items():
        workers, _, threads = side.partition("x")
        name = f"`batch`, {workers} x {threads}" if threads else "`track`, one after the other"
        rows.append((name, number(report["frames_per_second"][side], 1), f"{ratio:.2f}x"))
    return table(("workers x threads", ">frames a second", ">against `track`"), rows)


def batch_scheduler() -> str:
    """A million fake jobs on a thousand simulated workers."""
    found = read("docs/results/batch_scale")
    rows = [
        (
            kind,
            number(run["mean_job_seconds"], 0),
            number(run["hours"], 2),
            percent(run["workers_at_work"], 1),
            percent(run["scheduler_busy"], 1),
        )
        for kind, runs in found["scheduler"].items()
        for run in runs
    ]
    head = ("workers", ">mean job, s", ">hours", ">workers at work", ">scheduler busy")
    return table(head, rows)


def batch_files() -> str:
    """What a list costs for each job."""
    found = read("docs/results/batch_list")
    named = {
        "command_line": "read a command line anew",
        "read": "read a row",
        "check": "check it as `track` does",
        "no_markers": "look for a marker",
        "read_marker": "read one",
        "write_marker": "write one",
        "report": "write the report",
    }
    rows = [(text, number(found[name]["cpu_us"], 0)) for name, text in named.items()]
    memory = [
        (f"memory of the process with {found['jobs']:,} jobs, MB", f"{found['resident_mb']:,}"),
        ("with their reports, MB", f"{found['resident_mb_with_report']:,}"),
        ("`report.json`, MB", f"{found['report_mb']:,}"),
    ]
    return table(("of a job", ">CPU us"), rows + memory)


def training_steps() -> str:
    """Seconds of a step of fine-tuning, measured."""
    rows = [
        (row["model"], row["image_size"], number(row["seconds"], 1))
        for row in read("docs/results/training_step")["rows"]
    ]
    return table(("model", ">image", ">s a step"), rows)


def training_memory() -> str:
    """GiB of a step of fine-tuning by calculation, with and without recomputing."""
    rows = []
    for row in read("docs/results/training_memory")["rows"]:
        state = 20 * row["parameters"] / 2**30
        clip = (row["kept_mib"] + row["recomputed_mib"]) / 1024
        rows.append(
            (
                row["model"],
                row["image_size"],
                number(state, 1),
                number(clip, 1),
                number(row["kept_without_recomputing_mib"] / 1024, 1),
                int((24 - state) // clip),
            )
        )
    head = (
        "model",
        ">image",
        ">weights and optimiser",
        ">a clip",
        ">a clip, kept",
        ">clips in 24 GiB",
    )
    return table(head, rows)


def onnx() -> str:
    """Milliseconds of each step and peak memory, by model and way to compute it."""
    steps = ("encode", "attend", "decode", "segment", "encode_memory")
    rows = []
    for path in sorted((ROOT / FOLDER).glob("onnx_*.json")):
        for model in read(f"{FOLDER}/{path.stem}")["models"]:
            for side, found in model["steps"].items():
                peak = model["peak_mib"].get(side)
                agreed = model.get("agreement", {}).get(side)
                rows.append(
                    (
                        model["model"],
                        ONNX_SIDES[side],
                        *(number(found[step]["ms"], 1) for step in steps),
                        "-" if peak is None else number(peak["run"], 0),
                        "-" if agreed is None else number(agreed["mean"], 4),
                    )
                )
    head = ("model", "who", *(f">{step.replace('_', ' ')}" for step in steps))
    return table((*head, ">peak MiB", ">mask IoU"), rows)
