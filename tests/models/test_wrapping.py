"""One's own module as a body: equal to the module itself, and one clear error for every module that cannot be one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nilr.episodes import Episode
from nilr.errors import ModuleError
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.registry import choose_engine
from nilr.meta.engine.workers import in_order
from nilr.meta.inner_lr import initial_rates
from nilr.meta.outer_loop import OuterLoop, OuterSettings
from nilr.models.learner import Learner
from nilr.models.parameters import layer
from nilr.models.wrapping import wrap_module

SIZE = 8
PIXELS = 3 * SIZE**2
CPU = torch.device("cpu")


class Net(nn.Module):
    """Convolution, batch norm with running statistics, a positional parameter of its own, and a nested linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.statistics = nn.BatchNorm2d(6)  # its name is that of a method of a body
        self.place = nn.Parameter(torch.randn(6, SIZE, SIZE))
        self.tail = nn.Sequential(nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.statistics(self.stem(x)) + self.place)


class Calls(nn.Module):
    """A module whose forward is a function of itself and the images."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def linear(inputs: int = PIXELS, outputs: int = 4) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def learner_of(module: nn.Module, n_way: int = 2) -> Learner:
    return Learner(*wrap_module(module, image_size=SIZE), n_way)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_features_are_those_of_the_module_with_batch_statistics(images: Tensor) -> None:
    net = Net()
    learner = learner_of(net)
    params = learner.initial_params()
    assert learner.feature_dim == 10
    expected = net.train()(images)
    assert torch.equal(learner.features(params, images), expected)
    assert torch.equal(learner_of(net.eval()).features(params, images), expected)
    moved = {name: value + 0.1 for name, value in params.items()}
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.copy_(moved[f"body.{name}"])
    assert torch.equal(learner.features(moved, images), net.train()(images))


def test_parameters_have_their_own_names_kinds_and_layers(images: Tensor) -> None:
    learner = learner_of(Net())
    assert learner.kinds == {
        "body.place": "other weight",
        "body.stem.weight": "convolution weight",
        "body.stem.bias": "bias",
        "body.statistics.weight": "norm scale",
        "body.statistics.bias": "norm shift",
        "body.tail.3.weight": "other weight",
        "body.tail.3.bias": "bias",
        "head.weight": "head weight",
        "head.bias": "head bias",
    }
    assert {layer(name) for name in learner.kinds} == {"place", "stem", "statistics", "tail", "head"}
    outputs = learner.activations(learner.initial_params(), images)
    assert learner.body.layers == ("stem", "statistics", "tail")
    assert [tuple(outputs[name].shape) for name in learner.body.layers] == [(6, 6, 8, 8), (6, 6, 8, 8), (6, 10)]
    assert torch.equal([*outputs.values()][-1], outputs["tail"])


@pytest.mark.parametrize("norm", [nn.LayerNorm(PIXELS), nn.GroupNorm(1, PIXELS), nn.BatchNorm1d(PIXELS)])
def test_scale_and_shift_of_other_norms_are_those_of_a_norm(norm: nn.Module) -> None:
    kinds = learner_of(nn.Sequential(nn.Flatten(), norm, linear())).kinds
    assert (kinds["body.1.weight"], kinds["body.1.bias"]) == ("norm scale", "norm shift")


def test_a_module_is_copied_and_never_changes(images: Tensor) -> None:
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    body, feature_dim = wrap_module(net, image_size=SIZE)
    assert torch.equal(torch.get_rng_state(), random_state)
    learner = Learner(body, feature_dim, 2)
    learner.initialise(torch.Generator().manual_seed(0))
    learner.features(learner.initial_params(), images)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    # the body keeps its weights, and the head is drawn
    assert torch.equal(learner.initial_params()["body.stem.weight"], before["stem.weight"])


def test_given_statistics_make_the_features_of_an_image_independent_of_its_batch(images: Tensor) -> None:
    net = Net().double()
    learner = learner_of(net.float()).double()
    params, images = learner.initial_params(), images.double()
    statistics = learner.statistics(params, images)
    assert list(statistics) == ["statistics"]
    convolved = F.conv2d(images, params["body.stem.weight"], params["body.stem.bias"], padding=1)
    variance, mean = torch.var_mean(convolved, (0, 2, 3), correction=0)
    assert torch.allclose(statistics["statistics"], torch.stack([mean, (variance + 1e-5).rsqrt()]))
    whole = learner.features(params, images)
    assert torch.allclose(learner.features(params, images, statistics), whole, atol=1e-12)
    assert torch.allclose(learner.features(params, images[:1], statistics), whole[:1], atol=1e-12)


def test_the_meta_gradient_is_that_of_an_update_by_hand(images: Tensor) -> None:
    net = Net()
    learner = learner_of(net).double()
    params, x, y = learner.initial_params(), images.double(), torch.tensor([0, 0, 0, 1, 1, 1])
    row = ALGORITHMS["metasgd"]
    rates = {n: r.double() for n, r in initial_rates(row, params, learner.kinds, 0).items()}
    episode = Episode(x[None], y[None], x.flip(0)[None], y.flip(0)[None])
    found = choose_engine("auto", learner, CPU).meta_gradient(params, rates, episode, Objective(row, 1))

    def loss(at: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        z = F.conv2d(x, at["body.stem.weight"], at["body.stem.bias"], padding=1)
        z = F.batch_norm(z, None, None, at["body.statistics.weight"], at["body.statistics.bias"], training=True)
        z = F.max_pool2d(F.relu(z + at["body.place"]), 4).flatten(1)
        z = F.linear(z, at["body.tail.3.weight"], at["body.tail.3.bias"])
        return F.cross_entropy(F.linear(z, at["head.weight"], at["head.bias"]), y)

    start = {name: value.requires_grad_() for name, value in params.items()}
    inner = torch.autograd.grad(loss(start, x, y), list(start.values()), create_graph=True)
    adapted = {name: start[name] - rates[name] * g for name, g in zip(start, inner, strict=True)}
    expected = torch.autograd.grad(loss(adapted, x.flip(0), y.flip(0)), list(start.values()))
    for (name, g), e in zip(found.params.items(), expected, strict=True):
        assert torch.allclose(g, e, atol=1e-12), name


def test_several_threads_may_compute_with_different_parameters(images: Tensor) -> None:
    learner = learner_of(Net())
    params = learner.initial_params()
    many = [{name: value * (1 + i / 8) for name, value in params.items()} for i in range(16)]
    expected = [learner.features(one, images) for one in many]
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = list(in_order(lambda one: learner.features(one, images), many, device=CPU))
    finally:
        torch.set_num_threads(before)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def tied() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), linear(PIXELS, PIXELS), linear(PIXELS, PIXELS))
    module[2].weight = module[1].weight
    return module


class Lock:
    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("cannot pickle 'Lock' object")


def locked() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), linear())
    module.lock = Lock()
    return module


def counting() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.count.add_(1)
        return self.last(x.flatten(1))

    module = Calls(forward, last=linear())
    module.register_buffer("count", torch.zeros(2))
    return module


class NormThenTanh(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


class BackwardFails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        raise ValueError("this has no backward")


def with_parameter(shape: tuple[int, ...]) -> nn.Module:
    module = Calls(lambda self, x: self.last(x.flatten(1)) + self.value.sum(), last=linear())
    module.value = nn.Parameter(torch.zeros(shape))
    return module


INVALID: dict[str, tuple[Callable[[], object], str]] = {
    "no module": (lambda: [1], r"`list` is not a torch.nn.Module"),
    "no parameters": (lambda: nn.Sequential(nn.Flatten()), r"`Sequential` has no parameters"),
    "tied": (tied, r"`Sequential` uses one parameter \(192, 192\) as `1.weight` and `2.weight`"),
    "used twice": (
        lambda: Calls(lambda self, x: self.last(self.last(x.flatten(1))), last=linear(PIXELS, PIXELS)),
        r"`Calls` runs `last` \(Linear\) 2 times on one batch, with parameters `last.weight` \(192, 192\)",
    ),
    "unused": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)), last=linear(), other=linear(2, 3)),
        r"features do not depend: `other.weight` \(3, 2\), `other.bias` \(3,\)",
    ),
    "partly detached": (
        lambda: Calls(lambda self, x: self.b(self.a(x.flatten(1)).detach()), a=linear(), b=linear(4)),
        r"features do not depend: `a.weight` \(4, 192\)",
    ),
    "detached": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)).detach(), last=linear()),
        r"`Calls` makes features \(3, 4\) without a gradient",
    ),
    "gradient that ends in a layer": (
        lambda: nn.Sequential(nn.Flatten(), linear(), Calls(lambda _, x: x.detach())),
        r"makes features \(3, 4\) without a gradient: it ends in `2`",
    ),
    "rounded": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)).round(), last=linear()),
        r"`Calls` makes features \(3, 4\) whose gradient is zero",
    ),
    "argmax": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)).argmax(1, keepdim=True), last=linear()),
        r"`Calls` makes features \(3, 1\) of images \(3, 3, 8, 8\) in int64",
    ),
    "one number": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)).sum(), last=linear()),
        r"`Calls` makes features \(\) of images \(3, 3, 8, 8\)",
    ),
    "images joined": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)).reshape(1, -1), last=linear()),
        r"`Calls` makes features \(1, 12\) of images \(3, 3, 8, 8\)",
    ),
    "shape that varies": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1))[:, : len(x)], last=linear()),
        r"`Calls` has features whose shape varies with the batch: \(3, 3\) and \(2, 2\)",
    ),
    "another image size": (
        lambda: nn.Sequential(nn.Flatten(), linear(27)),
        r"`Sequential` fails in `1` \(Linear\) on images \(3, 3, 8, 8\): RuntimeError: mat1 and mat2 shapes",
    ),
    "two outputs": (
        lambda: Calls(lambda self, x: (self.last(x.flatten(1)), 1), last=linear()),
        r"`Calls` returns a `tuple`, not a tensor",
    ),
    "not finite": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)) / 0, last=linear()),
        r"`Calls` makes features \(3, 4\) of images \(3, 3, 8, 8\) that are not finite",
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.2), linear()),
        r"`Sequential` has dropout that is on: `1` \(Dropout, p=0.2\)",
    ),
    "noise": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)) + torch.rand(4), last=linear()),
        r"`Calls` gives other features at every call",
    ),
    "float64": (
        lambda: nn.Sequential(nn.Flatten(), linear()).double(),
        r"not float32 on the CPU: `1.weight` \(4, 192\) is float64 on `cpu`",
    ),
    "another device": (
        lambda: nn.Sequential(nn.Flatten(), linear()).to("meta"),
        r"not float32 on the CPU: `1.weight` \(4, 192\) is float32 on `meta`",
    ),
    "lazy": (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)),
        r"`Sequential` has parameters without a shape: `1.weight`, `1.bias`",
    ),
    "frozen": (
        lambda: nn.Sequential(nn.Flatten(), linear().requires_grad_(False)),
        r"`Sequential` has parameters that do not require a gradient: `1.weight` \(4, 192\)",
    ),
    "buffer": (counting, r"`Calls` changes its buffer `count` \(2,\) when it runs"),
    "running statistics": (
        lambda: nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), nn.Flatten(), linear()),
        r"`Sequential` changes its buffer `0.running_mean` \(3,\) when it runs",
    ),
    "script": (
        lambda: torch.jit.script(nn.Sequential(nn.Flatten(), linear())),
        r"cannot be copied: register_forward_pre_hook is not supported",
    ),
    "head": (
        lambda: Calls(lambda self, x: self.head(x.flatten(1)), head=linear()),
        r"`Calls` has a layer `head`, which is the name of a part of a learner: `head.weight` \(4, 192\)",
    ),
    "body": (
        lambda: Calls(lambda self, x: self.body(x.flatten(1)), body=linear()),
        r"`Calls` has a layer `body`",
    ),
    "normalisation of its own": (
        lambda: nn.Sequential(NormThenTanh(3), nn.Flatten(), linear()),
        r"has batch normalisation with a forward of its own: `0` \(NormThenTanh\)",
    ),
    "overwritten for the gradient": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)).sigmoid().mul_(2).sigmoid_().mul_(2), last=linear()),
        r"makes features \(3, 4\) whose gradient fails: RuntimeError: one of the variables",
    ),
    "backward that fails": (
        lambda: Calls(lambda self, x: BackwardFails.apply(self.last(x.flatten(1))), last=linear()),
        r"makes features \(3, 4\) whose gradient fails: ValueError: this has no backward",
    ),
    "sparse": (
        lambda: Calls(lambda self, x: self.last(x.flatten(1)).to_sparse(), last=linear()),
        r"makes features \(3, 4\) of images \(3, 3, 8, 8\) that are not dense",
    ),
    "empty": (lambda: with_parameter((0, 2)), r"has a parameter without elements: `value` \(0, 2\)"),
    "copy": (locked, r"`Sequential` cannot be copied: cannot pickle 'Lock' object"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("name", INVALID)
def test_a_module_that_cannot_be_a_body_is_one_clear_error(name: str) -> None:
    make, message = INVALID[name]
    with pytest.raises(ModuleError, match=message) as caught:
        wrap_module(make(), image_size=SIZE)
    assert caught.value.hint


def test_a_learner_of_a_module_that_ran_can_be_copied(images: Tensor) -> None:
    learner = learner_of(Net())
    params = learner.initial_params()
    expected = learner.features(params, images)
    twin = copy.deepcopy(learner)
    assert torch.equal(twin.features(params, images), expected)
    assert list(twin.initial_params()) == list(params)


def test_dropout_that_is_off_is_allowed(images: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(), linear()).eval()
    learner = learner_of(net)
    assert torch.equal(learner.features(learner.initial_params(), images), net(images))


def test_images_of_another_size_are_refused(images: Tensor) -> None:
    learner = learner_of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(3)))
    with pytest.raises(
        ModuleError, match=r"wrapped for images \(3, 8, 8\) \(C, H, W\), and the images are \(3, 4, 4\)"
    ):
        learner.features(learner.initial_params(), images[:, :, :4, :4])


def test_features_that_depend_on_the_batch_have_no_inductive_statistics(images: Tensor) -> None:
    body, _ = wrap_module(
        Calls(lambda self, x: self.last(x.flatten(1) - x.flatten(1).mean(0)), last=linear()), image_size=SIZE
    )
    assert not body.inductive
    with pytest.raises(ModuleError, match=r"`Calls` has features of an image that depend on the other images"):
        body.statistics(dict(body.named_parameters()), images)
    with pytest.raises(ModuleError, match="depend on the other images"):
        body.activations(dict(body.named_parameters()), images, {})


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 2


def test_a_module_without_second_derivative_needs_a_first_order_algorithm() -> None:
    module = Calls(lambda self, x: OnceDifferentiable.apply(self.last(x.flatten(1))) ** 2, last=linear())
    learner = learner_of(module)
    params, engine = learner.initial_params(), choose_engine("auto", learner, CPU)
    settings = OuterSettings(outer_lr=1e-3, grad_clip=None, inner_steps=1, outer_steps=1)
    for name in ("maml", "fomaml"):
        row = ALGORITHMS[name]
        rates = initial_rates(row, params, learner.kinds, 0)
        if row.order == 1:
            OuterLoop(row, params, rates, engine=engine, settings=settings)
            continue
        with pytest.raises(ModuleError, match=r"`Calls` has no second derivative") as caught:
            OuterLoop(row, params, rates, engine=engine, settings=settings)
        assert "fomaml" in (caught.value.hint or "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_module_with_a_buffer_computes_on_a_gpu(images: Tensor) -> None:
    module = Calls(lambda self, x: self.last(x.flatten(1)) * self.scale, last=linear())
    module.register_buffer("scale", torch.full((4,), 2.0))
    learner = learner_of(module)
    params = learner.initial_params()
    there = {name: value.cuda() for name, value in params.items()}
    expected = learner.features(params, images)
    assert torch.allclose(learner.features(there, images.cuda()).cpu(), expected, rtol=1e-2, atol=1e-2)
