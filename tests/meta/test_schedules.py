import pytest

from nilr.meta.outer_loop import cosine, multi_step_weights


def test_the_cosine_starts_at_one_is_a_half_midway_and_ends_near_zero() -> None:
    assert cosine(0, 100) == 1
    assert cosine(50, 100) == pytest.approx(0.5)
    # (1 + cos(pi/3)) / 2
    assert cosine(20, 60) == pytest.approx(0.75)
    assert 0 < cosine(99, 100) < 3e-4


def published_weights(epoch: int, epochs: int, steps: int) -> list[float]:
    """Return what MAML++'s code gives at the start of an epoch (AntreasAntoniou/HowToTrainYourMAMLPytorch)."""
    decay, least = 1 / steps / epochs, 0.03 / steps
    weights = [max(1 / steps - epoch * decay, least) for _ in range(steps - 1)]
    return [*weights, min(1 / steps + epoch * (steps - 1) * decay, 1 - (steps - 1) * least)]


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("epoch", [0, 1, 7, 14])
def test_the_weights_are_maml_plus_pluss_at_its_epochs(epoch: int, steps: int) -> None:
    # its run: 100 epochs of 500 updates, 15 of them with these weights
    found = multi_step_weights(epoch * 500, 50_000, steps)
    assert found == pytest.approx(published_weights(epoch, 15, steps), rel=1e-12)


@pytest.mark.parametrize("outer_step", range(0, 150, 7))
def test_the_weights_sum_to_one_and_none_falls_below_its_minimum(outer_step: int) -> None:
    weights = multi_step_weights(outer_step, 1000, 5)
    assert weights is not None
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0.03 / 5 - 1e-12


def test_after_fifteen_percent_of_the_run_the_last_loss_alone_counts() -> None:
    assert multi_step_weights(149, 1000, 5) is not None
    assert multi_step_weights(150, 1000, 5) is None
    assert multi_step_weights(999, 1000, 5) is None
