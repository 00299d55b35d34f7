"""Passes over a data set with fixed weights, whose statistics are published."""

from functools import partial

from ignite.engine import Engine, Events

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.metrics.declarations import STREAMS
from aimnet2mult.metrics.error_sums import Slot, Snapshot
from aimnet2mult.metrics.statistics import statistics
from aimnet2mult.train.components import Components, EvaluationSet
from aimnet2mult.train.engine import build_validator
from aimnet2mult.train.observation import ObservedSums
from aimnet2mult.train.out_of_memory import explaining_memory
from aimnet2mult.train.reporter import Reporter
from aimnet2mult.train.skipped_structures import SkippedStructures
from aimnet2mult.train.validation_media import ValidationMedia

__all__ = ["EvaluationPass"]


class EvaluationPass:
    """The passes over one data set during a run, each of which is a point of a stream.

    If the run has to stop during a pass, it is interrupted, publishes nothing and stays pending. All ranks must call
    `run` at the same iterations.

    Args:
        stream: name of the stream.
        data: the data set.
        components: components of the run, whose model is evaluated.
        fidelity_names: one name per fidelity.
        reporter: publisher of the metrics.
        consensus: agreement of the ranks, after each batch, on whether to stop.
        communicator: communicator of the ranks.
        media: plots and tables to record as well, if any.
    """

    def __init__(
        self,
        stream: str,
        data: EvaluationSet,
        components: Components,
        fidelity_names: tuple[str, ...],
        *,
        reporter: Reporter,
        consensus: StopConsensus,
        communicator: Communicator,
        media: ValidationMedia | None = None,
    ) -> None:
        self.pending = False
        """Whether the last pass was interrupted and has to be repeated."""
        self._stream = stream
        self._data = data
        self._components = components
        self._fidelity_names = fidelity_names
        self._reporter = reporter
        self._consensus = consensus
        self._media = media
        self._sums = ObservedSums(data.sums, data.dataset, data.sampler, communicator)
        self._engine = build_validator(components.model, components.loss_fn, self._sums, device=components.device)
        self._skipped = SkippedStructures(
            data.dataset,
            data.sampler,
            locate=components.data.locate,
            device=components.device,
            communicator=communicator,
        )
        self._engine.add_event_handler(Events.ITERATION_COMPLETED, self._record_skipped)
        self._engine.add_event_handler(Events.ITERATION_COMPLETED, self._interrupt_if_stopping)

    def run(self, iteration: int, **others: float) -> Snapshot | None:
        """Evaluate the model after a training iteration, and publish the metrics together with other values.

        Returns:
            The sums of the errors; None if the pass was interrupted, which sets `pending`.
        """
        self._data.sums.reset(Slot.EPOCH)
        self._sums.begin(() if self._media is None else self._media.begin(iteration))
        self.pending = False
        self._consensus.reset_interval()
        with explaining_memory("reduce data.samplers.val.batch_size"):
            self._engine.run(self._data.loader)
        self._consensus.reset_interval()
        if self.pending:
            return None
        epoch = -(-iteration // len(self._components.train_loader))
        published = self._reporter.publish_evaluation(
            self._stream, self._data.sums, iteration, self._skipped, epoch=epoch, **others
        )
        if self._media is not None:
            self._media.publish(iteration, partial(self.metrics, published))
        return published

    def metrics(self, sums: Snapshot) -> dict[str, float]:
        """Return the published metrics; waits for the device."""
        slot, loss = sums.wait()[Slot.EPOCH], self._data.sums.layout.loss
        return statistics(slot, self._components.labels, self._fidelity_names, STREAMS[self._stream], loss)

    def _record_skipped(self, engine: Engine) -> None:
        finite = engine.state.finite  # type: ignore[attr-defined] # see build_validator
        self._skipped.record(engine.state.iteration - 1, finite)

    def _interrupt_if_stopping(self, engine: Engine) -> None:
        if engine.state.iteration < len(self._data.loader) and self._consensus.should_stop():
            self.pending = True
            engine.terminate()
