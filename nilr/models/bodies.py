"""The bodies of few-shot learning, as stages; `docs/bodies.md` compares them with their sources.

Each function takes the size and channels of square images and the body's own arguments, and returns the body and D,
the length of its features. It raises EpisodeError for images that are too small, and ValueError for invalid arguments.
"""

import itertools
from collections.abc import Sequence

from nilr.errors import EpisodeError
from nilr.models.conv_body import ConvBody
from nilr.models.stages import Residual, Unit

_N_RESIDUAL = 4  # blocks of resnet12
_LEAKY = 0.1  # the slope of its leaky ReLU


def conv4(*, image_size: int, filters: int, channels: int = 3) -> tuple[ConvBody, int]:
    """Four blocks (Vinyals et al., Matching Networks, 2016): D is 800 at 84 px and 32 filters."""
    return _fitting("conv4", _plain(4, filters, channels), image_size)


def conv4_leaky(*, image_size: int, filters: int, channels: int = 3) -> tuple[ConvBody, int]:
    """Conv4 with leaky ReLU 0.01, as in the code of Antoniou et al. (How to train your MAML, 2019)."""
    return _fitting("conv4-leaky", _plain(4, filters, channels, slope=0.01), image_size)


def conv6(*, image_size: int, filters: int, channels: int = 3) -> tuple[ConvBody, int]:
    """Six blocks, the last two without pooling (Chen et al., A Closer Look at Few-shot Classification, 2019)."""
    return _fitting("conv6", _plain(6, filters, channels), image_size)


def resnet12(*, image_size: int, widths: Sequence[int], channels: int = 3) -> tuple[ConvBody, int]:
    """Four residual blocks and the mean over positions, without dropout and DropBlock; D is the last of the widths.

    Widths of 64, 160, 320 and 640 are those of Tian et al. (Rethinking Few-Shot Image Classification, 2020), whose
    blocks are MetaOptNet's (Lee et al., 2019); 64, 128, 256 and 512 those of TADAM (Oreshkin et al., 2018).
    """
    if not isinstance(widths, Sequence) or len(widths) != _N_RESIDUAL or not all(map(_is_count, widths)):
        raise ValueError(f"widths is {widths}, expected the numbers of channels of {_N_RESIDUAL} blocks")
    stages = [
        _residual(f"block{i}", *channels) for i, channels in enumerate(itertools.pairwise((channels, *widths)), 1)
    ]
    return _fitting("resnet12", ConvBody(stages, mean=True), image_size)


def _plain(n_blocks: int, filters: int, channels: int, slope: float = 0.0) -> ConvBody:
    """Return blocks in a row, of which the first four pool."""
    if not _is_count(filters):
        raise ValueError(f"filters is {filters}, expected a number of channels")
    blocks = range(1, n_blocks + 1)
    return ConvBody(
        [Unit(f"block{i}", filters if i > 1 else channels, filters, slope=slope, pool=i <= 4) for i in blocks]
    )


def _residual(name: str, in_channels: int, out_channels: int) -> Residual:
    first = Unit(f"{name}.unit1", in_channels, out_channels, slope=_LEAKY, pool=False)
    second = Unit(f"{name}.unit2", out_channels, out_channels, slope=_LEAKY, pool=False)
    third = Unit(f"{name}.unit3", out_channels, out_channels, slope=None, pool=False)
    shortcut = Unit(f"{name}.shortcut", in_channels, out_channels, kernel=1, slope=None, pool=False)
    return Residual(name, (first, second, third), shortcut, slope=_LEAKY)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _fitting(name: str, body: ConvBody, image_size: int) -> tuple[ConvBody, int]:
    """Return the body and its feature dimension; EpisodeError if the images are too small for its poolings."""
    smallest = 2**body.n_poolings
    if image_size < smallest:
        raise EpisodeError(
            f"{name} needs images of at least {smallest} px, but these have {image_size}",
            hint=f"pack them with --image-size {smallest} or more",
        )
    return body, body.feature_dim(image_size)
