"""Tables of the studies' READMEs: RDS, TAR, SAMURAI and other rules of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs.tables.markdown import interval, number, percent, read, table
from studies.bootstrap import bootstrap_difference

RDS, TAR, SAMURAI = "studies/rds", "studies/tar", "studies/samurai"
NAMES = {
    "base": "untouched",
    "full": "all blocks, adapted as long",
    "rds": "RDS",
    "rds-worth": "RDS, worth learnt",
    "rds-paper": "RDS, the paper's training",
    "pbd": "PBD",
    "pbd-last": "PBD, last blocks",
    "slim": "SlimSAM",
    "slim-paper": "SlimSAM, the paper's stages",
    "adavit": "AdaViT",
    "dyt": "DyT",
    "static-a": "static plan A",
    "static-b": "static plan B",
}


def rds_speed() -> str:
    """Promised and real speed-up of every method at true size."""
    rows = []
    for row in read(f"{RDS}/speed_large")["rows"]:
        encoder, frame = row["encoder_speedup"], row["frame_speedup"]
        whole = row["method"] == "full"
        rows.append(
            (
                NAMES.get(row["method"], row["method"]) if not whole else "all blocks",
                "" if whole else f"{row['budget']:g}",
                number(row["encoder_GMACs"], 0),
                number(row["frame_ms"], 0),
                "" if whole else f"{encoder['promised']:.2f}",
                "" if whole else f"{encoder['real']:.2f} ({encoder['ratio']:.0%})",
                "" if whole else f"{frame['promised']:.2f}",
                "" if whole else f"{frame['real']:.2f}",
                percent(row["routing_share"], 1) if row["routing_ms"] else "",
            )
        )
    head = ("method", ">budget", ">encoder GMACs", ">ms a frame", ">encoder: promised", ">real")
    return table((*head, ">frame: promised", ">real", ">routing"), rows)


def comparison_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Points of a comparison by cost, with differences to all blocks adapted as long."""
    full = next(row for row in rows if row["method"] == "full")
    order = {name: place for place, name in enumerate(NAMES)}
    whole, lines = full["encoder_GMACs"], []
    rows = sorted(rows, key=lambda row: -row.get("cost", row["budget"]))
    for row in sorted(
        rows, key=lambda row: (-row.get("cost", row["budget"]), order.get(row["method"], 99))
    ):
        difference = bootstrap_difference(row["sequences"], full["sequences"]).to_dict()
        reference = row["method"] in ("full", "base")
        lines.append(
            (
                NAMES.get(row["method"], row["method"]),
                "" if reference else f"{row['budget']:g}",
                number(row["J&F"]),
                "" if row["method"] == "full" else interval(difference),
                f"{number(row['encoder_GMACs'], 2)} ({percent(row['encoder_GMACs'] / whole)})",
                "" if row["speedup"] is None else f"{row['speedup']:.2f}x",
                percent(row["trained_share"], 1),
            )
        )
    head = ("method", ">budget", ">J&F", ">minus all blocks, 95%", ">encoder GMACs")
    return table((*head, ">speed-up", ">trained"), lines)


def rds_comparison() -> str:
    """Every method at every budget, on nano."""
    return comparison_rows(read(f"{RDS}/comparison/pareto")["rows"])


def rds_student() -> str:
    """The same on the student, whose blocks matter."""
    rows = read(f"{RDS}/student/pareto")["rows"]
    missed = read(f"{RDS}/student/learn_missed")["rows"]
    return comparison_rows(
        [*rows, *({**row, "method": "RDS, gradient of skipped blocks"} for row in missed)]
    )


def rds_short_stem() -> str:
    """The same on nano with half of its stem."""
    return comparison_rows(read(f"{RDS}/short_stem/pareto")["rows"])


def claims(name: str) -> str:
    """What the paper claims for RDS at 0.6, and what was measured."""
    rows = []
    for claim in read(f"{RDS}/{name}/pareto")["claims"]:
        measured, seen = claim["measured"], claim["seen"]
        value = "not measured"
        if measured is not None:
            value = interval(measured) if "low" in measured else percent(measured["mean"], 1)
        rows.append((f"RDS {claim['claim']}", value, "-" if seen is None else ["no", "yes"][seen]))
    return table(("claim", ">measured", "seen"), rows)


def rds_claims() -> str:
    """Of the comparison on nano."""
    return claims("comparison")


def rds_student_claims() -> str:
    """Of the comparison on the student."""
    return claims("student")


def block_worth(name: str) -> str:
    """J&F with evenly spread blocks left out, nothing trained."""
    rows = read(name)["rows"]
    total = max(row["count"] for row in rows)
    head = ("blocks that run", *(f">{row['count']} of {total}" for row in rows))
    return table(head, [("J&F", *(number(row["J&F"]) for row in rows))])


def rds_block_worth() -> str:
    """Of nano."""
    return block_worth(f"{RDS}/block_worth")


def rds_student_block_worth() -> str:
    """Of the student."""
    return block_worth(f"{RDS}/student/block_worth")


def rds_short_stem_block_worth() -> str:
    """Of nano with half of its stem."""
    return block_worth(f"{RDS}/short_stem/block_worth")


def rds_ablations() -> str:
    """Variants of RDS at one budget."""
    rows = read(f"{RDS}/ablations")["rows"]
    ours = next(row for row in rows if row["method"] == "rds")
    lines = []
    for row in sorted(rows, key=lambda row: (row is not ours, row["method"])):
        difference = bootstrap_difference(row["sequences"], ours["sequences"]).to_dict()
        name = "RDS" if row is ours else row["method"]
        cells = ("" if row is ours else interval(difference), percent(row["trained_share"], 1))
        lines.append((name, number(row["J&F"]), *cells))
    return table(("variant", ">J&F", ">variant minus RDS, 95%", ">trained"), lines)


def rds_budgets() -> str:
    """Budgets that move: all sequences by rule, and one sequence by target."""
    report = read(f"{RDS}/routing/moving_budgets")
    scores = {row["budget"]: row for row in report["scores"]}
    rows = []
    for name, line in report["timelines"].items():
        row = scores.get(name)
        cells = (number(row["J&F"], 2), percent(row["blocks_run"], 1)) if row else ("", "")
        rows.append((name, *cells, percent(line["blocks_run"], 1), number(line["FPS"])))
    sequence = report["sequence"]
    head = ("budget", ">J&F, ten sequences", ">blocks run", f">blocks run, {sequence}")
    return table((*head, f">FPS, {sequence}"), rows)


def tar(name: str) -> str:
    """AP, time and layers of every variant."""
    rows = []
    for row in read(f"{TAR}/{name}")["rows"]:
        plain = row["name"] == "baseline"
        difference = "" if plain else interval(row["intervals"]["ap"]["difference"])
        times = (number(row["frame_ms"]), number(row["decoder_ms"]))
        layers = number(row["layers_after_first"])
        rows.append(
            (row["title"], number(row["AP"]), difference, number(row["AR10"]), *times, layers)
        )
    head = ("model", ">AP", ">minus baseline, 95%", ">AR10", ">ms a frame", ">decoder, ms")
    return table((*head, ">layers a frame"), rows)


def tar_minvis() -> str:
    """On MinVIS."""
    return tar("minvis")


def tar_dvis() -> str:
    """On DVIS++."""
    return tar("dvis")


def tar_change() -> str:
    """Correlation of layers run and change between frames."""
    rows = [
        (
            step,
            row["frames"],
            number(row["mean_change"], 0),
            number(row["mean_layers"], 2),
            _rank(row),
        )
        for step, row in read(f"{TAR}/minvis")["layers_against_change"]["spearman"].items()
    ]
    head = (">frames apart", ">frames", ">mean change", ">mean layers", ">Spearman, 95%")
    return table(head, rows)


def tar_layer_pairs() -> str:
    """Overlap with the truth of two frames decoded to different layers."""
    rows = [
        (
            pair,
            number(row["mIoU"]),
            "" if pair == "9+9" else interval(row["difference"]),
            "" if row["paper"] is None else number(row["paper"]),
        )
        for pair, row in read(f"{TAR}/layer_pairs")["pairs"].items()
        if pair in ("1+1", "3+1", "3+3", "6+6", "9+1", "9+9")
    ]
    return table(("layers", ">mIoU", ">minus 9+9, 95%", ">paper, MinVIS R50"), rows)


def tar_operations() -> str:
    """Other ways to be faster beside TAR, in turns, and the paper's numbers."""
    rows = []
    for row in read(f"{TAR}/operations")["rows"]:
        paper = row["paper"]
        rows.append(
            (
                row["name"],
                *(number(row[key]) for key in ("AP", "AR10")),
                number(row["frame_ms"], 0),
                f"{row['times_as_fast']:.2f}x",
                f"{paper['AP']}, {row['paper_times_as_fast']:.2f}x",
            )
        )
    head = ("what", ">AP", ">AR10", ">ms a frame", ">times as fast", ">paper, MinVIS R50: AP")
    return table(head, rows)


def tar_short() -> str:
    """Mask and boundary AP after short trainings."""
    titles = {
        "base": "baseline",
        "attention-alone": "synchroniser alone, all layers",
        "tar": "TAR: synchroniser and routers",
    }
    rows = []
    for name, title in titles.items():
        found = read(f"{TAR}/short/{name}")
        scores = [number(found[key]) for key in ("AP", "AP50", "AP75", "AR1", "AR10")]
        edges = found["more"]["boundary"]
        layers = number(found["layers_run"])
        rows.append((title, *scores, number(edges["AP"]), number(edges["AR1"]), layers))
    head = ("model", ">AP", ">AP50", ">AP75", ">AR1", ">AR10", ">boundary: AP", ">AR1")
    return table((*head, ">layers a frame"), rows)


def _rank(row: Mapping[str, float]) -> str:
    return f"{row['value']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"


def samurai() -> str:
    """nano with each memory, all blocks and routed."""
    titles = {
        "recent": "SAM 2's memory",
        "samurai": "SAMURAI, one mask",
        "samurai-three-masks": "SAMURAI, three masks",
    }
    rows = []
    for row in read(f"{SAMURAI}/transfer/transfer")["rows"]:
        memory, _, budget = row["name"].partition("-rds-")
        name = titles[memory] + (f", RDS {budget}" if budget else "")
        scores = (number(row[key]) for key in ("J&F", "J", "F", "FPS"))
        rows.append((name, percent(row["blocks_run"]), *scores))
    return table(("", ">blocks run", ">J&F", ">J", ">F", ">FPS"), rows)


RULES = {
    "recent": "SAM 2's memory",
    "samurai": "SAMURAI, one mask",
    "dam4sam": "DAM4SAM",
    "sam2long": "SAM2Long, three pathways",
}


def memory_rules() -> str:
    """nano with each rule of memory: DAVIS and look-alikes, all blocks and routed."""
    rows = []
    for row in read("studies/memory_rules/memory_rules")["rows"]:
        rule, _, budget = row["name"].partition("-rds-")
        name = RULES[rule] + (f", RDS {budget}" if budget else "")
        alike = row["look_alikes"]
        scores = (number(value) for value in (row["J&F"], alike["J"], alike["identity"]))
        rows.append((name, percent(row["blocks_run"]), *scores))
    return table(("", ">blocks run", ">J&F", ">look-alikes: J", ">identity"), rows)


def memory_rules_cost() -> str:
    """CPU time of a frame against SAM 2's memory, and memories of one object."""
    rows = [
        (RULES[rule], f"{row['ratio']:.2f}", number(row["memory_bytes"] / 2**20, 2))
        for rule, row in read("studies/memory_rules/memory_rules")["cost"].items()
    ]
    return table(("", ">CPU time of a frame", ">memories, MB"), rows)


def samurai_cost() -> str:
    """SAMURAI's own steps beside those of the network, SAM 2.1-L."""
    report = read(f"{SAMURAI}/cost")
    own = report["samurai_ms"]
    return table(
        (">frame, ms", ">boxes, filter, choice, ms", ">selection, ms", ">share of the frame"),
        [
            (
                number(report["frame_ms"], 0),
                number(own["choose"], 2),
                number(own["select"], 3),
                f"{report['share_percent']:.2f}%",
            )
        ],
    )


def efficienttam_forms() -> str:
    """Quality and arithmetic of the forms of memory attention."""
    rows = [
        (row["form"], number(row["J&F"], 1), number(row["giga_multiply_adds"], 2))
        for row in read("studies/efficienttam/ablations")["rows"]
    ]
    return table(("memory attention", ">J&F", ">10^9 multiply-adds of it"), rows)


def efficienttam_errors() -> str:
    """Figure 3: errors relative to full attention, over layers and frames."""
    rows = [
        (row["form"], *(number(x, 3) for x in (row["relative_error"], *row["by_layer"])))
        for row in read("studies/efficienttam/ablations")["figure_3"]
    ]
    return table(("memory attention", ">relative error", ">layer 1", ">layer 2"), rows)
