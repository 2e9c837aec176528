"""The inner loop on quadratic losses, where everything has a closed form."""

import torch

from nilr.meta.engine.reference import adapt

# support loss 1/2 (x - c)' A (x - c), query loss 1/2 |x - d|^2; K steps of rate a give x_K - c = (I - aA)^K (x_0 - c)
A = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
C = torch.tensor([1.0, -1.0], dtype=torch.float64)
D = torch.tensor([0.5, 2.0], dtype=torch.float64)
X0 = torch.tensor([3.0, 0.25], dtype=torch.float64)
RATE = torch.tensor(0.1, dtype=torch.float64)


def support_loss(params: dict[str, torch.Tensor]) -> torch.Tensor:
    offset = params["x"] - C
    return 0.5 * offset @ A @ offset


def contraction(steps: int) -> torch.Tensor:
    return torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - RATE * A, steps)


def test_steps_on_a_quadratic_follow_the_closed_form() -> None:
    adapted = adapt(support_loss, {"x": X0}, {"x": RATE}, steps=7)
    torch.testing.assert_close(adapted["x"], C + contraction(7) @ (X0 - C), rtol=1e-12, atol=0)


def test_the_exact_meta_gradient_on_a_quadratic_follows_the_closed_form() -> None:
    start = X0.clone().requires_grad_()
    adapted = adapt(support_loss, {"x": start}, {"x": RATE}, steps=3, order=2)["x"]
    (gradient,) = torch.autograd.grad(0.5 * (adapted - D).square().sum(), start)
    end = C + contraction(3) @ (X0 - C)
    torch.testing.assert_close(gradient, contraction(3) @ (end - D), rtol=1e-12, atol=0)


def test_the_first_order_meta_gradient_is_the_query_gradient_at_the_end() -> None:
    start = X0.clone().requires_grad_()
    adapted = adapt(support_loss, {"x": start}, {"x": RATE}, steps=3, order=1)["x"]
    (gradient,) = torch.autograd.grad(0.5 * (adapted - D).square().sum(), start)
    torch.testing.assert_close(gradient, C + contraction(3) @ (X0 - C) - D, rtol=1e-12, atol=0)


def test_a_rate_per_element_scales_each_elements_step_and_a_negative_one_ascends() -> None:
    rate = torch.tensor([0.1, -0.2], dtype=torch.float64)
    adapted = adapt(support_loss, {"x": X0}, {"x": rate}, steps=1)
    torch.testing.assert_close(adapted["x"], X0 - rate * (A @ (X0 - C)), rtol=1e-12, atol=0)


def test_what_has_no_rate_is_the_very_tensor_it_was() -> None:
    still = torch.ones(1)
    adapted = adapt(support_loss, {"x": X0, "still": still}, {"x": RATE}, steps=2)
    assert adapted["still"] is still


def test_no_graph_is_kept_at_order_zero() -> None:
    adapted = adapt(support_loss, {"x": X0.clone().requires_grad_()}, {"x": RATE}, steps=2)
    assert not adapted["x"].requires_grad
