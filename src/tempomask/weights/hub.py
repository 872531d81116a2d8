"""Where a checkpoint comes from: this machine first, then the Hub through huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tempomask.errors import InputError
from tempomask.weights.files import SUFFIXES
from tempomask.weights.zoo import MODELS, ModelInfo, home

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Of a repository: weights and configuration of transformers, else the original file.
PREFERRED = ["model*.safetensors", "model.safetensors.index.json", "config.json"]
FALLBACK = ["*.safetensors", "*.pt", "*.pth"]


def locate(name: str) -> Path:
    """The weights of a named model, fetched if they are not on this machine.

    InputError if that is not possible; it says where a person can get the file.
    """
    info = MODELS[name]
    path = info.path()
    if path is not None:
        return path
    if info.repository is None:
        raise InputError(f"the weights of {name} are missing from the package; install it again")
    return _download(info, info.repository)


def resolve(checkpoint: str | Path) -> Path:
    """A file or folder as it is; a Hub id such as facebook/sam2.1-hiera-tiny as its local copy."""
    path = Path(checkpoint).expanduser()
    identifier = str(checkpoint)
    local = path.exists() or path.parent.is_dir() or path.suffix in SUFFIXES
    if local or not HUB_ID.fullmatch(identifier):
        return path
    return _snapshot(identifier)


def _download(info: ModelInfo, repository: str) -> Path:
    def fetch() -> str:
        from huggingface_hub import hf_hub_download

        return hf_hub_download(repository, info.file)

    remedy = (
        f"fetch {info.url} and pass the file as checkpoint=, or put it into {home()} under its name"
    )
    return _reach(f"{info.name} is not on this machine", remedy, fetch)


def _snapshot(repository: str) -> Path:
    def fetch() -> str:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(repository, allow_patterns=PREFERRED)
        if any(Path(folder).glob("*.safetensors")):
            return folder
        return snapshot_download(repository, allow_patterns=FALLBACK)

    what = f"there is no file {repository}, and the Hub repository of that name is not here"
    return _reach(what, "check the name, or fetch the file and pass its path as checkpoint=", fetch)


def _reach(what: str, remedy: str, fetch: Callable[[], str]) -> Path:
    """Run a download; every failure is an InputError of what is missing and the remedy."""
    if find_spec("huggingface_hub") is None:
        raise InputError(f"{what}, and huggingface_hub is not installed to fetch it; {remedy}")
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(fetch())
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = type(error).__name__
        raise InputError(f"{what} and could not be fetched ({reason}); {remedy}") from None
