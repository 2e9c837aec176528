"""Settings of the bench."""

from __future__ import annotations

from nilr.config.base import DeviceSettings, setting


class BenchSettings(DeviceSettings):
    """`nilr bench`: how fast this machine is, on random images."""

    engine: str = setting(
        "all", "Time one engine, by its name or as auto takes it; all: each that auto may take on the device."
    )
    algo: str = setting("maml,metasgd", "Algorithms to time, with commas between them.")
    arch: str = setting("conv4", "Architecture of the body.")
    filters: int = setting(32, "Channels of each of the body's convolutions.", ge=1, le=4096)
    image_size: int = setting(84, "Height and width of the images, in pixels.", ge=8, le=1024)
    n_way: int = setting(5, "Classes per episode.", ge=2, le=1000)
    n_shot: int = setting(1, "Support images per class.", ge=1, le=1000)
    n_query: int = setting(15, "Query images per class.", ge=1, le=1000)
    meta_batch_size: int = setting(4, "Episodes per outer update.", ge=1, le=4096)
    inner_steps: int | None = setting(
        None, "Gradient steps of the inner loop in training.", shown="as the algorithm's row", ge=1, le=1000
    )
    eval_inner_steps: int | None = setting(
        None, "Gradient steps of the inner loop in evaluation.", shown="as the algorithm's row", ge=0, le=1000
    )
    rounds: int = setting(3, "How often each engine takes its turn; the median is reported.", ge=1, le=1000)
