"""Every model by name: where its weights come from, their size, and their licence.

Weights are looked for in the package (nano), in the folder TEMPOMASK_HOME (~/.cache/tempomask), and
in the cache of huggingface_hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tempomask.errors import InputError, unknown_name
from tempomask.models.config import SEGMENTERS
from tempomask.models.instances.config import INSTANCE_SEGMENTERS
from tempomask.models.matching.config import MATCHERS
from tempomask.weights.files import SUFFIXES

ASSETS = Path(__file__).parent.parent / "assets"
EFFICIENTTAM_REPOSITORY = "yunyangx/efficient-track-anything"
# Short side of the images that DINOv3 sees in label propagation, and Cutie and XMem in tracking.
DINOV3_SIDE, MATCHING_SIDE = 960, 480


def home() -> Path:
    """The folder for weights: the environment variable TEMPOMASK_HOME, or ~/.cache/tempomask."""
    chosen = os.environ.get("TEMPOMASK_HOME")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "tempomask"


@dataclass(frozen=True)
class ModelInfo:
    """One named model.

    Attributes:
        name: As users type it.
        parameters: In millions.
        image_size: Side of the square that the network sees by default, or the short side.
        file: Name of the file of weights; empty if the repository does not name them by model.
        repository: Hub id that has the file, None for bundled weights.
        url: Where a person can fetch the file; empty for bundled weights.
        licence: Of the weights.
    """

    name: str
    parameters: float
    image_size: int
    file: str
    repository: str | None
    url: str
    licence: str

    @property
    def source(self) -> str:
        """Where the weights come from, in one word."""
        return self.repository or "bundled"

    @property
    def on_hub(self) -> bool:
        """Whether the repository is one of the Hub; others are on GitHub."""
        return not self.url.startswith("https://github.com/")

    def path(self) -> Path | None:
        """Where the weights lie on this machine, None if they are not there."""
        if self.repository is None:
            bundled = ASSETS / self.file
            return bundled if bundled.is_file() else None
        local = home() / self.file
        if local.is_file():
            return local
        if not self.on_hub:
            return None
        from huggingface_hub import try_to_load_from_cache

        # The second is the copy that transformers fetches.
        names = (self.file, "model.safetensors")
        for name in names if self.repository != EFFICIENTTAM_REPOSITORY else names[:1]:
            found = try_to_load_from_cache(self.repository, name)
            if isinstance(found, str):
                return Path(found)
        return None


def _models(
    table: str,
    licence: str,
    repository: str = "",
    url: str = "https://huggingface.co/{repository}/resolve/main/{file}",
) -> dict[str, ModelInfo]:
    """The models of a table with a row for each: name, millions of parameters, file, repository.

    Args:
        table: A repository that is left out is "" for all rows; "-" stands for no file.
        licence: Of all of them.
        repository: Hub id, in which {} stands for the last column; empty for bundled weights.
        url: Of repository and file.
    """
    found = {}
    for line in table.strip().splitlines():
        name, millions, file, *last = line.split()
        place, file = repository.format(*last), "" if file == "-" else file
        if name in SEGMENTERS:
            side = SEGMENTERS[name].image_size
        elif name in MATCHERS:
            side = MATCHING_SIDE
        else:
            listed = INSTANCE_SEGMENTERS.get(name)
            side = DINOV3_SIDE if listed is None else listed.short_side
        link = url.format(repository=place, file=file) if place else ""
        found[name] = ModelInfo(name, float(millions), side, file, place or None, link, licence)
    return found


_NANO = "Apache-2.0 (code); weights trained on CC BY-NC data, not for commercial use"
_SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
_PAGE = "https://huggingface.co/{repository}"

# Models that track what they are pointed at. There are no pooled checkpoints of EfficientTAM at
# 512; those at 1024 serve at both resolutions.
MODELS: dict[str, ModelInfo] = {
    **_models("nano 8.7 nano.safetensors", _NANO),
    **_models(
        """
        sam2-tiny        38.9  sam2_hiera_tiny.pt       tiny
        sam2-small       46.0  sam2_hiera_small.pt      small
        sam2-base-plus   80.8  sam2_hiera_base_plus.pt  base-plus
        sam2-large      224.4  sam2_hiera_large.pt      large
        """,
        "Apache-2.0",
        "facebook/sam2-hiera-{}",
        f"{_SAM2_URL}/072824/{{file}}",
    ),
    **_models(
        """
        sam2.1-tiny        38.9  sam2.1_hiera_tiny.pt       tiny
        sam2.1-small       46.0  sam2.1_hiera_small.pt      small
        sam2.1-base-plus   80.8  sam2.1_hiera_base_plus.pt  base-plus
        sam2.1-large      224.4  sam2.1_hiera_large.pt      large
        """,
        "Apache-2.0",
        "facebook/sam2.1-hiera-{}",
        f"{_SAM2_URL}/092824/{{file}}",
    ),
    **_models(
        """
        efficienttam-s         34.1  efficienttam_s.pt
        efficienttam-s-512     34.1  efficienttam_s_512x512.pt
        efficienttam-s-1       34.1  efficienttam_s_1.pt
        efficienttam-s-1-512   34.1  efficienttam_s_1.pt
        efficienttam-s-2       34.1  efficienttam_s_2.pt
        efficienttam-s-2-512   34.1  efficienttam_s_2.pt
        efficienttam-ti        17.9  efficienttam_ti.pt
        efficienttam-ti-512    17.9  efficienttam_ti_512x512.pt
        efficienttam-ti-1      17.9  efficienttam_ti_1.pt
        efficienttam-ti-1-512  17.9  efficienttam_ti_1.pt
        efficienttam-ti-2      17.9  efficienttam_ti_2.pt
        efficienttam-ti-2-512  17.9  efficienttam_ti_2.pt
        """,
        "Apache-2.0",
        EFFICIENTTAM_REPOSITORY,
    ),
    **_models("edgetam 13.9 edgetam.pt", "Apache-2.0", "facebook/EdgeTAM"),
}

# Models that find the objects of known classes by themselves.
INSTANCE_MODELS: dict[str, ModelInfo] = {
    **_models(
        """
        nano-vis       3.5  nano-vis.safetensors
        nano-vis-dvis  5.9  nano-vis-dvis.safetensors
        """,
        _NANO,
    ),
    **_models(
        """
        minvis-r50-ytvis19          44.0  minvis_ytvis19_R50.pth
        minvis-r50-ytvis21          44.0  minvis_ytvis21_R50.pth
        minvis-r50-ovis             44.0  minvis_ovis_R50.pth
        minvis-swin-large-ytvis19  216.0  minvis_ytvis19_swin_large.pth
        minvis-swin-large-ytvis21  216.0  minvis_ytvis21_swin_large.pth
        minvis-swin-large-ovis     216.0  minvis_ovis_swin_large.pth
        """,
        "NVIDIA Source Code License-NC, not for commercial use",
        "deahuang/MinVIS-Model-Zoo",
    ),
    # The repository does not name its files by model: the checkpoint has to be given.
    **_models(
        """
        dvis-plus-r50-ytvis19  71.0  -
        dvis-plus-r50-ytvis21  71.0  -
        dvis-plus-r50-ovis     71.0  -
        dvis-plus-swin-large-ytvis19  242.5  -
        dvis-plus-swin-large-ytvis21  242.5  -
        dvis-plus-swin-large-ovis     242.5  -
        dvis-plus-vit-adapter-large-ytvis19  375.1  -
        dvis-plus-vit-adapter-large-ytvis21  375.1  -
        dvis-plus-vit-adapter-large-ovis     375.1  -
        """,
        "MIT (code); see the repository",
        "zhangtao-whu/DVIS_Plus",
        _PAGE,
    ),
    **_models(
        """
        dvis-r50-ytvis19          53.7  -
        dvis-r50-ytvis21          53.7  -
        dvis-r50-ovis             53.7  -
        dvis-swin-large-ytvis19  225.2  -
        dvis-swin-large-ytvis21  225.2  -
        dvis-swin-large-ovis     225.2  -
        """,
        "MIT (code); see the repository",
        "zhang-tao-whu/DVIS",
        "https://github.com/{repository}",
    ),
    **_models(
        """
        ctvis-r50-ytvis19          44.2  -
        ctvis-r50-ytvis21          44.2  -
        ctvis-r50-ovis             44.2  -
        ctvis-swin-large-ytvis19  215.7  -
        ctvis-swin-large-ytvis21  215.7  -
        ctvis-swin-large-ovis     215.7  -
        """,
        "MIT (code); see the repository",
        "KainingYing/CTVIS",
        "https://github.com/{repository}",
    ),
    **_models(
        """
        mask2former-r50-coco          44.0  model.safetensors  ClownRat/mask2former-resnet-50
        mask2former-swin-tiny-coco    47.4  model.safetensors  facebook/mask2former-swin-tiny
        mask2former-swin-small-coco   68.7  model.safetensors  facebook/mask2former-swin-small
        mask2former-swin-base-coco   106.9  model.safetensors  facebook/mask2former-swin-base-IN21k
        mask2former-swin-large-coco  215.5  model.safetensors  facebook/mask2former-swin-large
        """,
        "MIT (code); see the repository",
        "{}-coco-instance",
    ),
    **_models(
        """
        video-mask2former-swin-tiny-ytvis19    47.4  model.safetensors  tiny-youtubevis-2019
        video-mask2former-swin-small-ytvis19   68.7  model.safetensors  small-youtubevis-2019
        video-mask2former-swin-tiny-ytvis21    47.4  model.safetensors  tiny-youtubevis-2021
        video-mask2former-swin-small-ytvis21   68.7  model.safetensors  small-youtubevis-2021
        video-mask2former-swin-base-ytvis21   106.9  model.safetensors  base-IN21k-youtubevis-2021
        video-mask2former-swin-large-ytvis21  215.5  model.safetensors  large-youtubevis-2021
        """,
        "MIT (code); see the repository",
        "shivalikasingh/video-mask2former-swin-{}-instance",
    ),
    **_models(
        """
        dvis-plus-r50-ytvis19-offline         115.8  -
        dvis-plus-r50-ytvis21-offline         115.8  -
        dvis-plus-r50-ovis-offline            115.8  -
        dvis-plus-swin-large-ytvis19-offline  287.3  -
        dvis-plus-swin-large-ytvis21-offline  287.3  -
        dvis-plus-swin-large-ovis-offline     287.3  -
        dvis-plus-vit-adapter-large-ytvis19-offline  419.9  -
        dvis-plus-vit-adapter-large-ytvis21-offline  419.9  -
        dvis-plus-vit-adapter-large-ovis-offline     419.9  -
        """,
        "MIT (code); see the repository",
        "zhangtao-whu/DVIS_Plus",
        _PAGE,
    ),
    **_models(
        """
        dvis-r50-ytvis19-offline         68.1  -
        dvis-r50-ytvis21-offline         68.1  -
        dvis-r50-ovis-offline            68.1  -
        dvis-swin-large-ytvis19-offline  239.6  -
        dvis-swin-large-ytvis21-offline  239.6  -
        dvis-swin-large-ovis-offline     239.6  -
        """,
        "MIT (code); see the repository",
        "zhang-tao-whu/DVIS",
        "https://github.com/{repository}",
    ),
}

# Models that track the masks they are given. Their files are on GitHub, not on the Hub.
MATCHING_MODELS: dict[str, ModelInfo] = {
    **_models(
        """
        cutie-base   35.0  cutie-base-mega.pth   Cutie
        cutie-small  28.7  cutie-small-mega.pth  Cutie
        xmem         62.2  XMem.pth              XMem
        """,
        "MIT",
        "hkchengrex/{}",
        "https://github.com/{repository}/releases/download/v1.0/{file}",
    ),
}

# Encoders that propagate masks.
DINOV3_MODELS: dict[str, ModelInfo] = _models(
    """
    dinov3-vits16        21.6  dinov3-vits16.safetensors      vits16
    dinov3-vits16plus    28.7  dinov3-vits16plus.safetensors  vits16plus
    dinov3-vitb16        85.7  dinov3-vitb16.safetensors      vitb16
    dinov3-vitl16       303.1  dinov3-vitl16.safetensors      vitl16
    dinov3-vith16plus   840.5  dinov3-vith16plus.safetensors  vith16plus
    dinov3-vit7b16     6716.0  dinov3-vit7b16.safetensors     vit7b16
    """,
    "DINOv3 License (gated)",
    "facebook/dinov3-{}-pretrain-lvd1689m",
    _PAGE,
)

# As SAM 2's files, configurations and repositories are called.
_SAM2 = re.compile(
    r"(?P<version>sam2(?:\.1)?)[_-]hiera[_-]"
    r"(?P<size>t|tiny|s|small|b\+|base[_-]plus|l|large)(?:\.(?:pt|yaml))?"
)
_SIZES = {"t": "tiny", "s": "small", "b": "base-plus", "l": "large"}
INSTANCES_REMEDY = (
    "finds the objects of known classes by itself: run `tempomask instances`, or load_instances in"
    " Python"
)
MATCHING_REMEDY = (
    "tracks the masks it is given: run `tempomask track --mask` or `eval davis` with it, or"
    " load_matcher in Python"
)


def unknown_model(name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among those known, with what it probably stands for."""
    if name in INSTANCE_MODELS:
        return InputError(f"{name} {INSTANCES_REMEDY}")
    if name in DINOV3_MODELS:
        return InputError(
            f"{name} propagates masks and does not track: run `tempomask propagate --model {name}`,"
            " or load_propagator in Python"
        )
    if name in MATCHING_MODELS:
        return InputError(f"{name} {MATCHING_REMEDY}")
    if any(path.name == name for path in (ASSETS / "adapters").glob("*")):
        return InputError(f"{name} is an adapter, not a model: give it as the adapter")
    remedies = []
    if match := _SAM2.fullmatch(Path(name).name):
        ours = f"{match['version']}-{_SIZES[match['size'][0]]}"
        remedies.append(f"the model is called {ours} here")
    if "/" in name or Path(name).suffix in SUFFIXES:
        remedies.append("a file or a Hub id is given as the checkpoint (--checkpoint, checkpoint=)")
    if remedies:
        return InputError(f"unknown model {name!r}; {', and '.join(remedies)}")
    return unknown_name(f"unknown model {name!r}", name, known)
