"""Settings of `nilr bench`."""

from nilr.config.base import IMAGE_SIZES, CommaText, EpisodeSettings, setting


class BenchSettings(EpisodeSettings):
    """`nilr bench`: measure the speed of this machine on random images."""

    engine: str = setting(
        "all", "Engine to time: a name, auto, or all: every engine that auto can choose on the device."
    )
    algo: CommaText = setting("maml,metasgd", "Algorithms to time, separated by commas.", offers=("{algorithms}",))
    image_size: int = setting(84, "Height and width of the images, in pixels.", ge=IMAGE_SIZES[0], le=IMAGE_SIZES[1])
    channels: int = setting(3, "Channels of the images: 1 is grey, 3 is RGB.", ge=1, le=3)
    rounds: int = setting(3, "Number of times to measure each engine; the median is reported.", ge=1, le=1000)
