"""A segmenter on a device, and what it does with single images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, overload

import torch

from tempomask.errors import InputError
from tempomask.images.everything import AutomaticMasks, Progress, everything
from tempomask.images.options import EverythingOptions
from tempomask.images.session import Image, ImageSession, image_sessions
from tempomask.models.config import SegmenterConfig
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.routed_model import RoutedModel, RoutingChoice

if TYPE_CHECKING:
    from tempomask.adaptation.method import LoadedAdapter


class ImageModel(RoutedModel):
    """The part of `tempomask.Model` that needs no video; arguments as there."""

    def __init__(
        self,
        segmenter: Segmenter,
        dtype: torch.dtype = torch.float32,
        adapter: LoadedAdapter | None = None,
    ) -> None:
        if segmenter.fast and segmenter.dtype != dtype:
            raise InputError(
                f"the segmenter was accelerated for {segmenter.dtype}, and the model is to compute"
                f" in {dtype}; accelerate it for that, or give dtype={segmenter.dtype}"
            )
        super().__init__(segmenter, dtype, adapter)
        self.segmenter = segmenter

    @property
    def config(self) -> SegmenterConfig:
        """Of the network."""
        return self.segmenter.config

    @property
    def image_size(self) -> int:
        """Side of the square that the network sees, in pixels."""
        return self.config.image_size

    @property
    def pooling(self) -> str | None:
        """How its memories are pooled; None where they are not."""
        return self.config.memory_attention.form

    @overload
    def segment(
        self, image: Image, prompts: Prompt | Iterable[Prompt], *, routing: RoutingChoice = None
    ) -> FrameResult: ...
    @overload
    def segment(
        self, image: list[Image], prompts: Iterable[Prompt], *, routing: RoutingChoice = None
    ) -> list[FrameResult]: ...
    def segment(
        self,
        image: Image | list[Image],
        prompts: Prompt | Iterable[Prompt],
        *,
        routing: RoutingChoice = None,
    ) -> FrameResult | list[FrameResult]:
        """Segment the prompted objects of an image, with a result as of a frame, or of a list.

        Args:
            image: A path or an (H, W, 3) uint8 RGB array; a list of them is encoded at once.
            prompts: Of any objects; of a list, their `frame` is the number of the image.
            routing: Same as in `track`.

        Raises:
            InputError: For bad input, and for an image of a list without a prompt.
        """
        if not isinstance(image, list):
            return self.image_session(image, routing=routing).segment(prompts)
        listed = [prompts] if isinstance(prompts, Prompt) else list(prompts)
        by_image = [[p for p in listed if p.frame == index] for index in range(len(image))]
        if sum(map(len, by_image)) != len(listed) or not all(by_image):
            raise InputError(
                f"each of the {len(image)} images needs a prompt whose frame is its number, 0 to"
                f" {len(image) - 1}, got {sorted({p.frame for p in listed})}"
            )
        sessions = self.image_sessions(image, routing=routing)
        return [one.segment(own) for one, own in zip(sessions, by_image, strict=True)]

    def image_session(self, image: Image, *, routing: RoutingChoice = None) -> ImageSession:
        """A session on one image, which is encoded once and answers many prompts.

        Args:
            image: A path or an (H, W, 3) uint8 RGB array.
            routing: Same as in `track`.

        Raises:
            InputError: For what is not an image.
        """
        return self.image_sessions([image], routing=routing)[0]

    def image_sessions(
        self, images: Sequence[Image], *, routing: RoutingChoice = None
    ) -> list[ImageSession]:
        """The same for images of any sizes, which go through the encoder together."""
        return image_sessions(self.segmenter, images, self.dtype, self.policy(routing))

    def everything(
        self,
        image: Image,
        options: EverythingOptions | None = None,
        *,
        routing: RoutingChoice = None,
        progress: Progress = lambda _done, _all: None,
    ) -> AutomaticMasks:
        """Masks of everything in an image, without any prompt.

        Args:
            image: A path or an (H, W, 3) uint8 RGB array.
            options: Clicks, thresholds and crops; None for SAM 2's defaults, softened for nano.
            routing: Same as in `track`.
            progress: Told how many clicks are done, and how many there are.

        Raises:
            InputError: For what is not an image.
        """
        options, policy = options or EverythingOptions(), self.policy(routing)
        return everything(self.segmenter, image, options, self.dtype, policy, progress)
