"""The variants of TAR that the paper compares: how each is trained, and where its weights lie.

Training from a baseline's weights, one variant after the other, each resumable by itself:

    python -m studies.tar.variants --base nano-vis.safetensors --train train.json --out runs/tar
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tempomask.data.instance_clips import VideoInstanceClips
from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.errors import InputError
from tempomask.training.instances.loop import WEIGHTS, train_instances
from tempomask.training.instances.recipe import InstanceRecipe, instance_recipe
from tempomask.weights.instances import load_instance_segmenter

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Variant:
    """One trained model of the comparison.

    kind: which of the paper's comparisons it belongs to. router: settings of TAR's configuration
    that differ from the recipe's; None trains the baseline on, as long as TAR, without a router.
    layer_weight: of a loss for the share of layers that run, which the paper does not have.
    """

    title: str
    kind: str
    router: dict[str, Any] | None = field(default_factory=dict)
    layer_weight: float = 0.0


VARIANTS = {
    "tar": Variant("TAR", "TAR"),
    "no-synchroniser": Variant("TAR, no synchroniser", "synchroniser", {"synchroniser": "none"}),
    "bipartite": Variant("TAR, bipartite synchroniser", "synchroniser",
                         {"synchroniser": "bipartite"}),
    "attention-alone": Variant("synchroniser alone, all layers", "synchroniser",
                               {"routers": False}),
    "bipartite-alone": Variant("bipartite synchroniser alone, all layers", "synchroniser",
                               {"synchroniser": "bipartite", "routers": False}),
    "warmup-2": Variant("TAR, 2 warm-up layers", "warm-up", {"warmup_layers": 2}),
    "warmup-3": Variant("TAR, 3 warm-up layers", "warm-up", {"warmup_layers": 3}),
    "warmup-4": Variant("TAR, 4 warm-up layers", "warm-up", {"warmup_layers": 4}),
    "layer-loss-2": Variant("TAR, layer loss 2", "TAR", layer_weight=2.0),
    "layer-loss-10": Variant("TAR, layer loss 10", "TAR", layer_weight=10.0),
    "longer": Variant("baseline, trained as long", "control", None),
}  # fmt: skip
# TAR's recipe for each baseline.
RECIPES = {"nano-vis": "nano-vis-tar", "nano-vis-dvis": "nano-vis-tar-dvis"}


def find_weights(places: Sequence[str]) -> dict[str, Path]:
    """Weights by variant.

    places: folders with NAME/model.safetensors or NAME.safetensors, and NAME=FILE. InputError for a
    place that is not there and for names that are not a variant.
    """
    found: dict[str, Path] = {}
    for place in places:
        name, _, file = place.partition("=")
        if file:
            if name not in VARIANTS:
                raise InputError(f"unknown variant {name!r}; there are {', '.join(VARIANTS)}")
            found[name] = Path(file)
        elif not Path(place).is_dir():
            raise InputError(f"no folder {place}; give one that holds variants, or NAME=FILE")
        else:
            for known in VARIANTS:
                for path in (Path(place, known, WEIGHTS), Path(place, known + SUFFIX)):
                    if path.is_file():
                        found[known] = path
    for name, path in found.items():
        if not path.is_file():
            raise InputError(f"no weights of {name} at {path}")
    return found


def recipe_of(variant: Variant, base: str, seed: int, steps: int | None) -> InstanceRecipe:
    """TAR's recipe for the baseline of this name, as the variant changes it."""
    name = RECIPES.get(base, "tar-dvis" if base.startswith("dvis") else "tar")
    recipe = instance_recipe(name)
    if base not in RECIPES:
        recipe = replace(recipe, model=base)
    if variant.router is None:
        stage = "dvis" if recipe.tracks else "minvis"
        recipe = replace(recipe, stage=stage, router=None)
    else:
        assert recipe.router is not None
        recipe = replace(recipe, router=replace(recipe.router, **variant.router))
    recipe = replace(recipe, losses=replace(recipe.losses, layers=variant.layer_weight))
    return recipe.with_overrides(seed=seed, steps=steps)


def train(
    base: Path,
    annotations: Path,
    out: Path,
    names: Sequence[str],
    *,
    steps: int | None = None,
    seed: int = 1,
    workers: int = 1,
) -> dict[str, Path]:
    """Train the named variants that `out` does not hold yet; weights by name.

    Run it again after a stop: finished variants are kept, one that was begun goes on.
    """
    dataset = YouTubeVIS(annotations)
    start = load_instance_segmenter(None, base).segmenter
    weights = {}
    for name in names:
        recipe = recipe_of(VARIANTS[name], start.config.name, seed, steps)
        folder = out / name
        weights[name] = folder / WEIGHTS
        if weights[name].is_file() and is_of(folder, recipe):
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name}: {recipe.steps} steps", flush=True)
        clips = VideoInstanceClips(
            dataset,
            image_size=recipe.image_size,
            num_frames=recipe.num_frames,
            seed=recipe.seed,
            short_sides=recipe.short_sides,
        )
        train_instances(recipe, clips, dataset.classes, folder, start, workers=workers)
    return weights


def is_of(folder: Path, recipe: InstanceRecipe) -> bool:
    """Whether the folder's weights were trained so; InputError if in another way."""
    stored = json.loads((folder / "recipe.json").read_text())
    wanted = json.loads(json.dumps(asdict(recipe)))
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise InputError(
                f"{folder} was trained with {name} {stored.get(name)}, not {value}; train into"
                " another folder, or remove it"
            )
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="the baseline's weights")
    parser.add_argument("--train", type=Path, required=True, help="YouTube-VIS file to train on")
    parser.add_argument("--out", type=Path, required=True, help="a folder for each variant")
    parser.add_argument("--names", default=",".join(VARIANTS), help="some of the variants")
    parser.add_argument("--steps", type=int, default=None, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    names = given.names.split(",")
    for name in names:
        if name not in VARIANTS:
            raise SystemExit(f"unknown variant {name!r}; there are {', '.join(VARIANTS)}")
    train(
        given.base, given.train, given.out, names,
        steps=given.steps, seed=given.seed, workers=given.workers,
    )  # fmt: skip


if __name__ == "__main__":
    main()
