"""What `nilr bench` puts into its result: timings of engines, and what follows from them."""

from __future__ import annotations

from pydantic import FiniteFloat

from nilr.results.records import Record


class Timing(Record):
    """How long one engine takes for a task: the median over the rounds, the fastest and the slowest.

    `flop` counts the convolutions that the task needs; `share_of_attainable` is their rate, as a fraction of
    `attainable_flop_per_second`. Memory is what the engine's process held before its first turn and at most: resident,
    with Python and torch; on a CUDA device, its tensors there.
    """

    episodes: int
    inner_steps: int
    seconds: FiniteFloat
    seconds_fastest: FiniteFloat
    seconds_slowest: FiniteFloat
    episodes_per_second: FiniteFloat
    flop: int
    share_of_attainable: FiniteFloat
    memory_before_bytes: int
    peak_memory_bytes: int


class EngineBench(Record):
    """One engine: an outer step, from drawing its episodes to Adam; and adapting to episodes and judging them.

    Where outer steps are captured in a CUDA graph, `update_uncaptured` has their kernels launched one by one.
    """

    update: Timing
    update_uncaptured: Timing | None = None
    evaluation: Timing


class ConvolutionRate(Record):
    """How fast one of the network's convolutions is by itself, forward, on a batch of query images."""

    convolution: str
    flop_per_second: FiniteFloat


class PresetTime(Record):
    """How long a training by a preset will take, validations included, with the engine that `auto` takes."""

    algo: str
    engine: str
    outer_steps: int
    seconds_per_update: FiniteFloat
    validations: int
    seconds_per_validation: FiniteFloat
    seconds: FiniteFloat


class BenchMetrics(Record):
    """`nilr bench`: engines by algorithm and name, and presets by name.

    `attainable_flop_per_second` is that of the fastest of the network's convolutions, on all threads.
    """

    attainable_flop_per_second: FiniteFloat
    convolutions: list[ConvolutionRate]
    engines: dict[str, dict[str, EngineBench]]
    presets: dict[str, PresetTime]
    unavailable: list[str]
