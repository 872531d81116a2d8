"""SAM 2's image encoder: Hiera, four stages of blocks at strides 4, 8, 16 and 32.

Architecture: arXiv 2306.00989, as SAM 2 uses it (arXiv 2408.00714, appendix D).
B batch, S image side, C channels.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.config import HieraConfig
from tempomask.models.encoder import Encoder, EncoderOutput, Policy
from tempomask.models.windowed_block import WindowedBlock


class Hiera(Encoder):
    """Each stage after the first begins with a block that doubles the channels and halves the grid.

    Those blocks are required; every other one may be skipped. Features are those at stage ends.
    """

    strides = (4, 8, 16, 32)
    patch_stride = 4

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        dim, heads = config.embed_dim, config.num_heads
        ends = [end - 1 for end in accumulate(config.stages)]
        self.patch_channels = dim
        self.channels = tuple(dim * 2**stage for stage in range(len(config.stages)))
        self.required_blocks = frozenset(end + 1 for end in ends[:-1])
        self.feature_blocks = tuple(ends)
        self.patch_embedding = nn.Conv2d(3, dim, 7, stride=4, padding=3)
        # A coarse background, stretched over the image, and a fine part, the same in all windows.
        self.position = nn.Parameter(torch.zeros(dim, *config.position_size))
        window = config.window_sizes[0]
        self.window_position = nn.Parameter(torch.zeros(dim, window, window))
        self.blocks = nn.ModuleList()
        for stage, length in enumerate(config.stages):
            for _ in range(length):
                index = len(self.blocks)
                first = index in self.required_blocks
                # Window sizes lag by one block: queries are pooled in the windows of the old grid.
                window = config.window_sizes[stage - 1 if first else stage]
                if index in config.global_attention_blocks:
                    window = 0
                input_dim = self.channels[stage - 1 if first else stage]
                self.blocks.append(
                    WindowedBlock(
                        input_dim,
                        self.channels[stage],
                        heads * 2**stage,
                        window,
                        pool=first,
                    )
                )

    def position_encoding(self, height: int, width: int) -> Tensor:
        """(height, width, C) for a grid of patches whose sides are multiples of the window."""
        window = self.window_position.shape[1]
        background = F.interpolate(self.position[None], size=(height, width), mode="bicubic")[0]
        tiled = self.window_position.tile(1, height // window, width // window)
        return (background + tiled).permute(1, 2, 0)

    def forward(
        self,
        image: Tensor,
        policy: Policy | None = None,
        previous_masks: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode an image (B, 3, S, S), normalised; S a multiple of 32. See `EncoderOutput`."""
        x = self.patch_embedding(image).permute(0, 2, 3, 1)
        x = x + self.position_encoding(x.shape[1], x.shape[2])
        emitted, blocks = self.run_blocks(x, policy, previous_masks)
        return EncoderOutput([x.permute(0, 3, 1, 2) for x in emitted], blocks)
