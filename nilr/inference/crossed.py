"""Inference for new seeds and new classes, as seeds, classes and episodes are crossed.

The paired difference of episode e under seed s is modelled with random effects:

    d_se = mean + seed_s + average over the classes c of e of (class_c + seed_class_sc) + episode_e + residual_se

An episode is a member of several classes (Browne, Goldstein, Rasbash: Multiple Membership Multiple Classification
(MMMC) Models, 2001). The components are estimated by equating mean squares with their expectations (Henderson:
Estimation of Variance and Covariance Components, 1953).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.inference import LEAST_SEEDS, student_quantile, two_sided_p


@dataclass(frozen=True)
class Components:
    """The components of variance of a paired difference, in its squared unit; none is negative."""

    seed: float  # between trainings
    classes: float  # between classes, of an episode that has one class
    seed_class: float  # of their interaction
    episode: float  # between episodes of the same classes, the same under all seeds
    residual: float  # the rest, of one episode under one seed

    def variance(self, n_seeds: float, n_classes: float, n_episodes: float) -> float:
        """Return the variance of the mean over all episodes and seeds of a balanced design."""
        of_class, of_episode = self.classes + self.seed_class / n_seeds, self.episode + self.residual / n_seeds
        return self.seed / n_seeds + of_class / n_classes + of_episode / n_episodes

    def narrowing(self, n_seeds: int, n_classes: int, n_episodes: int) -> dict[str, float]:
        """Return the share by which the standard error shrinks with one more seed, twice the classes or episodes."""
        now = self.variance(n_seeds, n_classes, n_episodes)
        larger = {
            "seeds": self.variance(n_seeds + 1, n_classes, n_episodes),
            "classes": self.variance(n_seeds, 2 * n_classes, n_episodes),
            "episodes": self.variance(n_seeds, n_classes, 2 * n_episodes),
        }
        return {name: 1 - math.sqrt(variance / now) if now > 0 else 0.0 for name, variance in larger.items()}


@dataclass(frozen=True)
class Crossed:
    """The inference on a mean difference for new seeds, new classes and new episodes."""

    mean: float
    error: float  # standard error
    freedom: float  # of Student's t
    ci95: float  # half width of the 95 % interval
    ci90: float  # half width of the 90 % interval
    p: float | None  # of the two-sided test against zero; None if the standard error is 0
    n_classes: int
    n_episodes: int
    components: Components


@dataclass(frozen=True)
class _Squares:
    """Mean squares with their degrees of freedom, and what class estimates contain of the episodes' variance."""

    seed: tuple[float, int]  # of the means of the seeds
    classes: tuple[float, int]  # of the classes' estimates, averaged over seeds
    seed_class: tuple[float, int]
    episode: tuple[float, int]  # of the residuals of the episodes, averaged over seeds
    residual: tuple[float, int]
    share: float  # sum of the squared weights of the classes in the mean
    noise: float  # variance between the classes' estimates for an episode variance of 1


def crossed_inference(differences: Tensor, classes: Sequence[Tensor], n_classes: int) -> Crossed | None:
    """Return the inference on the mean of paired differences for new seeds and new classes.

    The variance of the mean is the sum of its components. The interval is Student's t, with degrees of freedom after
    Satterthwaite (An Approximate Distribution of Estimates of Variance Components, 1946), but at least those of the
    seeds or the classes, whichever are fewer.

    Args:
        differences: (S, E), of E episodes under S seeds.
        classes: the class numbers of the episodes, int64 (E, N); one tensor for each role: those of the evaluated
            episode, and those of the episode that was adapted to. A class's effect is the sum over its roles.
        n_classes: number of classes that episodes are drawn from.

    Returns:
        The inference; None with fewer than three seeds, or if the episodes do not identify the classes' effects.
    """
    squares = _mean_squares(differences.to(torch.float64), classes, n_classes)
    if squares is None:
        return None
    n_seeds, n_episodes = differences.shape
    mean, components = differences.to(torch.float64).mean().item(), _components(squares, n_seeds, n_episodes)
    variance, freedom = _variance(squares, components, n_seeds, n_episodes)
    error = math.sqrt(variance)
    ci95, ci90 = (student_quantile(quantile, freedom) * error for quantile in (0.975, 0.95))
    p = two_sided_p(mean, error, freedom)
    return Crossed(mean, error, freedom, ci95, ci90, p, n_classes, n_episodes, components)


def _mean_squares(differences: Tensor, classes: Sequence[Tensor], n_classes: int) -> _Squares | None:
    n_seeds, n_episodes = differences.shape
    # the share of each class in each role: (E, roles * classes)
    roles = [torch.nn.functional.one_hot(role, n_classes).to(torch.float64).mean(1) for role in classes]
    design = torch.cat(roles, 1)
    rank = n_classes * len(roles) - (len(roles) - 1)  # a constant may belong to any role
    left = n_episodes - rank
    if n_seeds < LEAST_SEEDS or left < 1 or int(torch.linalg.matrix_rank(design)) < rank:
        return None
    inverse = torch.linalg.pinv(design)
    of_classes = inverse.reshape(len(roles), n_classes, n_episodes).sum(0)  # episodes -> each class's effect
    of_classes = of_classes - of_classes.mean(0)
    average = differences.mean(0)
    apart = differences - average
    between = n_classes - 1

    def squared(values: Tensor) -> float:
        return values.square().sum().item()

    def residuals(values: Tensor) -> Tensor:
        fitted: Tensor = values @ inverse.T @ design.T
        return values - fitted

    return _Squares(
        seed=(differences.mean(1).var().item(), n_seeds - 1),
        classes=(squared(average @ of_classes.T) / between, between),
        seed_class=(squared(apart @ of_classes.T) / (n_seeds - 1) / between, (n_seeds - 1) * between),
        episode=(squared(residuals(average)) / left, left),
        residual=(squared(residuals(apart)) / (n_seeds - 1) / left, (n_seeds - 1) * left),
        share=squared(torch.stack(roles).mean((0, 1))),
        noise=squared(of_classes) / between,
    )


def _components(squares: _Squares, n_seeds: int, n_episodes: int) -> Components:
    """Equate the mean squares with their expectations; negative estimates are 0."""
    residual = squares.residual[0]
    episode = max(0.0, squares.episode[0] - residual / n_seeds)
    seed_class = max(0.0, squares.seed_class[0] - squares.noise * residual)
    classes = max(0.0, squares.classes[0] - squares.noise * squares.episode[0] - seed_class / n_seeds)
    seed = max(0.0, squares.seed[0] - squares.share * seed_class - residual / n_episodes)
    return Components(seed, classes, seed_class, episode, residual)


def _variance(squares: _Squares, found: Components, n_seeds: int, n_episodes: int) -> tuple[float, float]:
    """Return the variance of the mean, and its degrees of freedom.

    Seeds, with all that interacts with them, have the variance of the seeds' means, or if that is smaller by chance,
    the one that their episodes imply. Classes and episodes add what all seeds share.
    """
    noise, share = squares.noise, squares.share
    weights = dict.fromkeys(("seed", "classes", "seed_class", "episode", "residual"), 0.0)
    if found.seed > 0:
        weights["seed"] += 1 / n_seeds
    else:
        weights["residual"] += 1 / n_seeds / n_episodes
        if found.seed_class > 0:
            weights["seed_class"] += share / n_seeds
            weights["residual"] -= share * noise / n_seeds
    if found.classes > 0:
        weights["classes"] += share
        weights["episode"] -= share * noise
        if found.seed_class > 0:
            weights["seed_class"] -= share / n_seeds
            weights["residual"] += share * noise / n_seeds
    if found.episode > 0:
        weights["episode"] += 1 / n_episodes
        weights["residual"] -= 1 / n_seeds / n_episodes
    terms = [(weight * getattr(squares, name)[0], getattr(squares, name)[1]) for name, weight in weights.items()]
    variance = sum(term for term, _ in terms)
    uncertainty = sum(term**2 / freedom for term, freedom in terms)
    least = float(min(squares.seed[1], squares.classes[1]))
    return variance, max(least, variance**2 / uncertainty) if uncertainty > 0 else least
