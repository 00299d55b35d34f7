"""The reasons for a training to end before its last iteration."""

from ignite.engine import Engine

from aimnet2mult.config.schema import Config
from aimnet2mult.train.completion import describe_low_lr
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.engine import epoch_length, total_iterations
from aimnet2mult.train.evaluations import Evaluations

__all__ = ["EarlyEnd"]


class EarlyEnd:
    """Whether a training has a reason to end early: a metric that no longer improves, or a low learning rate.

    Args:
        config: configuration of the run.
        components: components of the run, of which the optimizer is used.
        evaluations: the evaluations; while one is pending, there is no reason.
        console: console on which the reason is shown.
    """

    def __init__(self, config: Config, components: Components, evaluations: Evaluations, console: Console) -> None:
        self.reached = False
        """The result of the last `check`."""
        self._config = config
        self._components = components
        self._evaluations = evaluations
        self._console = console

    def check(self, trainer: Engine) -> bool:
        """Return whether there is a reason to end after the current iteration, and show it if more would follow."""
        reason = self.describe(trainer)
        self.reached = bool(reason)
        if reason and trainer.state.iteration < total_iterations(trainer):
            self._console.say(f"{reason}: finished")
        return self.reached

    def describe(self, trainer: Engine) -> str:
        """Return the reason to end after the current iteration, or ""."""
        return "" if self._evaluations.pending else self._evaluations.stop_reason or self._describe_low_lr(trainer)

    def _describe_low_lr(self, trainer: Engine) -> str:
        """Return that a learning rate is too low, or ""; only at the end of an epoch, after its validation."""
        iteration = trainer.state.iteration
        # At the start, a schedule may still be warming up.
        if not iteration or iteration % epoch_length(trainer):
            return ""
        lowest = min(float(group["lr"]) for group in self._components.optimizer.param_groups)
        return describe_low_lr(self._config, lowest)
