"""The last steps of a training: the test, the last checkpoint, and the outcome."""

from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.models.weights import are_finite
from aimnet2mult.train.bad_steps import BadSteps
from aimnet2mult.train.checkpointing import Checkpointing
from aimnet2mult.train.components import Components
from aimnet2mult.train.evaluations import Evaluations
from aimnet2mult.train.outcome import Outcome

__all__ = ["conclude"]


def conclude(
    iteration: int,
    *,
    complete: bool,
    components: Components,
    evaluations: Evaluations,
    checkpointing: Checkpointing,
    bad_steps: BadSteps,
    consensus: StopConsensus,
) -> Outcome:
    """Test a complete training, save the state, and return the outcome; all ranks must call this.

    The state of a run that has diverged, or whose steps were not finite, is set aside if its weights may be damaged.

    Args:
        iteration: the last iteration.
        complete: whether nothing is left to train or to validate.
        components: components of the run.
        evaluations: the evaluations, which include the test.
        checkpointing: the checkpoints.
        bad_steps: the steps that were not applied.
        consensus: what the ranks have agreed on.
    """
    if complete and not consensus.diverged and not consensus.failed:
        # The checkpoint of the last epoch is written already: a resume continues here.
        complete = evaluations.test(iteration)
    if consensus.diverged:
        checkpointing.save_diverged(iteration)
        return Outcome("diverged")
    if consensus.failed:
        # Another rank may have been the first to see the flags.
        bad_steps.wait()
        _save_failed(checkpointing, iteration, bad_steps.suspect_from)
        return Outcome("not finite", bad_steps.failure)
    checkpointing.save(iteration)
    if not complete:
        return Outcome("preempted")
    if bad_steps.all_skipped:
        return Outcome("not finite", "no training step was applied: loss or gradient was never finite")
    if checkpointing.problem:
        reason = f"no checkpoint at iteration {iteration}: {checkpointing.problem}"
        return Outcome("not saved" if are_finite(components.model) else "not finite", reason)
    return Outcome("finished")


def _save_failed(checkpointing: Checkpointing, iteration: int, suspect_from: int | None) -> None:
    """Save the state after skipped steps; after many in a row, the weights may have become too large."""
    if suspect_from is None:
        checkpointing.save(iteration)
    else:
        what = "set aside, since the weights may have become too large"
        checkpointing.save_diverged(iteration, what, suspect_from=suspect_from)
