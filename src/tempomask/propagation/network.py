"""An image encoder as a source of patch features, which label propagation compares.

B images, H x W their size, h x w patches, D channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, Policy, RoutedNetwork

# Of the encoder's maps the one whose stride is nearest to this is compared.
STRIDE = 16


class EncodedPatches(NamedTuple):
    """features (B, h, w, D), float32, unit vectors; blocks, (L,) or (B, L): which ran."""

    features: Tensor
    blocks: Tensor


class PatchEncoder(RoutedNetwork):
    """An encoder whose map of stride 16, or the one nearest to that, is normalised for propagation.

    Args:
        encoder: Any.
        name: Of the network that it is part of, by which adapters know it.
    """

    def __init__(self, encoder: Encoder, name: str = "encoder") -> None:
        super().__init__()
        self.encoder = encoder
        self._name = name
        distances = [abs(math.log2(stride / STRIDE)) for stride in encoder.strides]
        self._level = distances.index(min(distances))

    @property
    def name(self) -> str:
        return self._name

    @property
    def multiple(self) -> int:
        """Both sides of an image are multiples of this."""
        # Only encoders of a single plain stack do without a stride-32 map.
        plain = len(self.encoder.strides) == 1
        return self.encoder.strides[0] if plain else 32

    def encode(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> EncodedPatches:
        """Features of images (B, 3, H, W), normalised; the other arguments: see `Encoder`."""
        output = self.encoder(image, policy, previous_masks)
        features = output.features[self._level].float().permute(0, 2, 3, 1)
        return EncodedPatches(F.normalize(features, dim=-1), output.blocks)


def as_patch_encoder(network: RoutedNetwork) -> PatchEncoder:
    """The network, where only patch features will do; InputError for a whole segmenter."""
    if not isinstance(network, PatchEncoder):
        raise InputError(f"labels are propagated by an encoder alone, and {network.name} is more")
    return network
