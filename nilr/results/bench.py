"""The metrics of `nilr bench`."""

from pydantic import FiniteFloat

from nilr.results.records import Record


class Timing(Record):
    """The seconds that one engine takes for a task: the median over the rounds, the fastest and the slowest.

    `flop` counts the convolutions that the task needs; `share_of_attainable` is their rate, as a fraction of
    `attainable_flop_per_second`, null for all if one of them would be above 1. Memory is that of the engine's process
    before its first turn, and its peak: resident memory, with Python and torch; on a CUDA device, that of its tensors.
    """

    episodes: int
    inner_steps: int
    seconds: FiniteFloat
    seconds_fastest: FiniteFloat
    seconds_slowest: FiniteFloat
    episodes_per_second: FiniteFloat
    flop: int
    share_of_attainable: FiniteFloat | None
    memory_before_bytes: int
    peak_memory_bytes: int


class EngineBench(Record):
    """One engine: an outer step, from drawing its episodes to Adam; and adapting to episodes and evaluating them.

    If outer steps are captured in a CUDA graph, `update_uncaptured` has the timing without capture.
    """

    update: Timing
    update_uncaptured: Timing | None = None
    evaluation: Timing


class ConvolutionRate(Record):
    """The rate of one of the network's convolutions alone, forward, on a batch of query images."""

    convolution: str
    flop_per_second: FiniteFloat


class PresetTime(Record):
    """The time of a training with a preset, with its validations, with the engine that `auto` chooses.

    `peak_memory_bytes` is the larger of the peaks of an update and of an evaluation.
    """

    algo: str
    engine: str
    outer_steps: int
    seconds_per_update: FiniteFloat
    validations: int
    seconds_per_validation: FiniteFloat
    seconds: FiniteFloat
    peak_memory_bytes: int


class BenchMetrics(Record):
    """`nilr bench`: engines by algorithm and name, and presets by name.

    `attainable_flop_per_second` is the rate of the fastest of the network's convolutions, on all threads.
    """

    attainable_flop_per_second: FiniteFloat
    convolutions: list[ConvolutionRate]
    engines: dict[str, dict[str, EngineBench]]
    presets: dict[str, PresetTime]
    unavailable: list[str]
