"""All evaluations of a run: of the validation data, of the training data with fixed weights, and of the test data."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.evaluation_pass import EvaluationPass
from aimnet2mult.train.final_test import FinalTest
from aimnet2mult.train.reporter import Reporter
from aimnet2mult.train.validation import Validation
from aimnet2mult.train.validation_media import ValidationMedia

__all__ = ["Evaluations"]


class Evaluations:
    """The evaluations of a run, as far as it has data for them; all ranks must call the same methods.

    Args:
        run: the run folder.
        components: components of the run, whose model is evaluated.
        config: configuration of the run.
        reporter: publisher of the metrics.
        consensus: agreement of the ranks on whether to stop; an evaluation is interrupted then.
        communicator: communicator of the ranks.
        console: console on which problems and the result of the test are shown.
        media: plots and tables of the validations, if any.

    Raises:
        ConfigError: ``checkpoint.best`` is not a validation metric, or the validation data have no labels for it.
    """

    def __init__(
        self,
        run: Path,
        components: Components,
        config: Config,
        *,
        reporter: Reporter,
        consensus: StopConsensus,
        communicator: Communicator,
        console: Console,
        media: ValidationMedia | None = None,
    ) -> None:
        build = partial(
            EvaluationPass,
            components=components,
            fidelity_names=config.fidelity_names,
            reporter=reporter,
            consensus=consensus,
            communicator=communicator,
        )
        val, test, train = (
            None if data is None else build(stream, data, media=shown)
            for stream, data, shown in (
                ("val", components.val, media),
                ("test", components.test, None),
                ("train_eval", components.train_eval, None),
            )
        )
        self._components = components
        self._reporter = reporter
        self._train = train
        self._every = config.trainer.evaluate_train_every
        self._validation = Validation(run, components, val, config, communicator=communicator, console=console)
        self._test = FinalTest(run, components, test, self._validation.best, communicator=communicator, console=console)

    @property
    def pending(self) -> bool:
        """Whether an evaluation was interrupted; repeat it after the resume, before any training."""
        return self._validation.pending or (self._train is not None and self._train.pending)

    @property
    def stop_reason(self) -> str:
        """Why the training should finish, because a validation metric no longer improves; otherwise empty."""
        return self._validation.stop_reason

    def repeat_pending(self, iteration: int) -> None:
        """Repeat the evaluations that were interrupted after this iteration."""
        if self._validation.pending:
            self._validation.run(iteration)
        if self._train is not None and self._train.pending:
            self._evaluate_train(iteration)

    def validate(self, iteration: int) -> None:
        """Validate the model after a training iteration."""
        self._validation.run(iteration)

    def complete_epoch(self, epoch: int, iteration: int) -> None:
        """Evaluate the training data after an epoch if that is due."""
        if self._every is not None and epoch % self._every == 0:
            self._evaluate_train(iteration)

    def is_tested(self, iteration: int) -> bool:
        """Return whether the test after this iteration has taken place, or there are no test data."""
        return self._test.is_done(iteration)

    def test(self, iteration: int) -> bool:
        """Evaluate the test data at the end of the run, unless that has been done; return whether it is done."""
        return self._test.run(iteration)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`; its keys are part of the format of checkpoints.

        In addition to those of the validation, ``owes_train_evaluation`` is whether an evaluation of the training data
        was interrupted, ``tested`` the iteration of the last test, and ``last_point`` the state of the reporter if an
        evaluation is `pending`, after which the training may end.
        """
        owes = self._train is not None and self._train.pending
        return {
            **self._validation.state_dict(),
            "owes_train_evaluation": owes,
            "tested": self._test.tested,
            "last_point": self._reporter.state_dict() if self.pending else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from `state_dict`; checkpoints of version 0.1 know only validations."""
        self._validation.load_state_dict(state)
        self._test.tested = state.get("tested")
        self._reporter.load_state_dict(state.get("last_point", {}))
        if self._train is not None:
            self._train.pending = state.get("owes_train_evaluation", False)

    def _evaluate_train(self, iteration: int) -> None:
        if self._train is not None:
            with self._components.evaluation_weights():
                self._train.run(iteration)
