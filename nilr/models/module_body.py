"""One's own `torch.nn.Module` as a body: its outputs as a function of given parameters.

Batch normalisation always normalises by the statistics of the batch, or by given ones: its running statistics are
neither used nor changed. All else is computed as the module does it, in the mode (training or evaluation) that it has.
"""

import copy
import threading
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from nilr.errors import ModuleError
from nilr.models.learner import Body, Statistics, Tensors

FEATURES = ""  # in `activations`, the module's own output; no layer can have this name


class Run:
    """A copy of a module for one thread, which shares its tensors; it records what a call computes.

    Attributes:
        outputs: by top-level child, what its last call returned, in the order of the calls.
        calls: by name of a module, how often it ran.
        at: the module that was called last.
        found: the statistics of batch normalisation, by name of its module.
    """

    def __init__(self, module: nn.Module) -> None:
        tensors = [*module.parameters(), *module.buffers()]
        self._module = copy.deepcopy(module, {id(value): value for value in tensors})
        self._given: Statistics | None = None
        self.reset(None)
        for name, part in self._module.named_modules():
            part.register_forward_pre_hook(partial(self._enter, name))
            if isinstance(part, _BatchNorm):
                part.forward = partial(self._normalise, name, part)  # type: ignore[method-assign]
        for name, child in self._module.named_children():
            child.register_forward_hook(partial(self._leave, name))

    def reset(self, statistics: Statistics | None) -> None:
        """Forget the last call; `statistics` are for the next one."""
        self.outputs: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.at, self.found, self._given = "", dict[str, Tensor](), statistics

    def __call__(self, tensors: Tensors, x: Tensor, statistics: Statistics | None = None) -> Any:  # noqa: ANN401 - unchecked
        """Return what the module makes of images `x` (n, C, H, W), with these parameters and buffers."""
        self.reset(statistics)
        return functional_call(self._module, dict(tensors), (x,))

    def _enter(self, name: str, *_: object) -> None:
        self.calls[name] += 1
        self.at = name

    def _leave(self, name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        self.outputs.pop(name, None)
        self.outputs[name] = output

    def _normalise(self, name: str, norm: _BatchNorm, x: Tensor) -> Tensor:
        if self._given is None:
            others = [dim for dim in range(x.dim()) if dim != 1]
            variance, mean = torch.var_mean(x, others, correction=0)
            self.found[name] = torch.stack([mean, (variance + norm.eps).rsqrt()])
            return nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        shape = (-1, *(1,) * (x.dim() - 2))
        mean, factor = (value.reshape(shape) for value in self._given[name])
        y: Tensor = (x - mean) * factor
        return y if norm.weight is None else y * norm.weight.reshape(shape) + norm.bias.reshape(shape)


class ModuleBody(Body):
    """A checked module as a body; `nilr.models.wrapping` checks it.

    Args:
        module: copied; the caller's module never changes.
        layers: its top-level children whose outputs are tensors (n, ...), in the order in which they run.
        image_shape: (C, H, W) of the images that it was checked on.
        limits: what it cannot do, by "inductive" and "second order", with the reason.
    """

    keeps_weights = True

    def __init__(
        self, module: nn.Module, layers: tuple[str, ...], image_shape: tuple[int, ...], limits: dict[str, ModuleError]
    ) -> None:
        super().__init__()
        self.image_shape, self._layers, self._limits = image_shape, layers, limits
        self.inductive = "inductive" not in limits
        # Its parameters have the names that they have in the module. Children may have any name, also one of an
        # attribute of this class, which `add_module` would reject.
        self._modules.update(module.named_children())
        self._parameters.update(module.named_parameters(recurse=False))
        self._whole = (module,)  # in a tuple, so that its parameters do not get a second name
        self._runs = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies share: all except the copies for threads."""
        return {name: value for name, value in vars(self).items() if name != "_runs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._runs = threading.local()

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers in `activations`, in order."""
        return self._layers

    def check_order(self, order: int) -> None:
        """Check that the features have derivatives up to this order; ModuleError if they have not."""
        if order > 1 and "second order" in self._limits:
            raise self._limits["second order"]

    def activations(self, params: Tensors, x: Tensor, statistics: Statistics | None = None) -> dict[str, Tensor]:
        """Return the outputs of the layers by name, and at the end the features."""
        if statistics is not None:
            self._check_inductive()
        run, features = self._run(params, x, statistics)
        return {**{name: run.outputs[name] for name in self.layers}, FEATURES: features}

    def statistics(self, params: Tensors, x: Tensor) -> dict[str, Tensor]:
        """Return the statistics by name of the module of batch normalisation; ModuleError if they do not suffice."""
        self._check_inductive()
        return self._run(params, x, None)[0].found

    def _check_inductive(self) -> None:
        if "inductive" in self._limits:
            raise self._limits["inductive"]

    def _run(self, params: Tensors, x: Tensor, statistics: Statistics | None) -> tuple[Run, Tensor]:
        (module,) = self._whole
        if not hasattr(self._runs, "run"):
            self._runs.run = Run(module)
        run: Run = self._runs.run
        if x.shape[1:] != self.image_shape:
            raise ModuleError(
                f"the module `{type(module).__name__}` was wrapped for images {self.image_shape} (C, H, W), and the "
                f"images are {tuple(x.shape[1:])}",
                hint="wrap it with the size of the images",
            )
        buffers = {
            name: value.to(x if value.is_floating_point() else x.device) for name, value in module.named_buffers()
        }
        try:
            return run, run({**params, **buffers}, x, statistics)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise failure(module, run.at, x, error) from error


def failure(module: nn.Module, at: str, x: Tensor, error: Exception) -> ModuleError:
    """Return the error for a module that fails on images, in the part `at` that ran last."""
    where = f" in `{at}` ({type(module.get_submodule(at)).__name__})" if at else ""
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return ModuleError(
        f"the module `{type(module).__name__}` fails{where} on images {tuple(x.shape)}: {reason}",
        hint="a body maps images (n, C, H, W) of one size to features (n, D), for any n",
    )
