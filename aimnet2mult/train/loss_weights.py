"""The weights of the components of a loss, which may change from iteration to iteration."""

import functools
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from aimnet2mult.config.weight_points import EXPECTED_WEIGHT, read_weight
from aimnet2mult.errors import ConfigError

__all__ = ["LossWeights", "as_tensor"]

Points = tuple[tuple[int, float], ...]


class LossWeights:
    """Weights that sum to 1 in each iteration.

    Args:
        given: the weight of each component before the division by their sum: a number, or pairs of iteration and
            weight. The weight is linear between these points, and constant before the first and after the last one.

    Raises:
        ConfigError: a weight is invalid, or all weights are 0 at a point.
    """

    def __init__(self, given: Mapping[str, object]) -> None:
        self._points = {name: _points(name, value) for name, value in given.items()}
        self.change = any(len(points) > 1 for points in self._points.values())
        """Whether the weights change."""
        self.iteration = 0
        """The current iteration, counted from 1; 0 before the training."""
        iterations = sorted({iteration for points in self._points.values() for iteration, _ in points})
        for iteration in iterations:
            if not any(_interpolate(points, iteration) for points in self._points.values()):
                weights = dict.fromkeys(given, 0.0)
                when = f" at iteration {iteration}" if self.change else ""
                raise ConfigError(
                    f"the weights of the loss components are {weights}{when}; expected at least one above 0"
                )
        self.final = self.at(iterations[-1]) if iterations else ()
        """The weights after the last point."""

    def at(self, iteration: int) -> tuple[float, ...]:
        """Return the weights in an iteration."""
        weights = [_interpolate(points, iteration) for points in self._points.values()]
        total = sum(weights)
        return tuple(weight / total for weight in weights)

    def as_tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the current weights on a device, without waiting for it."""
        if not self.change:
            return as_tensor(self.final, dtype, device)
        weights = torch.empty(len(self._points), dtype=dtype, device=device)
        # A copy from the memory of the CPU would wait for the device.
        for cell, weight in zip(weights.unbind(), self.at(self.iteration), strict=True):
            cell.fill_(weight)
        return weights


@functools.lru_cache
def as_tensor(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor, which is created once and must not be changed."""
    # A tensor created in inference mode could not be used in training.
    with torch.inference_mode(mode=False):
        return torch.tensor(values, dtype=dtype, device=device)


def _points(name: str, value: object) -> Points:
    points = read_weight(value)
    if points is None:
        raise ConfigError(f"the weight of loss component {name!r} is {value!r}; expected {EXPECTED_WEIGHT}")
    return points


def _interpolate(points: Points, iteration: int) -> float:
    if iteration <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if iteration < right:
            return low + (high - low) * (iteration - left) / (right - left)
    return points[-1][1]
