"""Every model by name: size, resolution, where its weights come from, under which licence.

Weights are looked for in the package (nano), in the folder TEMPOMASK_HOME (~/.cache/tempomask), and
in the cache of huggingface_hub.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tempomask.models.config import SEGMENTERS

ASSETS = Path(__file__).parent.parent / "assets"
SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
EFFICIENTTAM_REPOSITORY = "yunyangx/efficient-track-anything"
APACHE = "Apache-2.0"
NANO_LICENCE = "Apache-2.0 (code); weights trained on CC BY-NC data, not for commercial use"


def home() -> Path:
    """The folder for weights: the environment variable TEMPOMASK_HOME, or ~/.cache/tempomask."""
    chosen = os.environ.get("TEMPOMASK_HOME")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "tempomask"


@dataclass(frozen=True)
class ModelInfo:
    """One named model.

    parameters: in millions. image_size: side of the square the network sees by default.
    file: name of the file of weights. repository: Hub id that has it, None for bundled weights.
    url: where a person can fetch the file; empty for bundled weights.
    """

    name: str
    title: str
    parameters: float
    image_size: int
    file: str
    repository: str | None
    url: str
    licence: str = APACHE

    @property
    def source(self) -> str:
        """Where the weights come from, in one word."""
        return self.repository or "bundled"

    def path(self) -> Path | None:
        """Where the weights lie on this machine, None if they are not there."""
        if self.repository is None:
            bundled = ASSETS / self.file
            return bundled if bundled.is_file() else None
        local = home() / self.file
        return local if local.is_file() else self._in_hub_cache(self.repository)

    def _in_hub_cache(self, repository: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        names = (self.file,)
        if repository != EFFICIENTTAM_REPOSITORY:
            # The copy that transformers fetches.
            names += ("model.safetensors",)
        for name in names:
            found = try_to_load_from_cache(repository, name)
            if isinstance(found, str):
                return Path(found)
        return None

    def is_available(self) -> bool:
        """Whether the weights are on this machine."""
        return self.path() is not None


def _nano() -> ModelInfo:
    return ModelInfo(
        name="nano",
        title="nano, bundled",
        parameters=8.7,
        image_size=SEGMENTERS["nano"].image_size,
        file="nano.safetensors",
        repository=None,
        url="",
        licence=NANO_LICENCE,
    )


def _sam2(version: str, size: str, parameters: float) -> ModelInfo:
    file = f"{version}_hiera_{size.replace('-', '_')}.pt"
    date = {"sam2": "072824", "sam2.1": "092824"}[version]
    return ModelInfo(
        name=f"{version}-{size}",
        title=f"SAM {version.removeprefix('sam')} Hiera {size}",
        parameters=parameters,
        image_size=1024,
        file=file,
        repository=f"facebook/{version}-hiera-{size}",
        url=f"{SAM2_URL}/{date}/{file}",
    )


def _efficienttam(size: str, pooling: str, resolution: str, parameters: float) -> ModelInfo:
    # There are no pooled checkpoints of 512; the pooled ones of 1024 serve at both resolutions.
    suffix = pooling.replace("-", "_") or ("_512x512" if resolution else "")
    equation = {"": "", "-1": ", pooled memory (Eq. 5)", "-2": ", pooled memory (Eq. 6)"}[pooling]
    file = f"efficienttam_{size}{suffix}.pt"
    return ModelInfo(
        name=f"efficienttam-{size}{pooling}{resolution}",
        title=f"EfficientTAM {size.capitalize()}{equation}",
        parameters=parameters,
        image_size=512 if resolution else 1024,
        file=file,
        repository=EFFICIENTTAM_REPOSITORY,
        url=f"https://huggingface.co/{EFFICIENTTAM_REPOSITORY}/resolve/main/{file}",
    )


_SAM2_SIZES = {"tiny": 38.9, "small": 46.0, "base-plus": 80.8, "large": 224.4}
_EFFICIENTTAM_SIZES = {"s": 34.1, "ti": 17.9}
_ALL = [
    _nano(),
    *(_sam2(v, size, m) for v in ("sam2", "sam2.1") for size, m in _SAM2_SIZES.items()),
    *(
        _efficienttam(size, pooling, resolution, m)
        for size, m in _EFFICIENTTAM_SIZES.items()
        for pooling in ("", "-1", "-2")
        for resolution in ("", "-512")
    ),
]
MODELS: dict[str, ModelInfo] = {info.name: info for info in _ALL}
