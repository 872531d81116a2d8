"""What sessions of tracking, instance segmentation and label propagation have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from threading import RLock
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.frames import Size, checked_frame
from tempomask.ops.resumable import Resumable, agree, load_state, read_values, save_state
from tempomask.prompts import Prompt
from tempomask.results import FrameResult

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="VideoSession")


def in_turn(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method of a session that waits for those which other threads have called."""

    @wraps(method)
    def waiting(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            return method(self, *args, **kwargs)

    return waiting


def next_frame(state: bytes) -> int:
    """The frame that a session with this state takes next; InputError if the state is damaged."""
    index, reverse = read_values(state, "_index", "_reverse")
    if type(index) is not int:
        raise InputError("the kept state is of a session before its first frame")
    return index + (-1 if reverse else 1)


class VideoSession(Resumable):
    """One video or stream, advanced frame by frame; a subclass implements `step`.

    As a context manager it forgets the video at the end. Threads may share it: their calls act one
    after the other.

    Args:
        start: Index of the first frame.
        reverse: Frames come in descending order.
        size: (H, W) of the video, None until it is known.
        dtype: Of the computation, by autocast.

    Attributes:
        lock: Held by the call that is at work.
    """

    state_types: ClassVar = {
        "_index": int | None,
        "_reverse": bool,
        "_size": tuple[int, int] | None,
    }

    def __init__(
        self,
        *,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.start, self.dtype = start, dtype
        self._reverse, self._size = reverse, size
        self._index: int | None = None
        self.lock = RLock()

    def check_state(self) -> None:
        agree(self._index is None or self._index >= 0, "the frame number")

    @property
    def made_for(self) -> str:
        """Network and options, which must be the same where a state is restored."""
        raise TypeError(f"{type(self).__name__} must implement made_for")

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        raise TypeError(f"{type(self).__name__} must implement device")

    @in_turn
    def state(self) -> bytes:
        """All that is needed to go on with the video later, after the frame last stepped.

        It is bounded in size, plain numbers in a safetensors file, and read by `restore`. Frames
        before it can no longer be corrected then.
        """
        return save_state(self, self.made_for)

    @in_turn
    def restore(self, state: bytes) -> None:
        """Go on where another session of the same network and options was: from `next_index`.

        This one must be new. Prompts that waited for later frames are to be given again.

        Args:
            state: From `state`.

        Raises:
            InputError: If it is of something else, or damaged; the session is as before.
        """
        load_state(self, self.made_for, state, self.device)

    @property
    def index(self) -> int | None:
        """The frame last stepped, None before the first."""
        return self._index

    @property
    def next_index(self) -> int:
        """The frame that `step` takes its argument for."""
        return self.start if self._index is None else self._index + (-1 if self._reverse else 1)

    @property
    def size(self) -> Size | None:
        """(H, W) of the video, None until it is known."""
        return self._size

    def reset(self) -> None:
        """Forget the video, its frame numbers and its size."""
        self._index = self._size = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()

    def _checked(self, frame: Any) -> NDArray[np.uint8]:
        """A frame as an array; InputError unless it is one, of the size of those before."""
        array = checked_frame(frame)
        self._check_size((array.shape[0], array.shape[1]))
        return array

    def _check_size(self, size: Size) -> None:
        if self._size is not None and size != self._size:
            raise InputError(
                f"a frame of {size[1]} x {size[0]} pixels in a video of {self._size[1]} x"
                f" {self._size[0]}; the size may not change, start a new session"
            )

    def _computing(self, device: torch.device) -> AbstractContextManager[None]:
        """Without gradients, in the session's number type."""
        return computing(device, self.dtype)


class PromptedSession(VideoSession):
    """A session that takes prompts for any frame: what a pass through a whole video needs of it."""

    @property
    def waiting(self) -> tuple[Prompt, ...]:
        """Prompts for frames that have not come yet."""
        raise TypeError(f"{type(self).__name__} must implement waiting")

    @property
    def sends_ahead(self) -> bool:
        """Whether frames gain by being given to `prepare` before their turn."""
        return False

    def is_ahead(self, index: int) -> bool:
        """Whether tracking has yet to come to a frame."""
        sign = -1 if self._reverse else 1
        return sign * index >= sign * self.next_index

    def add(self, prompt: Prompt) -> FrameResult | None:
        """Take a prompt; for a frame already stepped its new result."""
        raise TypeError(f"{type(self).__name__} must implement add")

    def step(self, frame: Any, index: int | None = None) -> FrameResult:
        """Take in one frame and say where every object is in it."""
        raise TypeError(f"{type(self).__name__} must implement step")

    def prepare(self, frame: NDArray[np.uint8]) -> Any:
        """A frame for `step`, where `sends_ahead`."""
        raise TypeError(f"{type(self).__name__} must implement prepare")

    def condition(self, frame: NDArray[np.uint8], prompts: Sequence[Prompt]) -> FrameResult:
        """Apply prompts to their frame, out of turn."""
        raise TypeError(f"{type(self).__name__} must implement condition")


@contextmanager
def computing(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Without gradients, in a number type by autocast."""
    casting: AbstractContextManager[Any] = nullcontext()
    if torch.amp.is_autocast_available(device.type):
        casting = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    with torch.inference_mode(), casting:
        yield
