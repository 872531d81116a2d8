"""The comparison as Markdown: the table, the paper's claims beside it, the figures."""

from __future__ import annotations

from typing import Any

# Of MinVIS R50 on YouTube-VIS 2019 (Tables 1, 3 and 5); times on an RTX 3090.
PAPER: dict[str, float] = {
    "AP": 1.0,
    "AR10": 2.8,
    "frame": 1.40,
    "no_synchroniser_AP": -2.3,
    "bipartite_AP": -1.0,
    "bipartite_alone_AP": -1.6,
    "attention_alone_AP": 0.5,
}


def markdown(report: dict[str, Any], stem: str) -> str:
    """stem: of the figures' names."""
    rows = {row["name"]: row for row in report["rows"]}
    data, timed = report["data"], report["timed"]
    lines = [
        f"# {report['base']}: layers, routers, synchronisers",
        "",
        f"Written by `python -m studies.tar`. {data['videos']} videos, {data['frames']} frames,"
        f" {data['tracks']} tracks. Times: {report['dtype']} on"
        f" {report['device']}, {report['threads']} threads, {timed['frames']} frames in"
        f" {timed['rounds']} rounds of all models in turn; a video's first frame, which runs every"
        " layer, is left out of times and layers. In brackets 95% intervals over resampled videos;"
        " differences are to the baseline on the same resamples.",
        "",
        "| model | AP | difference | AP75 | AR10 | difference | ms a frame | decoder, ms |"
        " layers a frame |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(row) for row in report["rows"]),
        "",
        *_claims(rows),
        *_change(report, stem),
        f"![AP against decoder time]({stem}.png)",
    ]
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    ap, ar10 = row["intervals"]["ap"], row["intervals"]["ar10"]
    low, high = ap["score"]["low"], ap["score"]["high"]
    plain = row["name"] == "baseline"
    spread = f" ± {row['layers_std']:.2f}" if row["layers_std"] else ""
    cells = [
        row["title"],
        f"{row['AP']:.1f} ({low:.1f} to {high:.1f})",
        "" if plain else _difference(ap["difference"]),
        f"{row['AP75']:.1f}",
        f"{row['AR10']:.1f}",
        "" if plain else _difference(ar10["difference"]),
        f"{row['frame_ms']:.1f}",
        f"{row['decoder_ms']:.2f}",
        f"{row['layers_after_first']:.2f}{spread}",
    ]
    return f"| {' | '.join(cells)} |"


def _difference(estimate: dict[str, Any]) -> str:
    return f"{estimate['mean']:+.1f} ({estimate['low']:+.1f} to {estimate['high']:+.1f})"


def _claims(rows: dict[str, Any]) -> list[str]:
    """The paper's claims beside what was measured, of the models that are there."""
    if "tar" not in rows:
        return []
    base, tar = rows["baseline"], rows["tar"]
    lines = ["| claim | paper | here |", "| --- | --- | --- |"]

    def add(claim: str, paper: str, here: str) -> None:
        lines.append(f"| {claim} | {paper} | {here} |")

    decoder = 1 - tar["decoder_ms"] / base["decoder_ms"]
    frame = base["frame_ms"] / tar["frame_ms"]
    add("TAR, decoder time", "half or less", f"{decoder:.0%} less")
    add("TAR, whole frame", f"{PAPER['frame']:.2f}x as fast", f"{frame:.2f}x as fast")
    for score in ("AP", "AR10"):
        here = _difference(tar["intervals"][score.lower()]["difference"])
        add(f"TAR, {score} against the baseline", f"{PAPER[score]:+.1f}", here)
    for name, claim in (
        ("no-synchroniser", "no synchroniser, AP against the baseline"),
        ("bipartite", "bipartite synchroniser, AP against the baseline"),
        ("bipartite-alone", "bipartite synchroniser alone, AP against the baseline"),
        ("attention-alone", "synchroniser alone, AP against the baseline"),
    ):
        if name in rows:
            paper = PAPER[f"{name.replace('-', '_')}_AP"]
            here = _difference(rows[name]["intervals"]["ap"]["difference"])
            add(claim, f"{paper:+.1f}", here)
    rates = " ".join(f"{rate:.2f}" for rate in tar["layer_rates"])
    return [
        *lines,
        "",
        f"How often TAR ran each layer: {rates} ({tar['patterns']} different choices).",
        "",
    ]


def _change(report: dict[str, Any], stem: str) -> list[str]:
    change = report.get("layers_against_change")
    if change is None:
        return []
    lines = [
        "Layers run against the change between frames (squared RGB difference), with videos walked"
        " in steps of one frame and more; Spearman's correlation. The paper's text says both that"
        " fewer and that more layers are skipped as frames differ less.",
        "",
        "| frames apart | frames | mean change | mean layers | correlation |",
        "| --- | --- | --- | --- | --- |",
    ]
    for step, row in change["spearman"].items():
        value = f"{row['value']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        if row["value"] != row["value"]:
            value = "none: the number of layers never differs"
        cells = [step, str(row["frames"]), f"{row['mean_change']:.0f}", f"{row['mean_layers']:.2f}"]
        lines.append(f"| {' | '.join([*cells, value])} |")
    return [*lines, "", f"![layers run against change]({stem}_change.png)", ""]
