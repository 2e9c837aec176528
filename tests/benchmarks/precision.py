"""How far each engine's meta-gradient is from float64's, at each precision this machine has.

    python tests/benchmarks/precision.py [--seeds 10] [--device cpu] [--precisions float32,bf16]
    python tests/benchmarks/precision.py --checkpoint MODEL/best.safetensors --pack PACK.h5

One maml update (5 steps and 1) and one metasgd update (1 step) of a fresh Conv4 with 32 filters on 84 px, 5-way 1-shot,
15 queries, one episode of random images; or of a trained model on training episodes of its pack. The truth is the
reference engine in float64. Prints a markdown table of the relative error (norm of the difference over norm), median
and largest over seeds.

A machine without a GPU has no tf32. `tf32-emulated` is float32 with what products and convolutions take in rounded to
tf32's 10 bits before, as a GPU's tensor cores round it; what they add up is float32 in both.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nilr.checkpoint import load_checkpoint
from nilr.data.pack import open_pack
from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.errors import UsageError
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.registry import ENGINES, choose_engine
from nilr.models.learner import Learner, Params
from nilr.models.registry import build_learner
from nilr.runtime import prepare

SIZE, FILTERS, N_WAY, N_QUERY = 84, 32, 5, 15
UPDATES = (("maml", 5), ("maml", 1), ("metasgd", 1))  # algorithms with their inner steps


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


def fresh(seed: int) -> tuple[Learner, Params, Episode]:
    """Return an untrained model, and an episode of random images."""
    learner = build_learner("conv4", n_way=N_WAY, image_size=SIZE, filters=FILTERS, seed=seed)
    x = torch.rand(1, N_WAY * (1 + N_QUERY), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(N_WAY)
    queries = labels.repeat_interleave(N_QUERY)[None]
    return learner, learner.initial_params(), Episode(x[:, :N_WAY], labels[None], x[:, N_WAY:], queries)


def trained(checkpoint: Path, pack: Path) -> Callable[[int], tuple[Learner, Params, Episode]]:
    """Return the same of a trained Conv4, on training episodes of a pack."""
    model, split = load_checkpoint(checkpoint), open_pack(pack).open_split("train")
    images = PackedImages(torch.from_numpy(split.images.read(range(sum(split.class_sizes)))), split.class_sizes)
    filters, size = model.params["body.block1.conv.weight"].shape[0], images.images.shape[1]
    learner = build_learner("conv4", n_way=N_WAY, image_size=size, filters=filters)

    def draw(seed: int) -> tuple[Learner, Params, Episode]:
        return learner, model.params, EpisodeSampler(images, N_WAY, 1, N_QUERY, seed, "precision").draw([0])

    return draw


def meta_gradient(
    engine: str, update: tuple[str, int], task: tuple[Learner, Params, Episode], device: torch.device,
    dtype: torch.dtype, precision: str,
) -> Tensor:  # fmt: skip
    (algo, steps), (learner, params, episode) = update, task
    learner = copy.deepcopy(learner).to(device, dtype)
    params = {name: value.to(device, dtype) for name, value in params.items()}
    row = ALGORITHMS[algo]
    rates = {name: torch.full_like(params[name], 0.05) for name in row.moved(learner.kinds)}
    batch = Episode(*(x.to(device, dtype) if x.is_floating_point() else x.to(device) for x in vars(episode).values()))
    outcome = choose_engine(engine, learner, device, precision).meta_gradient(
        params, rates, batch, Objective(row, steps)
    )
    return torch.cat([value.reshape(-1) for value in outcome.params.values()]).double()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", default="float32,tf32,tf32-emulated,bf16")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--pack", type=Path)
    options = parser.parse_args()
    make = fresh if options.checkpoint is None else trained(options.checkpoint, options.pack)
    tasks = [make(seed) for seed in range(options.seeds)]
    write = sys.stdout.write
    write("| algorithm | steps | engine | precision | median error | largest |\n|---|---|---|---|---|---|\n")
    for update in UPDATES:
        device = prepare(options.device, None)
        truth = [meta_gradient("reference", update, task, device, torch.float64, "float32") for task in tasks]
        for precision in options.precisions.split(","):
            emulated = precision == "tf32-emulated"
            asked = "float32" if emulated else precision
            for engine in ENGINES:
                if emulated and (engine in ("compiled", "winograd") or device.type == "cuda"):
                    continue  # the products in C are not seen; a GPU has the real tf32
                try:
                    prepare(options.device, None, asked)
                    with EmulatedTF32() if emulated else contextlib.nullcontext():
                        found = [meta_gradient(engine, update, task, device, torch.float32, asked) for task in tasks]
                except UsageError:
                    continue
                errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)]
                row = f"{statistics.median(errors):.1e} | {max(errors):.1e}"
                write(f"| {update[0]} | {update[1]} | {engine} | {precision} | {row} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
