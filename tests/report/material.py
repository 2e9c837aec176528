"""Results with the numbers of every figure."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from nilr.report.figures.figure import History, Material
from nilr.report.reading import RESULTS, Source, with_question
from nilr.report.subjects import probed

PROTOCOLS = ("meta-init", "same-task", "cross-task")
EDITS = ("learned", "zero-negative", "zero-positive", "absolute", "negated", "shuffled-signs", "tensor-mean", "0.01")
LAYERS = ("block1", "block2", "block3", "block4")
PARTS = ("body", *LAYERS, "head")
MEASURES = ("cka", "svcca", "cosine", "within-class-cosine", "between-class-cosine")


def mean(value: float, width: float = 0.004) -> dict[str, Any]:
    return {"mean": value, "ci95": width, "n_episodes": 600}


def delta(value: float, width: float = 0.003) -> dict[str, Any]:
    return {"mean": value, "ci95": width, "p": 0.01, "low": value - width, "high": value + width, "d": 0.2}


def cell(accuracy: float, change: float | None, **more: Any) -> dict[str, Any]:
    return {"accuracy": mean(accuracy), "delta": None if change is None else delta(change), **more}


def cells(base: float, same: float, cross: float, **more: Any) -> dict[str, Any]:
    return {
        "meta-init": cell(base, None),
        "same-task": cell(base + same, same, **more),
        "cross-task": cell(base + cross, cross, **more),
    }


def split(base: float, effect: float) -> dict[str, Any]:
    """Return what `--directions` measures of an effect that is even but for a tenth."""
    other = {"negative": 0.8 * effect, "twice": 3 * effect, "random-signs": 0.1 * effect, "gaussian": 0.0}
    cells = {name: cell(base + change, change) for name, change in {"learned": effect, **other}.items()}
    return {**cells, "odd": delta(0.1 * effect, 0.002), "even": delta(0.9 * effect, 0.002)}


def harm(excess: float) -> dict[str, Any]:
    """Return what `--harm` measures; by chance, 45 % of the episodes are harmed and as many are helped."""

    def share(value: float, chance: float) -> dict[str, Any]:
        return {"share": mean(value, 0.04), "chance": mean(chance, 0.001), "excess": mean(value - chance, 0.04)}

    outcomes = {
        "harmed": share(0.45 - excess, 0.45),
        "helped": share(0.45 + excess, 0.45),
        "unchanged": share(0.1, 0.1),
    }
    return {"turned-right": mean(9.5), "turned-wrong": mean(8.5), **outcomes}


def permuted(accuracy: float, spread: float) -> dict[str, Any]:
    """Return what `--permutations` measures."""
    values = {"mean": accuracy, "spread": spread, "best": accuracy + 2 * spread, "worst": accuracy - 2 * spread}
    return {name: mean(value) for name, value in values.items()}


def full_model(base: float, same: float, cross: float) -> dict[str, Any]:
    edits = {}
    for i, name in enumerate(EDITS):
        change = 0.004 * i * (-1) ** i
        more = {"delta_to_learned": None if name == "learned" else delta(change)}
        edited = cells(base, same + change, cross - change / 2, **more)
        edits[name] = {protocol: edited[protocol] for protocol in PROTOCOLS[1:]}
    return {
        **cells(base, same, cross),
        "edits": edits,
        "directions": {
            "same-task": {part: split(base, same / (i + 1)) for i, part in enumerate(("body", *LAYERS))},
            "cross-task": {part: split(base, cross / (i + 1)) for i, part in enumerate(("body", *LAYERS))},
        },
        "harm": {"same-task": harm(5 * same), "cross-task": harm(5 * cross)},
        "permutations": {
            "same-task": {"neighbours": permuted(base + same, 0.01), "own-head": permuted(base, 0.02)},
            "cross-task": {"neighbours": permuted(base + cross, 0.01)},
        },
        "own_head": {"learned": {"meta-init": cell(0.2, None), "same-task": cell(base, base - 0.2)}},
        "layers": {name: cells(base - 0.03 * (3 - i), same * i / 3, cross * i / 3) for i, name in enumerate(LAYERS)},
        "steps": {str(k): cells(base, same * (1 - math.exp(-k / 2)), cross * k / 10) for k in range(11)},
        "shared_classes": {
            str(f): {"cross-task": cell(base + cross + (same - cross) * f, cross + (same - cross) * f)}
            for f in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        },
        "geometry": {
            name: {
                "meta-init": {"value": mean(value, 0.02)},
                "same-task": {"value": mean(value + 0.03, 0.02), "difference": mean(0.03, 0.01)},
                "cross-task": {"value": mean(value - 0.01, 0.02), "difference": mean(-0.01, 0.01)},
            }
            for name, value in (("inverse-cdnv", 0.4), ("inverse-directional-cdnv", 2.1), ("hyperplane-variation", 0.7))
        },
        "universality": {
            name: {"meta-init": cell(base, None), "cross-task": cell(base + cross * half, cross * half)}
            for name, half in (("ridge", 0.5), ("logistic", 0.25))
        },
        "similarity": {
            task: {
                layer: {name: mean(0.98 - 0.05 * i - 0.13 * j - drop) for j, name in enumerate(MEASURES)}
                for i, layer in enumerate(LAYERS)
            }
            for task, drop in (("same-task", 0.0), ("cross-task", 0.06))
        },
        "transfer": {
            task: {
                **loss_parts(-fall, fall / 2),
                "actual": mean(-fall / 3),
                "parts": {part: loss_parts(-fall / (i + 2), fall / (i + 4)) for i, part in enumerate(PARTS)},
            }
            for task, fall in (("same-task", 0.4), ("cross-task", 0.02))
        },
    }


def loss_parts(positive: float, negative: float) -> dict[str, Any]:
    signs = {"predicted_positive": mean(positive), "predicted_negative": mean(negative)}
    return {"predicted": mean(positive + negative), **signs}


def used(name: str, algo: str, seed: int, recipe: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "checkpoint": "best",
        "digest": f"{hash_of(name)}",
        "outer_step": 60_000,
        "algo": algo,
        "trained_on": "mini",
        "parent": None,
        "seed": seed,
        "recipe": recipe,
    }


def hash_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def result(command: str, metrics: Any, models: list[dict[str, Any]], **change: Any) -> dict[str, Any]:
    return {
        "schema": f"nilr/{command}/1",
        "command": command,
        "config": {
            "n_way": 5,
            "n_shot": 1,
            "n_query": 15,
            "neighbours": "nearest",
            "distance": "cosine",
            "task_b": "disjoint",
            "rates": ["learned"],
        },
        "models": models,
        "data": {"name": "mini-imagenet", "digest": "mini", "image_size": 84, "split": "test"},
        "metrics": metrics,
        "per_episode": {},
        "notes": ["a note"],
        "environment": {},
        "started_at": "2026-01-01T00:00:00.000000+00:00",
        "duration_seconds": 1.0,
        **change,
    }


def full_probe(seeds: int = 1) -> dict[str, Any]:
    metrics, models = {}, []
    for seed in range(seeds):
        for algo, base, same, cross in (("maml", 0.42, 0.021, -0.012), ("metasgd", 0.43, -0.015, 0.008)):
            name = algo if seeds == 1 else f"{algo}-s{seed}"
            shift = 0.003 * (seed - (seeds - 1) / 2)
            metrics[name] = full_model(base + shift, same + shift, cross + shift)
            models.append(used(name, algo, seed, hash_of(algo)))
    return result("probe", metrics, models)


def rates_of(count: int, edges: list[float], counts: list[int], share_negative: float) -> dict[str, Any]:
    """Return statistics of some tensors' rates."""
    return {
        "count": count,
        "mean": (edges[0] + edges[-1]) / 2,
        "std": 0.01,
        "quantiles": {"0.5": 0.0},
        "share_negative": share_negative,
        "histogram": {"edges": edges, "counts": counts},
        "ascent": mean(share_negative / 2),
        "step_norm": mean(0.1),
        "cosine": mean(1 - share_negative),
    }


def rates_result(name: str, layers: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    metrics = {
        "inner_steps": 1,
        "all": next(iter(layers.values())),
        "kinds": {},
        "layers": layers,
        "tensors": {},
        "left_out": [],
        "not_moved": [],
        **more,
    }
    return result("rates", {name: metrics}, [used(name, "metasgd", 0, hash_of("metasgd"))])


def full_rates(name: str = "metasgd") -> dict[str, Any]:
    def layer(middle: float) -> dict[str, Any]:
        edges = [round(-0.05 + 0.005 * i, 6) for i in range(41)]
        counts = [round(4000 * math.exp(-(((edge + 0.0025 - middle) / 0.03) ** 2))) for edge in edges[:-1]]
        return rates_of(sum(counts), edges, counts, sum(counts[:10]) / sum(counts))

    def consistency(shared: float) -> dict[str, Any]:
        signs = {
            sign: {"consistency": mean(math.sqrt(share)), "shared": mean(share)}
            for sign, share in (("positive", shared), ("negative", shared / 2))
        }
        return {**signs, "difference": mean(-shared / 2), "rank_size": mean(0.1), "rank_rate": mean(-0.1)}

    names = (*LAYERS, "head")
    return rates_result(
        name,
        {layer_name: layer(0.06 - 0.02 * i) for i, layer_name in enumerate(names)},
        consistency={part: consistency(0.03 + 0.01 * i) for i, part in enumerate(("all", *names))},
        consistency_by_chance=0.08,
        effective_step={"slope": mean(-0.5), "curvature": mean(0.4), "ratio": mean(0.8), "overshoots": mean(0.1)},
    )


def material(*results: dict[str, Any], histories: tuple[History, ...] = ()) -> Material:
    """Return the material of a report, as if read from files."""
    sources = [source(f"{i}.json", content) for i, content in enumerate(results)]
    return Material(sources, probed(sources), histories)


def source(name: str, content: dict[str, Any]) -> Source[Any]:
    """Return a result as if read from a file."""
    command = content["command"]
    return Source(name, "0" * 64, command, with_question(RESULTS[command].model_validate(content)))


HISTORY = History(
    label="metasgd",
    steps=range(0, 1000, 100),
    share_negative=[0.03 * i for i in range(10)],
    by_layer={"block1": [0.01 * i for i in range(10)], "head": [0.05 * i for i in range(10)]},
    losses=[(100 * i, 2.0 - 0.1 * i) for i in range(10)],
    validations=[(500, 0.38), (900, 0.37)],
    n_way=5,
)


def over_seeds(*values: float, width: float = 0.01) -> dict[str, Any]:
    seeds = {str(i): value for i, value in enumerate(values)}
    numbers = {"mean": sum(values) / len(values), "ci95": width, "spread": width / 2, "p": 0.01}
    return {**numbers, "n_seeds": len(values), "verdict": "positive", "seeds": seeds}


def rate_grid(*, rates: tuple[float, ...] = (-0.05, 0.0, 0.05)) -> dict[str, Any]:
    """Return a concluded experiment whose best cell is training at the lowest and adaptation at the highest rate."""
    cells = [
        {
            "training_rate": training,
            "adaptation_rate": adaptation,
            "accuracy": {"0": 0.3 + adaptation - training, "1": 0.32 + adaptation - training},
            "to_meta_init": over_seeds(adaptation - training, adaptation - training + 0.02),
        }
        for training in rates
        for adaptation in rates
    ]
    optimum = {
        "training_rate": rates[0],
        "adaptation_rate": rates[-1],
        "accuracy": over_seeds(0.4, 0.42),
        "training_rates": over_seeds(rates[0], rates[0], width=0.0),
        "adaptation_rates": over_seeds(rates[-1], rates[-1], width=0.02),
    }
    readings = ("same-task", "cross-task", "own-head")
    grid = {
        "cells": dict.fromkeys(readings, cells),
        "optimum": dict.fromkeys(readings, optimum),
        "validation": {str(rate): {"0": 0.3, "1": 0.31} for rate in rates},
    }
    return result("reproduce", {"signs": [], "runs": {}, "files": [], "grids": {"maml": grid}}, [])


def everything() -> Material:
    """Return material with the numbers of every kind of figure."""
    concluded = rate_grid()
    sign = {"run": "maml", "protocol": "same-task", "claimed": 1, "finding": "undecided"}
    sign["measured"] = over_seeds(0.01, -0.02, 0.03)
    other = [sign | {"finding": "exploratory"}]
    starts = ("0.001", "0.05", "uniform:0.005,0.1")
    choices = {"5-shot": other} | {f"learned rates that start at {start}": other for start in starts}
    concluded["metrics"] |= {"signs": [sign], "choices": choices}
    return material(full_probe(seeds=2), full_rates(), concluded, histories=(HISTORY,))
