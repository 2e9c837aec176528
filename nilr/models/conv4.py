"""Conv4: the four-block network of few-shot learning (Vinyals et al., Matching Networks, 2016)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nilr.errors import EpisodeError
from nilr.models.learner import Body, Statistics, Tensors

N_BLOCKS = 4
EPS = 1e-5  # of batch norm
BLOCKS = tuple(f"block{i + 1}" for i in range(N_BLOCKS))
MIN_IMAGE_SIZE = 2**N_BLOCKS


class ConvBlock(nn.Module):
    """The parameters of a block: 3x3 convolution, batch norm (then ReLU and 2x2 max-pool).

    The convolution has no bias: before batch norm its gradient is zero, and a learned rate for it has no signal.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, track_running_stats=False)


class Conv4(Body):
    """Four blocks: (n, 3, S, S) -> (n, filters * (S // 16)^2); 800 features at 84 px and 32 filters.

    Batch norm uses the given statistics, else those of the current batch.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        for i, block in enumerate(BLOCKS):
            self.add_module(block, ConvBlock(filters if i else 3, filters))

    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        """Return the outputs of the blocks by name."""
        return {block: x for block, _, x in self._blocks(params, x, statistics)}

    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        """Return the statistics of the convolutions' outputs, by block."""
        found = {}
        for block, y, _ in self._blocks(params, x):
            variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
            found[block] = torch.stack([mean, (variance + EPS).rsqrt()])
        return found

    def _blocks(
        self, params: Tensors, x: Tensor, statistics: Statistics | None = None
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the name of each block, the output of its convolution, and its own output."""
        for block in BLOCKS:
            y = F.conv2d(x, params[f"{block}.conv.weight"], padding=1)
            scale, shift = params[f"{block}.norm.weight"], params[f"{block}.norm.bias"]
            if statistics is None:
                z = F.batch_norm(y, None, None, scale, shift, training=True, eps=EPS)
            else:
                mean, factor, shift = (v[:, None, None] for v in (*statistics[block], shift))
                z = (y - mean) * (factor * scale[:, None, None]) + shift
            x = F.max_pool2d(F.relu(z), 2)
            yield block, y, x


def build_conv4(*, image_size: int, filters: int) -> tuple[Conv4, int]:
    """Return the body and its feature dimension; EpisodeError if the images are too small for four poolings."""
    if image_size < MIN_IMAGE_SIZE:
        raise EpisodeError(
            f"conv4 needs images of at least {MIN_IMAGE_SIZE} px, but these have {image_size}",
            hint=f"pack them with --image-size {MIN_IMAGE_SIZE} or more",
        )
    return Conv4(filters), filters * (image_size // MIN_IMAGE_SIZE) ** 2
