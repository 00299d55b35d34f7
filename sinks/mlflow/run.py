"""One run in MLflow: found or created, described, written to, and ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from sinks.mlflow import tags
from sinks.mlflow.batches import Batch, split_into_batches
from sinks.mlflow.best_metrics import BestMetrics
from sinks.mlflow.client import Client, is_rejection
from sinks.mlflow.datasets import find_datasets
from sinks.mlflow.media import MediaFiles
from sinks.mlflow.names import MAX_TAG_LENGTH, MetricNames, valid_name
from telemetry.sink_api import (
    Record,
    RunRecord,
    RunUpdate,
    SinkRejected,
    SinkUnavailable,
    Status,
    format_error,
    updated,
)

_MAX_ITEMS_PER_CALL = 100
"""Maximum number of parameters or tags per call."""
_MIN_TIME_MS = 1
"""The earliest time in ms since 1970: MLflow treats 0 as "now"."""
# MLflow has no other final states; for a preempted run, a tag holds the status.
_MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED", "preempted": "KILLED", "killed": "KILLED"}


def open_experiment(client: Client, name: str, artifacts: str | None) -> str:
    """Return the ID of the experiment with this name, creating it if necessary.

    Raises:
        SinkRejected: the experiment has been deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except Exception:
            # The delivery of another run may have created it in the meantime.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        msg = (
            f"the experiment {name!r} has been deleted in MLflow; restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}), or set telemetry.mlflow.experiment to another one"
        )
        raise SinkRejected(msg)
    return str(found.experiment_id)


class MlflowRun:
    """A run in MLflow, found by its key tag or created.

    Args:
        client: an ``MlflowClient``.
        experiment_id: ID of the experiment of the run.
        record: the record that describes the run.
        folder: the run folder.
        name: the displayed name of a new run.

    Attributes:
        run_id: MLflow's ID of the run.
        last_seq: the highest sequence number stored in MLflow.

    Raises:
        SinkRejected: two metrics of the run would have the same name.
    """

    def __init__(self, client: Client, experiment_id: str, record: RunRecord, folder: Path, name: str) -> None:
        self._client = client
        self._names = MetricNames(name for name, metric in record.metrics.items() if metric.unit)
        self._names.add(record.metrics)
        self._record, self._folder = record, folder
        found = _find(client, experiment_id, record) or _create(client, experiment_id, record, folder, name)
        self.run_id: str = found.info.run_id
        self.last_seq = _stored_seq(found)
        self._status = found.info.status
        self._params: dict[str, str] = found.data.params
        self._tags: dict[str, str] = found.data.tags
        self._best = BestMetrics(record, folder, self._names)
        self._media = MediaFiles(client, self.run_id, folder)
        self._has_datasets = False
        self._accepted_metric: list[Any] = []

    def describe(self, user_tags: Mapping[str, str]) -> None:
        """Update parameters, tags and status to those of the newest attempt."""
        record = self._record
        params = tags.params(record)
        new_tags = tags.attempt_tags(record, self._names) | tags.description_tags(record, self._tags) | dict(user_tags)
        # MLflow never changes a parameter: a tag holds the value of a later attempt.
        for name, value in params.items():
            tag = valid_name(f"telemetry.param.{name}")
            if self._params.get(name, value) != value or tag in self._tags:
                new_tags[tag] = value
        missing_params = {name: value for name, value in params.items() if name not in self._params}
        changed_tags = {name: value for name, value in new_tags.items() if self._tags.get(name) != value}
        _log_accepted(lambda some: self._log(params=some), missing_params)
        _log_accepted(lambda some: self._log(tags=some), changed_tags)
        if self._tags.get(tags.ATTEMPT_TAG) != str(record.attempt):
            if self._status != "RUNNING":
                self._client.update_run(self.run_id, status="RUNNING")
            # Written last, so that after a kill all of the above is repeated.
            self._log(tags={tags.ATTEMPT_TAG: str(record.attempt)})

    def write(self, records: Sequence[Record]) -> int:
        """Write the records that are not stored yet, and return the highest stored sequence number.

        Files are uploaded before their records are confirmed, so that after a kill this is repeated.

        Raises:
            SinkRejected: MLflow rejects the records; some of them may be stored.
            SinkUnavailable: MLflow rejects everything written to this run.
        """
        new = [record for record in records if record.seq > self.last_seq]
        if not new:
            return self.last_seq
        updates = (record for record in new if isinstance(record, RunUpdate))
        if (updated_run := reduce(updated, updates, self._record)) != self._record:
            self._update(updated_run)
        if media_tags := self._media.upload(new):
            self._log(tags=media_tags)
        for batch in split_into_batches(new, self._names, self.last_seq):
            # MLflow guarantees no order within a call, so each call confirms only the calls before it.
            self._write(batch, self.last_seq)
            self.last_seq = batch.last_seq
        self._log_best(new)
        self._log(tags={tags.SEQ_TAG: str(self.last_seq)})
        self._log_datasets()
        return self.last_seq

    def close(self, status: Status, time: int, reason: str) -> None:
        """End the run at ``time``, in ms since 1970."""
        self._log(tags={"telemetry.status": status, "telemetry.reason": tags.truncate(reason, MAX_TAG_LENGTH)})
        self._client.set_terminated(self.run_id, status=_MLFLOW_STATUS[status], end_time=max(time, _MIN_TIME_MS))

    def _update(self, record: RunRecord) -> None:
        """Apply additions to the description of the run."""
        # The user may have edited it in the meantime.
        stored = self._client.get_run(self.run_id).data
        self._params, self._tags = stored.params, stored.tags
        self._record = record
        self._names.add(record.metrics)
        self._best.declare(record)
        self.describe({})

    def _log_best(self, records: Sequence[Record]) -> None:
        """Update the best values before the records are confirmed, so that after a kill this is repeated."""
        from mlflow.entities import Metric

        self._best.add(records)
        for points, best_tags in self._best.pending():
            with _skipping_rejections():
                self._log([Metric(*point) for point in points], best_tags)
        self._best.clear_pending()

    def _log_datasets(self) -> None:
        """Describe the data sets as soon as their checksums are recorded, which happens after the run is opened."""
        datasets = [] if self._has_datasets else find_datasets(self._record, self._folder)
        if datasets:
            with _skipping_rejections():
                # MLflow recognizes data sets that it has.
                self._client.log_inputs(self.run_id, datasets)
            self._has_datasets = True

    def _write(self, batch: Batch, confirmed_seq: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*point) for point in batch.points]
        try:
            self._log(metrics, batch.tags | {tags.SEQ_TAG: str(confirmed_seq)})
        except Exception as error:
            if is_rejection(error):
                self._raise_rejection(error, confirmed_seq)
            raise
        self._accepted_metric = metrics[-1:] or self._accepted_metric

    def _raise_rejection(self, error: Exception, confirmed_seq: int) -> None:
        """Raise SinkRejected if the records caused the rejection, which is tested by repeating an accepted metric."""
        try:
            self._log(self._accepted_metric, {tags.SEQ_TAG: str(confirmed_seq)})
        except Exception:  # noqa: BLE001 - any error shows that no record is the cause
            msg = f"mlflow rejects everything written to run {self.run_id}: {format_error(error)}"
            raise SinkUnavailable(msg) from None
        raise SinkRejected(format_error(error)) from None

    def _log(
        self,
        metrics: Sequence[Any] = (),
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag

        self._client.log_batch(
            self.run_id,
            metrics=list(metrics),
            params=[Param(*item) for item in (params or {}).items()],
            tags=[RunTag(*item) for item in (tags or {}).items()],
            synchronous=True,
        )


def _find(client: Client, experiment_id: str, record: RunRecord) -> Any:
    has_key = f"tags.`{tags.RUN_KEY_TAG}` = '{tags.run_key(record)}'"
    found = client.search_runs([experiment_id], filter_string=has_key)
    # If there are several, always choose the same one, preferably one with points.
    return max(found, key=lambda run: (_stored_seq(run), run.info.run_id), default=None)


def _create(client: Client, experiment_id: str, record: RunRecord, folder: Path, name: str) -> Any:
    return client.create_run(
        experiment_id,
        start_time=max(record.started, _MIN_TIME_MS),
        tags=tags.creation_tags(record, folder),
        run_name=name,
    )


@contextlib.contextmanager
def _skipping_rejections() -> Iterator[None]:
    """Ignore that MLflow rejects a call: delivery must not fail because of an addition to the records."""
    try:
        yield
    except Exception as error:
        if not is_rejection(error):
            raise


def _log_accepted(log: Callable[[dict[str, str]], None], items: dict[str, str]) -> None:
    """Write parameters or tags, skipping those that MLflow rejects: delivery must not fail because of one."""
    for some in _portions(items, _MAX_ITEMS_PER_CALL):
        try:
            log(some)
        except Exception as error:
            if not is_rejection(error):
                raise
            if len(some) > 1:
                _log_accepted(log, dict(list(some.items())[: len(some) // 2]))
                _log_accepted(log, dict(list(some.items())[len(some) // 2 :]))


def _portions(items: dict[str, str], count: int) -> Iterator[dict[str, str]]:
    pairs = list(items.items())
    for first in range(0, len(pairs), count):
        yield dict(pairs[first : first + count])


def _stored_seq(run: Any) -> int:
    with contextlib.suppress(ValueError):
        return int(run.data.tags.get(tags.SEQ_TAG, "0"))
    return 0
