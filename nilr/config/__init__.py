"""One frozen settings model per command: every default, range, unit and help text, and nothing else.

The command line is generated from these models: field `n_way` is flag `--n-way`, environment variable `NILR_N_WAY` and
JSON key `n_way`. A default of None means "as the algorithm's row, the preset or the checkpoint says"; the resolved
value stands in every result. `explicit()` tells what the user set, so that flags override presets.
"""

from __future__ import annotations

from nilr.config.base import (
    MINI_IMAGENET,
    PROTOCOLS,
    SPLITS,
    SYNTHETIC,
    BatchStats,
    ChunkSettings,
    DeviceSettings,
    Distance,
    Interval,
    MeasuringSettings,
    ModelName,
    OuterLRSchedule,
    Protocol,
    ProtocolChoice,
    RateGrain,
    ReportFormat,
    Resample,
    Settings,
    Split,
    TaskB,
    is_name,
    setting,
)
from nilr.config.benching import (
    BenchSettings,
)
from nilr.config.experiments import (
    EXPERIMENTS,
    Experiment,
    Run,
)
from nilr.config.judging import (
    NEIGHBOURS,
    RATES,
    AdaptSettings,
    JudgeSettings,
    ProbeSettings,
    RatesSettings,
    TaskSettings,
)
from nilr.config.keeping import (
    DemoSettings,
    ImportSettings,
    ModelSettings,
    ModelsSettings,
    ReportSettings,
)
from nilr.config.packing import (
    PrepareDataSettings,
)
from nilr.config.reproducing import (
    ReproduceSettings,
)
from nilr.config.training import (
    PRESETS,
    TrainSettings,
)

__all__ = [
    "EXPERIMENTS",
    "MINI_IMAGENET",
    "NEIGHBOURS",
    "PRESETS",
    "PROTOCOLS",
    "RATES",
    "SPLITS",
    "SYNTHETIC",
    "AdaptSettings",
    "BatchStats",
    "BenchSettings",
    "ChunkSettings",
    "DemoSettings",
    "DeviceSettings",
    "Distance",
    "Experiment",
    "ImportSettings",
    "Interval",
    "JudgeSettings",
    "MeasuringSettings",
    "ModelName",
    "ModelSettings",
    "ModelsSettings",
    "OuterLRSchedule",
    "PrepareDataSettings",
    "ProbeSettings",
    "Protocol",
    "ProtocolChoice",
    "RateGrain",
    "RatesSettings",
    "ReportFormat",
    "ReportSettings",
    "ReproduceSettings",
    "Resample",
    "Run",
    "Settings",
    "Split",
    "TaskB",
    "TaskSettings",
    "TrainSettings",
    "is_name",
    "setting",
]
