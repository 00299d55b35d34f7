"""A loss that takes a minimum time, so that a training lasts long enough to be interrupted on any machine."""

import time
from collections.abc import Mapping

from torch import Tensor

from support.tiny_model import SquaredLoss


class PacedLoss(SquaredLoss):
    """A squared loss that sleeps at each call.

    Args:
        pace: seconds to sleep.
    """

    def __init__(self, pace: float) -> None:
        self._pace = pace

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        time.sleep(self._pace)
        return super().__call__(y_pred, y_true)
