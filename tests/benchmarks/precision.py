"""How far each engine's meta-gradient is from float64's, at each precision this machine has.

    python tests/benchmarks/precision.py [--seeds 10] [--device cpu]

One maml update (5 steps) and one metasgd update (1 step) of a fresh Conv4 with 32 filters on 84 px, 5-way 1-shot, 15
queries, one episode of random images; the truth is the reference engine in float64. Prints a markdown table of the
relative error (norm of the difference over norm), median and largest over seeds.

A machine without a GPU has no tf32. `tf32, emulated` is float32 with what products and convolutions take in rounded to
tf32's 10 bits before, as a GPU's tensor cores round it; what they add up is float32 in both.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nilr.episodes import Episode
from nilr.errors import UsageError
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.registry import ENGINES, choose_engine
from nilr.models.registry import build_learner
from nilr.runtime import prepare

SIZE, FILTERS, N_WAY, N_QUERY = 84, 32, 5, 15
STEPS = {"maml": 5, "metasgd": 1}


# The products that tensor cores do, and which of the arguments are multiplied; the others are added.
_FACTORS = {
    torch.ops.aten.convolution.default: (0, 1),
    torch.ops.aten.convolution_backward.default: (0, 1, 2),
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.baddbmm.default: (1, 2),
}


class EmulatedTF32(TorchDispatchMode):
    """While it is entered, products of float32 tensors see them rounded to tf32."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        factors = _FACTORS.get(func, ())
        return func(*(rounded_to_tf32(x) if i in factors else x for i, x in enumerate(args)), **(kwargs or {}))


def rounded_to_tf32(x: Any) -> Any:
    """Round to the nearest number of 10 explicit bits of mantissa, of the 23 of float32; ties away from zero."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        return x
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def episode(seed: int, device: torch.device, dtype: torch.dtype) -> Episode:
    x = torch.rand(1, N_WAY * (1 + N_QUERY), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    x, labels = x.to(device, dtype), torch.arange(N_WAY, device=device)
    return Episode(x[:, :N_WAY], labels[None], x[:, N_WAY:], labels.repeat_interleave(N_QUERY)[None])


def meta_gradient(
    engine: str, algo: str, seed: int, device: torch.device, dtype: torch.dtype, precision: str
) -> Tensor:
    learner = build_learner("conv4", n_way=N_WAY, image_size=SIZE, filters=FILTERS, seed=seed).to(device, dtype)
    params = learner.initial_params()
    row = ALGORITHMS[algo]
    rates = {name: torch.full_like(params[name], 0.05) for name in row.moved(learner.kinds)}
    chosen = choose_engine(engine, learner, device, precision)
    outcome = chosen.meta_gradient(params, rates, episode(seed, device, dtype), Objective(row, STEPS[algo]))
    return torch.cat([value.reshape(-1) for value in outcome.params.values()]).double()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    write = sys.stdout.write
    write("| algorithm | engine | precision | median error | largest |\n|---|---|---|---|---|\n")
    for algo in STEPS:
        device = prepare(options.device, None)
        truth = [meta_gradient("reference", algo, s, device, torch.float64, "float32") for s in range(options.seeds)]
        for precision in ("float32", "tf32", "tf32, emulated", "bf16"):
            emulated = precision == "tf32, emulated"
            asked = "float32" if emulated else precision
            for engine in ENGINES:
                if emulated and (engine == "compiled" or device.type == "cuda"):
                    continue  # its products in C are not seen; a GPU has the real one
                try:
                    prepare(options.device, None, asked)
                    with EmulatedTF32() if emulated else contextlib.nullcontext():
                        found = [
                            meta_gradient(engine, algo, s, device, torch.float32, asked) for s in range(options.seeds)
                        ]
                except UsageError:
                    continue
                errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)]
                row = f"{statistics.median(errors):.1e} | {max(errors):.1e}"
                write(f"| {algo} | {engine} | {precision} | {row} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
