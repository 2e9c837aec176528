"""Check one's own module, and make a body of it.

The check runs the module on two small batches of random images, forward and backward. It leaves the random state of
torch as it was.
"""

import copy
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from nilr.errors import ModuleError, UsageError
from nilr.models.module_body import ModuleBody, Run, failure
from nilr.words import some

_BATCHES = (3, 2)  # sizes of the batches
_TAKEN = ("all", "body", "head")  # names of parts of a learner, which a layer cannot have
_SHAPE_HINT = "a body maps images (n, C, H, W) to features (n, D) or planes (n, C', H', W'), for any n"


def wrap_module(module: object, *, image_size: int, channels: int = 3) -> tuple[ModuleBody, int]:
    """Return a body with a copy of the module's weights, and D, the length of a feature vector.

    Raises:
        ModuleError: the module cannot be a body; the error names the module, the layer and shapes.
    """
    if not isinstance(module, nn.Module):
        raise ModuleError(f"`{type(module).__name__}` is not a torch.nn.Module", hint="give a module")
    if image_size < 1 or channels < 1:
        raise UsageError(
            f"images of {channels} channels and {image_size} px do not exist", hint="give positive numbers"
        )
    _check_parameters(module)
    _check_norms(module)
    try:
        own = copy.deepcopy(module)
        check = _Check(own)
    except Exception as error:
        hint = "give a plain module, without what copy.deepcopy cannot copy, and not compiled by TorchScript"
        raise _invalid(module, f"cannot be copied: {str(error).splitlines()[0]}", hint) from error
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        shape = (channels, image_size, image_size)
        batches = [torch.rand(n, *shape) for n in _BATCHES]
        features = [check.features(x) for x in batches]
        if features[0].shape[1:] != features[1].shape[1:]:
            shapes = " and ".join(str(tuple(one.shape)) for one in features)
            raise _invalid(own, f"has features whose shape varies with the batch: {shapes}", _SHAPE_HINT)
        check.is_repeatable(batches[0])
        limits = dict(check.limits(batches[0]))
        layers = check.layers(len(batches[-1]), batches[-1])
    return ModuleBody(own, layers, shape, limits), features[0][0].numel()


def _invalid(module: nn.Module, problem: str, hint: str) -> ModuleError:
    return ModuleError(f"the module `{type(module).__name__}` {problem}", hint=hint)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return whether features are equal, except for rounding."""
    return torch.allclose(a, b, rtol=1e-3, atol=1e-5)


def _shown(tensors: Iterable[tuple[str, Tensor]]) -> str:
    return some([f"`{name}` {tuple(value.shape)}" for name, value in tensors])


def _check_parameters(module: nn.Module) -> None:
    """Check what needs no images: there are parameters, each with one name, float32 on the CPU, and trainable."""
    named = list(module.named_parameters(remove_duplicate=False))
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        lazy = some([f"`{name}`" for name, value in named if is_lazy(value)])
        raise _invalid(module, f"has parameters without a shape: {lazy}", "run it once on images of the right size")
    if not named:
        raise _invalid(module, "has no parameters", "a body needs parameters to learn and adapt")
    for name, value in named:
        if (layer := name.partition(".")[0]) in _TAKEN:
            problem = f"has a layer `{layer}`, which is the name of a part of a learner"
            raise _invalid(module, f"{problem}: `{name}` {tuple(value.shape)}", "give the layer another name")
        if not value.numel():
            problem = f"has a parameter without elements: `{name}` {tuple(value.shape)}"
            raise _invalid(module, problem, "remove it, or make it a buffer")
        same = [f"`{other}`" for other, one in named if one is value]
        if len(same) > 1:
            raise _invalid(
                module,
                f"uses one parameter {tuple(value.shape)} as {' and '.join(same)}",
                "give each layer its own parameters: rates and layers are told apart by name",
            )
        if value.dtype != torch.float32 or value.device.type != "cpu":
            raise _invalid(
                module,
                f"has a parameter that is not float32 on the CPU: `{name}` {tuple(value.shape)} is "
                f"{str(value.dtype).removeprefix('torch.')} on `{value.device}`",
                "give module.float().cpu(); nilr itself moves it to the device",
            )
    if frozen := [(name, value) for name, value in named if not value.requires_grad]:
        raise _invalid(
            module,
            f"has parameters that do not require a gradient: {_shown(frozen)}",
            "all parameters are learned and adapted: call requires_grad_(True), or make them buffers",
        )


def _check_norms(module: nn.Module) -> None:
    """Check that batch normalisation, which nilr computes itself, is torch's own."""
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and type(part).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
            raise _invalid(
                module,
                f"has batch normalisation with a forward of its own: `{name}` ({type(part).__name__})",
                "use nn.BatchNorm1d to 3d, with what follows as a layer of its own",
            )


class _Check:
    """Runs a module on images and checks what it does."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.run = module, Run(module)
        self.params = {name: value.detach().requires_grad_() for name, value in module.named_parameters()}
        self.buffers = {name: value.clone() for name, value in module.named_buffers()}

    def features(self, x: Tensor, statistics: dict[str, Tensor] | None = None) -> Tensor:
        """Return the module's features; ModuleError if it fails, or what it returns or does is invalid."""
        try:
            found = self.run({**self.params, **dict(self.module.named_buffers())}, x, statistics)
        except Exception as error:
            raise failure(self.module, self.run.at, x, error) from error
        features = self._checked(found, x)
        for name, before in self.buffers.items():
            if not torch.equal(before, self.module.get_buffer(name)):
                raise _invalid(
                    self.module,
                    f"changes its buffer `{name}` {tuple(before.shape)} when it runs",
                    "a body is a function of parameters and images: turn off running statistics, or call module.eval()",
                )
        for name, calls in self.run.calls.items():
            part = self.module.get_submodule(name)
            own = [(f"{name}.{one}".lstrip("."), value) for one, value in part.named_parameters(recurse=False)]
            if calls > 1 and own:
                raise _invalid(
                    self.module,
                    f"runs `{name}` ({type(part).__name__}) {calls} times on one batch, with parameters {_shown(own)}",
                    "use another layer, with its own parameters, each time",
                )
        return features

    def _checked(self, found: object, x: Tensor) -> Tensor:
        if not isinstance(found, Tensor):
            raise _invalid(self.module, f"returns a `{type(found).__name__}`, not a tensor", _SHAPE_HINT)
        made = f"makes features {tuple(found.shape)} of images {tuple(x.shape)}"
        if found.layout != torch.strided:
            raise _invalid(self.module, f"{made} that are not dense", "call to_dense()")
        if found.dim() < 2 or len(found) != len(x) or not found.numel():
            raise _invalid(self.module, made, _SHAPE_HINT)
        if found.dtype != x.dtype:
            kind = str(found.dtype).removeprefix("torch.")
            raise _invalid(self.module, f"{made} in {kind}", "features must be float32, and differentiable")
        if not found.isfinite().all():
            raise _invalid(self.module, f"{made} that are not finite", "check its weights")
        return found

    def is_repeatable(self, x: Tensor) -> None:
        """Check that the features do not depend on chance, and do depend on every parameter; ModuleError if not."""
        dropout = [
            f"`{name}` ({type(part).__name__}, p={part.p})"
            for name, part in self.module.named_modules()
            if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0
        ]
        first = self.features(x)
        if dropout or not _equal(first, self.features(x)):
            what = f"has dropout that is on: {some(dropout)}" if dropout else "gives other features at every call"
            raise _invalid(self.module, what, "call module.eval(): features must not depend on chance")
        hint = "remove detach, argmax, rounding and torch.no_grad between parameters and features"
        if not first.requires_grad:
            has = {name: y.requires_grad for name, y in self.run.outputs.items() if isinstance(y, Tensor)}
            ends = next((later for (_, one), (later, other) in pairwise(has.items()) if one and not other), None)
            where = "" if ends is None else f": it ends in `{ends}`"
            raise _invalid(self.module, f"makes features {tuple(first.shape)} without a gradient{where}", hint)
        total = (first * torch.rand_like(first)).sum()
        try:
            gradients = torch.autograd.grad(total, list(self.params.values()), allow_unused=True)
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            problem = f"makes features {tuple(first.shape)} whose gradient fails: {reason}"
            raise _invalid(self.module, problem, "replace the operation that fails, such as one in place") from error
        if not any(g is not None and g.any() for g in gradients):
            raise _invalid(self.module, f"makes features {tuple(first.shape)} whose gradient is zero", hint)
        unused = [item for item, g in zip(self.params.items(), gradients, strict=True) if g is None]
        if unused:
            raise _invalid(
                self.module,
                f"has parameters on which its features do not depend: {_shown(unused)}",
                "remove them if they are unused; if detach, argmax or torch.no_grad cuts them off, remove that",
            )

    def limits(self, x: Tensor) -> Iterator[tuple[str, ModuleError]]:
        """Yield what the module cannot do, with the reason."""
        try:
            gradients = torch.autograd.grad(
                self.features(x).square().sum(), list(self.params.values()), create_graph=True
            )
            torch.stack([g.square().sum() for g in gradients]).sum().backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            hint = "replace that operation, or use a first-order algorithm: fomaml or fometasgd"
            yield "second order", _invalid(self.module, f"has no second derivative: {reason}", hint)
        with torch.no_grad():
            self.features(x)
            statistics = dict(self.run.found)
            together = self.features(x, statistics)[:1]
            try:
                alone = self.features(x[:1], statistics)
            except ModuleError as error:
                alone, reason = together + torch.inf, f" ({error.message})"
            else:
                reason = ""
        if not _equal(together, alone):
            yield (
                "inductive",
                _invalid(
                    self.module,
                    f"has features of an image that depend on the other images of its batch{reason}",
                    "inductive statistics need nn.BatchNorm layers, or no dependence; use --batch-stats apart",
                ),
            )

    def layers(self, n: int, x: Tensor) -> tuple[str, ...]:
        """Return the top-level children with parameters whose outputs are tensors (n, ...), as they run."""
        self.features(x)
        with_parameters = {name.partition(".")[0] for name in self.params if "." in name}
        return tuple(
            name
            for name, output in self.run.outputs.items()
            if name in with_parameters and isinstance(output, Tensor) and output.dim() > 1 and len(output) == n
        )
