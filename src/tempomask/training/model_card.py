"""The card of a fine-tuned model: what it is, what it learned from, how it scored, what to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tempomask.data.footage import FootageSet
from tempomask.files import replacing, write_errors
from tempomask.training.finetune_recipe import FinetuneRecipe
from tempomask.weights.zoo import MODELS

# What the card tells of a recipe, beside the model and the data.
TOLD = """
    steps batch_size image_size num_frames most_objects learning_rate encoder_rate layer_decay
    schedule average_decay lora frozen seed
"""


def write_card(
    path: Path,
    recipe: FinetuneRecipe,
    sets: Sequence[FootageSet],
    scores: Sequence[Mapping[str, float]],
    trained: tuple[int, int],
) -> None:
    """Write the card as Markdown.

    Args:
        path: Of the file.
        recipe: Of the run.
        sets: That it learned from.
        scores: Of the validated steps, see `finetune.validated`.
        trained: How many parameters were trained, and how many there are.
    """
    licence = MODELS[recipe.model].licence if recipe.model in MODELS else "see where it is from"
    data = [
        [one.root.name, one.layout, len(one.items), "videos" if one.moves else "images", one.weight]
        for one in sets
    ]
    settings = [
        [name, value] for name, value in asdict(recipe).items() if name in TOLD.split() and value
    ]
    parts = [
        f"# {recipe.model}, fine-tuned",
        f"{recipe.model}, of which {trained[0]:,} of {trained[1]:,} parameters were trained by"
        " `tempomask finetune`. Load it with `tempomask.load(checkpoint='model.safetensors')`, or"
        " `tempomask track VIDEO --checkpoint model.safetensors`.",
        "## Data",
        _table(["set", "layout", "count", "of", "weight"], data),
        "## Scores",
        _scores(scores),
        "## Settings",
        _table(["setting", "value"], settings),
        "All of them are in `recipe.json`, the log in `log/` and `validation.jsonl`.",
        "## Terms and limits",
        f"The weights it started from: {licence}. Those of the data above hold as well; add them"
        " here before you pass the model on. It was scored on few videos, each from its first mask"
        " and at the size of the network: `tempomask eval` measures by the protocols of data sets.",
    ]
    with write_errors(path), replacing(path) as part:
        part.write_text("\n\n".join(parts) + "\n")


def _scores(scores: Sequence[Mapping[str, float]]) -> str:
    if not scores:
        return "Nothing was held out to score it on."
    best = max((row for row in scores if row["step"]), key=lambda row: row["mean"], default=None)
    shown = {"before": scores[0]} if not scores[0]["step"] else {}
    shown |= {} if best is None else {f"step {best['step']}, which is kept": best}
    names = [name for name in scores[0] if name != "step"]
    rows = [[name, *(f"{100 * row[name]:.1f}" for row in shown.values())] for name in names]
    what = "IoU of the mask that one click, and one box, gives" if "click" in names else "J&F"
    return f"{what}, in percent, on what was held out:\n\n" + _table(["", *shown], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
