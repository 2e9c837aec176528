"""The bodies of few-shot learning, as stages."""

from nilr.errors import EpisodeError
from nilr.models.conv_body import ConvBody
from nilr.models.stages import Unit


def conv4(*, image_size: int, filters: int) -> tuple[ConvBody, int]:
    """Return four blocks (Vinyals et al., Matching Networks, 2016) and D: 800 at 84 px and 32 filters."""
    stages = [Unit(f"block{i}", filters if i > 1 else 3, filters) for i in range(1, 5)]
    return _fitting("conv4", ConvBody(stages), image_size)


def _fitting(name: str, body: ConvBody, image_size: int) -> tuple[ConvBody, int]:
    """Return the body and its feature dimension; EpisodeError if the images are too small for its poolings."""
    smallest = 2**body.n_poolings
    if image_size < smallest:
        raise EpisodeError(
            f"{name} needs images of at least {smallest} px, but these have {image_size}",
            hint=f"pack them with --image-size {smallest} or more",
        )
    return body, body.feature_dim(image_size)
