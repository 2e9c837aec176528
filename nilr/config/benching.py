"""Settings of `nilr bench`."""

from __future__ import annotations

from nilr.config.base import DeviceSettings, setting


class BenchSettings(DeviceSettings):
    """`nilr bench`: measure the speed of this machine on random images."""

    engine: str = setting(
        "all", "Engine to time: a name, auto, or all: every engine that auto can choose on the device."
    )
    algo: str = setting("maml,metasgd", "Algorithms to time, separated by commas.")
    arch: str = setting("conv4", "Architecture of the network's body.")
    filters: int = setting(32, "Number of channels of each convolution.", ge=1, le=4096)
    image_size: int = setting(84, "Height and width of the images, in pixels.", ge=8, le=1024)
    n_way: int = setting(5, "Number of classes per episode.", ge=2, le=1000)
    n_shot: int = setting(1, "Number of support images per class.", ge=1, le=1000)
    n_query: int = setting(15, "Number of query images per class.", ge=1, le=1000)
    meta_batch_size: int = setting(4, "Number of episodes per update.", ge=1, le=4096)
    inner_steps: int | None = setting(
        None, "Number of gradient steps of the inner loop in training.", shown="the algorithm's default", ge=1, le=1000
    )
    eval_inner_steps: int | None = setting(
        None,
        "Number of gradient steps of the inner loop in evaluation.",
        shown="the algorithm's default",
        ge=0,
        le=1000,
    )
    rounds: int = setting(3, "Number of times to measure each engine; the median is reported.", ge=1, le=1000)
