"""Every method at every cost: trained, evaluated, and compared (RDS, Table 9 and Figure 4).

A point is one method at one cost and seed. It is trained at the budget of its own that is expected
to cost so much (`costs.py`), exported as an adapter, loaded as a user would load it, and scored;
what it really costs is measured on real frames. Its result is then kept in
`points/NAME/point.json`, and never computed again: a stopped comparison goes on where it was,
within a training too.

What methods measure on the untrained network (importances, PBD's drops) is measured once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from studies.rds.costs import EncoderCosts
from studies.rds.meter import encoder_macs, frames_per_second
from tempomask.adaptation.adapter_file import base_sample
from tempomask.adaptation.method import Method
from tempomask.adaptation.options import RDSConfig
from tempomask.baselines.methods import METHODS, build_method
from tempomask.baselines.settings import AlignmentConfig, BaselineConfig
from tempomask.cli.options import Names, Numbers, words
from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.devices import DTypeName
from tempomask.errors import InputError, check_share
from tempomask.evaluation.measured_once import MeasuredOnce
from tempomask.evaluation.vos import evaluate
from tempomask.files import make_folder, write_json
from tempomask.model import Engine, Model, load
from tempomask.models.segmenter import Segmenter
from tempomask.training.adapt import AdaptRecipe, phases, start_adaptation
from tempomask.training.adaptation_data import training_sequences
from tempomask.weights import load_segmenter

# Shares of the encoder's multiply-adds.
COSTS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
# Untrained, and trained as long with all blocks: what the others are compared with.
REFERENCES = ("base", "full")
COMPARED = tuple(name for name in METHODS if name not in REFERENCES)


def _whole_numbers(_type: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    return tuple(int(word) for word in words(tokens[-1].value))


Seeds = Annotated[tuple[int, ...], Parameter(converter=_whole_numbers, n_tokens=1)]


@dataclass(frozen=True)
class ComparisonConfig:
    """What is compared, and how long each method trains.

    Args:
        model: Name of the network that all start from.
        checkpoint: Its weights.
        image_size: To train and evaluate at. Default: the model's own.
        methods: Of rds and what it is compared with. Default: all.
        costs: Shares of the full encoder's multiply-adds.
        seeds: Of training.
        steps: Optimiser steps a point.
        batch_size: Clips a step.
        num_frames: Frames a clip.
        align: Alignment to the untouched network, for every method.
        rds: Of the router, and of the adapters of every method but SlimSAM; the budgets follow
            from the costs.
        baselines: Of the other methods.
    """

    model: str | None = None
    checkpoint: str | None = None
    image_size: int | None = None
    methods: Names = COMPARED
    costs: Numbers = COSTS
    seeds: Seeds = (1,)
    steps: int = 1000
    batch_size: int = 4
    num_frames: int = 8
    align: AlignmentConfig = field(default_factory=AlignmentConfig)
    rds: RDSConfig = field(default_factory=RDSConfig)
    baselines: Annotated[BaselineConfig, Parameter(name="*")] = field(
        default_factory=BaselineConfig
    )

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in COMPARED:
                raise InputError(f"unknown method {name!r}; choose from {', '.join(COMPARED)}")
        if not self.seeds or not self.costs:
            raise InputError("a comparison needs at least one cost and one seed")
        for cost in self.costs:
            check_share("cost", cost)


@dataclass(frozen=True, order=True)
class Point:
    """One method at one cost, the share of the full encoder's multiply-adds aimed at, and seed."""

    method: str
    cost: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.cost:g}-seed{self.seed}"


@dataclass(frozen=True)
class PointResult:
    """What came out of a point.

    budget: of the method's own: share of blocks, of tokens (DyT), of channels' products (SlimSAM).
    mean, region, boundary: J&F, J and F in percent. per_sequence: J&F of each. macs, published: of
    the encoder and what routes it, mean over frames, in multiply-adds, with and without attention's
    products. fps: of whole frames. trained: parameters. blocks_run: mean share.
    """

    point: Point
    budget: float
    mean: float
    region: float
    boundary: float
    per_sequence: dict[str, float]
    macs: int
    published: int
    fps: float
    trained: int
    parameters: int
    blocks_run: float | None
    training_seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> PointResult:
        return PointResult(**{**values, "point": Point(**values["point"])})


# Called with the point, its number, how many there are, and what is being done.
Progress = Callable[[Point, int, int, str], None]


class Comparison:
    """All points of a configuration, in a folder.

    data: to train on, see `training.adaptation_data`. evaluation: a DAVIS root to score on.
    Raises InputError for data that cannot be used, and if the folder holds a comparison of other
    weights, other data or other settings.
    """

    def __init__(
        self,
        config: ComparisonConfig,
        data: Path,
        evaluation: Path,
        out: Path,
        *,
        sequences: Sequence[str] | None = None,
        device: str = "auto",
        workers: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.data, self.evaluation = config, data, evaluation
        self.sequences, self.device, self.workers = sequences, device, workers
        self._progress = progress
        # Refused before anything trains, if it cannot be used.
        self._digests = {
            "data": data_digest(training_sequences(data)),
            "evaluation": data_digest(Davis(evaluation, None, sequences)),
        }
        self.base = self._load_base()
        self._budgets: dict[tuple[str, float], float | None] = {}
        self.out = make_folder(out)
        self._check_folder()

    def _load_base(self) -> Segmenter:
        config = self.config
        return load_segmenter(config.model, config.checkpoint, config.image_size)

    def description(self) -> dict[str, Any]:
        """What all points of a folder share; comparison.json holds it."""
        config = self.config
        found = {
            "model": self.base.config.name,
            "image_size": self.base.config.image_size,
            "steps": config.steps,
            "batch_size": config.batch_size,
            "num_frames": config.num_frames,
            "align": asdict(config.align),
            "rds": asdict(config.rds),
            "baselines": asdict(config.baselines),
            "sequences": None if self.sequences is None else sorted(self.sequences),
            "weights": [round(x, 5) for x in base_sample(self.base).flatten().tolist()[:64]],
            **self._digests,
        }
        return json.loads(json.dumps(found))

    def _check_folder(self) -> None:
        """A folder belongs to one network, one length of training, and the same data."""
        description, path = self.description(), self.out / "comparison.json"
        saved = json.loads(path.read_text()) if path.exists() else {}
        if saved and "baselines" not in saved:
            raise InputError(
                f"{self.out} holds a comparison of an earlier version, at equal budgets instead of"
                " equal costs; choose another folder"
            )
        for name, value in description.items():
            # What an earlier version did not write is taken on.
            if name in saved and saved[name] != value:
                raise InputError(
                    f"{self.out} holds a comparison with other {name}; choose another folder,"
                    " or the settings it was begun with"
                )
        write_json(path, {**saved, **description})

    def budget_of(self, point: Point) -> float | None:
        """The method's own budget at the cost of a point; None if it cannot be so cheap."""
        if point.method in REFERENCES:
            return 1.0
        key = (point.method, point.cost)
        if key not in self._budgets:
            self._budgets[key] = self._costs.budget(*key)
        return self._budgets[key]

    @cached_property
    def _costs(self) -> EncoderCosts:
        return EncoderCosts(self.base)

    @property
    def points(self) -> list[Point]:
        """References first, then method by method, each from the largest cost down.

        Points of a method that cannot be so cheap are left out, see `unreachable`.
        """
        config = self.config
        found = [Point("base", 1.0, config.seeds[0])]
        for seed in config.seeds:
            found.append(Point("full", 1.0, seed))
            found += [p for p in self._wanted(seed) if self.budget_of(p) is not None]
        return found

    @property
    def unreachable(self) -> list[Point]:
        """Points that cost more than they should even at the method's smallest budget."""
        return [p for p in self._wanted(self.config.seeds[0]) if self.budget_of(p) is None]

    def _wanted(self, seed: int) -> list[Point]:
        costs = sorted(self.config.costs, reverse=True)
        return [Point(method, cost, seed) for method in self.config.methods for cost in costs]

    def finished(self) -> list[PointResult]:
        """The points that are done, also those of earlier configurations of this folder."""
        paths = sorted((self.out / "points").glob("*/point.json"))
        return [PointResult.from_dict(json.loads(path.read_text())) for path in paths]

    def run(self) -> list[PointResult]:
        """Train and score what is not done yet; returns everything."""
        points = self.points
        for number, point in enumerate(points, start=1):
            path = make_folder(self._folder(point)) / "point.json"
            if not path.exists():
                seconds = 0.0
                if point.method != "base":
                    self._say(point, number, len(points), "training")
                    seconds = self._train(point)
                self._say(point, number, len(points), "scoring")
                write_json(path, self._score(point, seconds).to_dict())
        return self.finished()

    def _say(self, point: Point, number: int, count: int, what: str) -> None:
        if self._progress is not None:
            self._progress(point, number, count, what)

    def _folder(self, point: Point) -> Path:
        return self.out / "points" / point.name

    def _train(self, point: Point) -> float:
        """Train and export a point; returns the seconds, of this run of the program."""
        started, config, folder = time.perf_counter(), self.config, self._folder(point)
        method = MeasuredOnce(self.method_of(point), self.out / "measured.json")
        segmenter = self._load_base()
        warmup, decay = phases(config.steps)
        recipe = AdaptRecipe(
            model=segmenter.config.name,
            method=point.method,
            settings={
                "budget": self.budget_of(point),
                "rds": asdict(config.rds),
                "baselines": asdict(config.baselines),
            },
            image_size=segmenter.config.image_size,
            steps=config.steps,
            batch_size=config.batch_size,
            num_frames=config.num_frames,
            warmup_steps=warmup,
            decay_steps=decay,
            alignment=config.align,
            seed=point.seed,
            validate_every=config.steps,
        )
        run = start_adaptation(segmenter, self.data, folder, method, recipe, None, self.workers)
        if run.step < config.steps:
            run.run()
        run.export()
        trained = {"trained": run.trained_parameters}
        write_json(folder / "training" / "parameters.json", trained)
        return time.perf_counter() - started

    def method_of(self, point: Point) -> Method:
        """The method that a point trains; ablations put their variants here."""
        config, budget = self.config, self.budget_of(point)
        assert budget is not None, f"{point.name} is unreachable"
        adapters = replace(config.rds.adapters, seed=point.seed)
        rds = replace(config.rds, budget=budget, adapters=adapters)
        return build_method(point.method, rds, None, config.steps, config.baselines)

    def load(
        self, point: Point | None, engine: Engine = "fast", dtype: DTypeName = "auto"
    ) -> Model:
        """A trained point as a user would load it; None for the network they all start from."""
        config = self.config
        where = (config.image_size, self.device, dtype)
        adapter = None
        if point is not None and point.method != "base":
            adapter = self._folder(point)
        return load(config.model, config.checkpoint, *where, adapter=adapter, engine=engine)

    def _score(self, point: Point, seconds: float) -> PointResult:
        folder = self._folder(point)
        model = self.load(point)
        summary = evaluate(model, Davis(self.evaluation, None, self.sequences))
        plain = self.load(point, "plain", "float32")
        counted = encoder_macs(plain, self.evaluation, self.sequences)
        trained = 0
        if point.method != "base":
            trained = json.loads((folder / "training" / "parameters.json").read_text())["trained"]
        return PointResult(
            point=point,
            budget=self.budget_of(point) or 1.0,
            mean=summary.mean,
            region=summary.scores["J"],
            boundary=summary.scores["F"],
            per_sequence=summary.per_sequence,
            macs=counted.total,
            published=counted.published,
            fps=frames_per_second(model, self.evaluation, self.sequences),
            trained=trained,
            parameters=sum(p.numel() for p in plain.segmenter.parameters()),
            blocks_run=summary.blocks_run,
            training_seconds=round(seconds, 1),
        )


def data_digest(sequences: Iterable[MaskSequence]) -> str:
    """Of names, lengths and first annotations: the same wherever the data lies."""
    digest = hashlib.sha256()
    for sequence in sorted(sequences, key=lambda sequence: sequence.name):
        digest.update(f"{sequence.name} {len(sequence)}\n".encode())
        digest.update(sequence.annotations[0].read_bytes())
    return digest.hexdigest()
