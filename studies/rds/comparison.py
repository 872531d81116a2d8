"""Every method at every ratio: trained, evaluated, and compared (RDS, Table 9 and Figure 4).

A point is one method at one ratio and seed. It is trained, exported as an adapter, loaded as a user
would load it, and scored; its result is then kept in `points/NAME/point.json`, and never computed
again: a stopped comparison goes on where it was, within a training too.

What methods measure on the untrained network (importances, PBD's drops) is measured once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.rds.meter import EncoderMeter
from tempomask.adaptation.adapter_file import base_sample
from tempomask.adaptation.method import Method
from tempomask.adaptation.rds import AdapterConfig, RDSConfig
from tempomask.baselines.methods import build_method, check_method_budget
from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.devices import DTypeName
from tempomask.errors import InputError, check_share
from tempomask.evaluation.frame_times import WARM_UP, frame_seconds, median_seconds
from tempomask.evaluation.measured_once import MeasuredOnce
from tempomask.evaluation.vos import evaluate
from tempomask.files import make_folder, write_json
from tempomask.metrics.flops import Macs, frame_cost
from tempomask.model import Engine, Model, load
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.training.adapt import AdaptRecipe, phases, start_adaptation
from tempomask.training.adaptation_data import training_sequences
from tempomask.weights import load_segmenter

# As in the paper's Table 9; SlimSAM's ratios there are ninths, ours are the same as for the others.
BUDGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
METHODS = ("rds", "pbd", "dyt", "adavit", "slim", "static-a", "static-b")
# Untrained, and trained as long with all blocks: what the others are compared with.
REFERENCES = ("base", "full")
# Frames of each sequence that are counted; frames that are timed, after those that warm up.
COUNTED_FRAMES, TIMED_FRAMES = 8, 32


@dataclass(frozen=True)
class ComparisonConfig:
    """What is compared, and how long each method trains.

    model, checkpoint: the network that all start from. image_size: to train and evaluate at, the
    model's own if None. adapters: LoRA's settings for every method but SlimSAM.
    """

    model: str | None = None
    checkpoint: str | None = None
    image_size: int | None = None
    methods: tuple[str, ...] = METHODS
    budgets: tuple[float, ...] = BUDGETS
    seeds: tuple[int, ...] = (1,)
    steps: int = 1000
    batch_size: int = 4
    num_frames: int = 4
    adapters: AdapterConfig = field(default_factory=AdapterConfig)

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise InputError(f"unknown method {unknown[0]!r}; choose from {', '.join(METHODS)}")
        if not self.seeds or not self.budgets:
            raise InputError("a comparison needs at least one budget and one seed")
        for budget in self.budgets:
            check_share("budget", budget)


@dataclass(frozen=True, order=True)
class Point:
    """One method at one budget (share of blocks, of tokens for DyT) and seed."""

    method: str
    budget: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.budget:g}-seed{self.seed}"


@dataclass(frozen=True)
class PointResult:
    """What came out of a point.

    mean, region, boundary: J&F, J and F in percent. per_sequence: J&F of each. macs, published: of
    the encoder and what routes it, mean over frames, in multiply-adds, with and without attention's
    products. fps: of whole frames. trained: parameters. blocks_run: mean share.
    """

    point: Point
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
    Raises InputError for data that cannot be used, for a budget that a method cannot keep, and if
    the folder holds a comparison of other weights, other data or other settings.
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
        for method in config.methods:
            check_method_budget(method, min(config.budgets), self.base.encoder)
        self.out = make_folder(out)
        self._check_folder()

    def _load_base(self) -> Segmenter:
        config = self.config
        return load_segmenter(config.model, config.checkpoint, config.image_size)

    def description(self) -> dict[str, Any]:
        """What all points of a folder share; comparison.json holds it."""
        config = self.config
        return {
            "model": self.base.config.name,
            "image_size": self.base.config.image_size,
            "steps": config.steps,
            "batch_size": config.batch_size,
            "num_frames": config.num_frames,
            "adapters": asdict(config.adapters),
            "sequences": None if self.sequences is None else sorted(self.sequences),
            "weights": [round(x, 5) for x in base_sample(self.base).flatten().tolist()[:64]],
            **self._digests,
        }

    def _check_folder(self) -> None:
        """A folder belongs to one network, one length of training, and the same data."""
        description, path = self.description(), self.out / "comparison.json"
        saved = json.loads(path.read_text()) if path.exists() else {}
        for name, value in description.items():
            # What an earlier version did not write is taken on.
            if name in saved and saved[name] != value:
                raise InputError(
                    f"{self.out} holds a comparison with other {name}; choose another folder,"
                    " or the settings it was begun with"
                )
        write_json(path, {**saved, **description})

    @property
    def points(self) -> list[Point]:
        """References first, then method by method, each from the largest budget down."""
        budgets = sorted(self.config.budgets, reverse=True)
        found = [Point("base", 1.0, self.config.seeds[0])]
        for seed in self.config.seeds:
            found.append(Point("full", 1.0, seed))
            found += [Point(method, b, seed) for method in self.config.methods for b in budgets]
        return found

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
            settings={"budget": point.budget, "adapters": asdict(config.adapters)},
            image_size=segmenter.config.image_size,
            steps=config.steps,
            batch_size=config.batch_size,
            num_frames=config.num_frames,
            warmup_steps=warmup,
            decay_steps=decay,
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
        config, budget = self.config, point.budget
        adapters = AdapterConfig(**{**asdict(config.adapters), "seed": point.seed})
        return build_method(point.method, RDSConfig(budget, adapters=adapters), None, config.steps)

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


def encoder_macs(model: Model, root: Path, sequences: Sequence[str] | None = None) -> Macs:
    """Mean cost of the encoder, its neck and its routing, over the first frames of each sequence.

    The very first, on which RDS runs all blocks, is left out. model: of the plain engine.
    """
    meter = EncoderMeter(model.segmenter.encoder)
    counts = []
    for sequence in Davis(root, None, sequences):
        frames = list(islice(sequence.frames(), 1 + COUNTED_FRAMES))
        meter.counts = []
        with meter.attached():
            for _ in frame_seconds(model, first_object(sequence), frames, len(sequence)):
                pass
        counts += meter.counts[1:]
    meter.counts = counts
    return meter.mean + frame_cost(model.segmenter).neck


def frames_per_second(
    model: Model, root: Path, sequences: Sequence[str] | None = None, rounds: int = 2
) -> float:
    """Frames a second of the longest sequence, its first object from its mask; the best round.

    It is measured on whatever else the machine does; `times` measures what can be compared.
    """
    sequence, frames = timed_frames(root, sequences)
    prompt = first_object(sequence)
    best = min(median_seconds(model, prompt, frames, len(sequence)) for _ in range(rounds))
    return round(1.0 / best, 3)


def timed_frames(
    root: Path, sequences: Sequence[str] | None = None
) -> tuple[MaskSequence, list[NDArray[np.uint8]]]:
    """The longest sequence, and those of its frames that are timed."""
    sequence = max(Davis(root, None, sequences), key=len)
    return sequence, list(islice(sequence.frames(), WARM_UP + TIMED_FRAMES))


def first_object(sequence: MaskSequence) -> Prompt:
    """The mask of the first object on the first frame."""
    return Prompt(frame=0, object_id=1, mask=sequence.label_map(0) == sequence.object_ids[0])
