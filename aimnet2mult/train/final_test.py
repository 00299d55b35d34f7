"""Evaluate the test data once, at the end of a run."""

from contextlib import nullcontext
from pathlib import Path

import torch

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.models.build import unwrap
from aimnet2mult.models.checkpoint_folder import best_path
from aimnet2mult.models.weights import WeightFile, read_state
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.evaluation_pass import EvaluationPass
from aimnet2mult.train.validation import BestValidation
from telemetry.errors import error_text

__all__ = ["FinalTest"]


class FinalTest:
    """The test at the end of a run: with the weights of the best validation if they are kept, else the final ones.

    Afterwards, the model has its final weights again. Each end is tested once: a run that is resumed after its test is
    tested again only if it has been trained further. All ranks must call `run` at the same iterations.

    Args:
        run: the run folder.
        components: components of the run, whose model is tested.
        evaluation: the passes over the test data; None without such data.
        best: the best validation.
        communicator: communicator of the ranks.
        console: console on which the result is shown.
    """

    def __init__(
        self,
        run: Path,
        components: Components,
        evaluation: EvaluationPass | None,
        best: BestValidation,
        *,
        communicator: Communicator,
        console: Console,
    ) -> None:
        self.tested: int | None = None
        """The iteration after which the last test took place."""
        self._run = run
        self._components = components
        self._evaluation = evaluation
        self._best = best
        self._communicator = communicator
        self._console = console

    def is_done(self, iteration: int) -> bool:
        """Return whether the test after this iteration has taken place, or there are no test data."""
        return self._evaluation is None or self.tested == iteration

    def run(self, iteration: int) -> bool:
        """Test the model at the end of a run, unless that has been done; return whether it is done."""
        if self._evaluation is None or self.is_done(iteration):
            return True
        model = unwrap(self._components.model)
        final = {name: value.clone() for name, value in model.state_dict().items()}
        is_best = self._load_best(final)
        at = self._best.iteration if is_best else iteration
        values = {} if at is None else {"weights_iteration": float(at)}
        try:
            with nullcontext() if is_best else self._components.evaluation_weights():
                sums = self._evaluation.run(iteration, **values)
        finally:
            model.load_state_dict(final)
        if sums is None:
            return False
        self.tested = iteration
        if not self._communicator.rank:
            weights = f"those of the best val/{self._best.metric}" if is_best else "the final ones"
            of_iteration = f", of iteration {at}" if is_best and at is not None else ""
            self._console.test(self._evaluation.metrics(sums), f"{weights}{of_iteration}")
        return True

    def _load_best(self, final: dict[str, torch.Tensor]) -> bool:
        """Load the weights of the best validation; return whether the model has them, the same on all ranks."""
        if not self._best.is_known:
            return False
        model, problem = unwrap(self._components.model), ""
        try:
            file = read_state(best_path(self._run))
            self._check_attempt(file)
            model.load_state_dict(file.state)
        except Exception as error:  # noqa: BLE001 - any, because the file may contain anything
            problem = (error.strerror if isinstance(error, OSError) else "") or error_text(error)
        if not self._communicator.all_reduce_max([int(bool(problem))])[0]:
            return True
        model.load_state_dict(final)
        self._console.say(
            f"warning: the test uses the final weights, because {best_path(self._run)} cannot be used"
            f"{f': {problem:.300}' if problem else ' on another rank'}"
        )
        return False

    def _check_attempt(self, file: WeightFile) -> None:
        """Check that the weights are those of this attempt; only rank 0 knows the iteration of its best validation.

        Raises:
            ValueError: an attempt has written them after the iteration from which the run was resumed.
        """
        if self._communicator.rank or file.best is None or self._best.iteration is None:
            return
        if file.best.iteration != self._best.iteration:
            raise ValueError(f"it is of iteration {file.best.iteration} of an attempt that was not continued")
