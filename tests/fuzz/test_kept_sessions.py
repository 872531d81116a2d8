"""Kept sessions that somebody has forged, checksum and all: refused, or gone on from.

The bytes of such a file are fuzzed too: what is not as it was written is refused.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from tempomask.errors import InputError
from tempomask.instances.session import InstanceSession
from tempomask.matching.options import MatchingOptions
from tempomask.matching.session import MatchingSession
from tempomask.models.instances.config import (
    InstanceConfig,
    QueryDecoderConfig,
    ResNetConfig,
    StemConfig,
)
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.models.matching.config import MatchingConfig
from tempomask.ops.resumable import sealed
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.options import PropagationOptions
from tempomask.propagation.session import PropagationSession
from tempomask.routing.adaptive import AdaptiveBudget, AdaptiveConfig
from tempomask.routing.budget import TopK
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.tracking.base import VideoSession
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session
from tempomask.weights.matching import build_matcher
from tests.fuzz.test_parsers import NASTY, places, replaced
from tests.tracking.conftest import make_segmenter

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
FRAME = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
MASK = np.zeros((48, 80), dtype=bool)
MASK[8:22, 5:21] = True
SHAPES = [(), (0,), (1,), (4,), (3, 5), (32, 2, 4), (1, 4, 256), (64, 64), (2, 2, 2, 2)]
DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


@cache
def networks() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    segmenter = make_segmenter(image_keys=True)
    decoder = QueryDecoderConfig(layers=1, num_queries=4)
    config = InstanceConfig(
        "toy", StemConfig(), ("cat", "dog"), query_decoder=decoder, short_side=64, long_side=64
    )
    return segmenter, PatchEncoder(segmenter.encoder), InstanceSegmenter(config).eval()


def tracking() -> VideoSession:
    segmenter = networks()[0]
    torch.manual_seed(0)
    router = PredictiveRouter(RouterConfig.for_encoder(segmenter.encoder, mask_frames=2)).eval()
    policy = RecurrentPolicy(router, AdaptiveBudget(AdaptiveConfig(0.6, 0.3)), TopK())
    return Session(segmenter, TrackingOptions(memory="samurai"), policy=policy)


def propagation() -> VideoSession:
    return PropagationSession(networks()[1], PropagationOptions(short_side=64))


def instances() -> VideoSession:
    return InstanceSession(networks()[2])


def matching() -> VideoSession:
    return MatchingSession(matcher(), MatchingOptions(memory_every=1, long_term=True))


def pathways() -> VideoSession:
    return Session(networks()[0], TrackingOptions(memory="sam2long"))


@cache
def matcher() -> Any:
    torch.manual_seed(0)
    encoder = ResNetConfig(8, (8, 16, 32), (1, 1, 1), basic=True)
    config = MatchingConfig(
        "toy", "cutie", encoder, key_dim=8, value_dim=16, sensory_dim=16, num_queries=4, blocks=1,
        num_heads=2, feedforward_dim=16, up_dims=(16, 8, 8),
    )  # fmt: skip
    return build_matcher(config).eval()


KINDS: dict[str, Callable[[], VideoSession]] = {
    "track": tracking,
    "propagate": propagation,
    "instances": instances,
    "matching": matching,
    "pathways": pathways,
}


def step(session: Any) -> None:
    session.step(FRAME).masks  # noqa: B018  results are not waited for before they are read


@cache
def kept(kind: str) -> bytes:
    session: Any = KINDS[kind]()
    if kind == "track":
        session.prompt(object_id=7, points=[(10, 10)])
        session.prompt(object_id=2, frame=1, mask=MASK)
    elif kind != "instances":
        session.prompt(mask=MASK)
    for _ in range(3):
        step(session)
    return session.state()


def taken_apart(state: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    length = int.from_bytes(state[:8], "little")
    metadata = json.loads(state[8 : 8 + length])["__metadata__"]
    del metadata["sha256"]
    return load(state), metadata


def goes_on(kind: str, state: bytes) -> bool:
    """Whether it is restored and two more frames are found; if not, it is one error of one line."""
    session = KINDS[kind]()
    try:
        session.restore(state)
        step(session)
        step(session)
    except InputError as error:
        assert "\n" not in str(error)
        # A size may be that of another video.
        assert session.index is None or session.size != FRAME.shape[:2]
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_forged_is_refused_or_goes_on(kind: str) -> None:
    tensors, metadata = taken_apart(kept(kind))
    document = json.loads(metadata["state"])
    parts = list(places(document))
    assert goes_on(kind, sealed(tensors, metadata))

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="FUZZ_EXAMPLES" not in os.environ,
    )
    @given(
        values=st.lists(
            st.tuples(st.sampled_from(parts), st.sampled_from([*NASTY, ...])), max_size=1
        ),
        shapes=st.dictionaries(
            st.sampled_from(sorted(tensors)),
            st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES)),
            max_size=2,
        ),
        swapped=st.permutations(sorted(tensors)),
        swaps=st.booleans(),
    )
    def forge(values: Any, shapes: Any, swapped: Any, swaps: bool) -> None:
        forged = copy.deepcopy(document)
        for path, new in values:
            forged = replaced(forged, path, new)
        names = sorted(tensors)
        mixed = dict(zip(names, (tensors[n] for n in swapped), strict=True)) if swaps else tensors
        other = {name: torch.ones(shape, dtype=kind) for name, (shape, kind) in shapes.items()}
        goes_on(
            kind,
            sealed(
                {n: x.clone() for n, x in {**mixed, **other}.items()},
                {**metadata, "state": json.dumps(forged)},
            ),
        )

    forge()


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_anywhere_is_found(kind: str) -> None:
    state, rng = kept(kind), random.Random(0)
    assert goes_on(kind, state)
    for _ in range(EXAMPLES):
        damaged = bytearray(state)
        damaged[rng.randrange(len(state))] ^= 1 << rng.randrange(8)
        assert not goes_on(kind, bytes(damaged))
