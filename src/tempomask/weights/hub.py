"""Where a checkpoint comes from: this machine first, then the Hub through huggingface_hub."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies

from tempomask.errors import InputError
from tempomask.files import given_path
from tempomask.weights.files import SUFFIXES
from tempomask.weights.zoo import ModelInfo, home

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Of a repository: weights and configuration as transformers stores them.
PREFERRED = ["model*.safetensors", "model.safetensors.index.json", "config.json"]


def locate(info: ModelInfo) -> Path:
    """The weights of a named model, fetched if they are not on this machine.

    Raises:
        InputError: They cannot be had; the text says where a person can get the file.
    """
    if not info.file:
        raise InputError(
            f"{info.name} has no file that could be fetched by its name; fetch one from {info.url}"
            " and name it as the checkpoint"
        )
    path = info.path()
    if path is not None:
        return path
    if info.repository is None:
        raise InputError(
            f"the weights of {info.name} are missing from the package; install it again"
        )
    remedy = f"fetch {info.url} and name the file as the checkpoint, or put it into {home()}"
    if not info.on_hub:
        raise InputError(f"{info.name} is not on this machine, and not on the Hub; {remedy}")
    from huggingface_hub import hf_hub_download

    offline = not reachable()
    fetch = partial(hf_hub_download, info.repository, info.file, local_files_only=offline)
    return _reach(f"{info.name} is not on this machine", remedy, fetch)


def resolve(checkpoint: str | Path, info: ModelInfo | None = None) -> Path:
    """A file or folder as it is; a Hub id such as facebook/sam2.1-hiera-tiny as its local copy.

    Of a repository with several files, that of the model asked for is taken.
    """
    path = given_path(checkpoint)
    identifier = str(checkpoint)
    local = path.exists() or path.parent.is_dir() or path.suffix in SUFFIXES
    if local or not HUB_ID.fullmatch(identifier):
        return path
    if info is not None and info.repository == identifier:
        return locate(info)
    return _snapshot(identifier)


def _snapshot(repository: str) -> Path:
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

    def fetch() -> str:
        offline = not reachable()
        folder = snapshot_download(repository, allow_patterns=PREFERRED, local_files_only=offline)
        if any(Path(folder).glob("*.safetensors")):
            return folder
        files = [file for file in list_repo_files(repository) if file.endswith(SUFFIXES)]
        if len(files) != 1:
            raise InputError(
                f"the Hub repository {repository} has {len(files)} checkpoints"
                f" ({', '.join(files[:4])}); fetch one and name it as the checkpoint"
            )
        return hf_hub_download(repository, files[0])

    what = f"there is no file {repository}, and the Hub repository of that name is not here"
    return _reach(what, "check the name, or fetch the file and name it as the checkpoint", fetch)


def reachable(seconds: float = 2.0) -> bool:
    """Whether the Hub, or the proxy on the way to it, answers; without, its client waits long."""
    from huggingface_hub.constants import ENDPOINT

    scheme = urlsplit(ENDPOINT).scheme
    way = urlsplit(getproxies().get(scheme) or ENDPOINT)
    port = way.port or (443 if way.scheme == "https" else 80)
    answers: list[bool] = []

    def ask() -> None:
        with suppress(OSError), socket.create_connection((way.hostname, port), seconds):
            answers.append(True)

    asking = Thread(target=ask, daemon=True)  # the search for the name has no time limit
    asking.start()
    asking.join(seconds)
    return bool(answers)


def _reach(what: str, remedy: str, fetch: Callable[[], str]) -> Path:
    """Run a download; every failure is an InputError of what is missing and the remedy."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    log = logging.getLogger("huggingface_hub")
    level = log.level
    # Ten lines about a lost connection would hide the one that helps.
    log.setLevel(logging.ERROR)
    try:
        return Path(fetch())
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        lost = isinstance(error, LocalEntryNotFoundError)
        reason = "no connection" if lost else type(error).__name__
        raise InputError(f"{what} and could not be fetched ({reason}); {remedy}") from None
    finally:
        log.setLevel(level)
