"""One run in MLflow: found or created, described, written to, ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sinks.mlflow import tags
from sinks.mlflow.batches import Batch, batches
from sinks.mlflow.client import Client, is_refusal, say
from sinks.mlflow.names import Names, key
from telemetry.sink_api import Record, RunRecord, SinkRejected, SinkUnavailable, Status

_PER_CALL = 100
"""Parameters or tags that MLflow takes in a call."""
# MLflow knows no other ends; a run that was pre-empted has been killed, and its tag says more.
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "preempted": "KILLED", "killed": "KILLED"}


def open_experiment(client: Client, name: str, artifacts: str | None) -> str:
    """Give the id of the experiment of that name; make it if there is none.

    Raises:
        SinkRejected: it has been deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except Exception:
            # Another run's delivery may just have made it.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        msg = (
            f"the experiment {name!r} has been deleted in MLflow; restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}), or give another in telemetry.mlflow.experiment"
        )
        raise SinkRejected(msg)
    return str(found.experiment_id)


class Run:
    """A run in MLflow.

    Args:
        client: an ``MlflowClient``.
        experiment_id: where it is looked for, and else created.
        run: what it is.
        folder: where it is on disk.
        name: the name that a new one gets.

    Raises:
        SinkRejected: two of its metrics would have one name.
    """

    def __init__(self, client: Client, experiment_id: str, run: RunRecord, folder: Path, name: str) -> None:
        self._client = client
        self._names = Names(run.metrics)
        self._run = run
        found = self._find(experiment_id) or self._create(experiment_id, folder, name)
        self.run_id: str = found.info.run_id
        self._status = found.info.status
        self._params: dict[str, str] = found.data.params
        self._tags: dict[str, str] = found.data.tags
        self.seq = _seq(found)
        self._known: list[Any] = []

    def describe(self, more: Mapping[str, str]) -> None:
        """Bring parameters, tags and status up to those of the newest attempt; ``more`` has further tags."""
        run = self._run
        params = tags.params(run)
        wanted = tags.tags(run, self._names) | dict(more)
        # MLflow never changes a parameter: what a later attempt has changed stands in a tag.
        for name, value in params.items():
            tag = key(f"telemetry.param.{name}")
            if self._params.get(name, value) != value or tag in self._tags:
                wanted[tag] = value
        new_params = {name: value for name, value in params.items() if name not in self._params}
        new_tags = {name: value for name, value in wanted.items() if self._tags.get(name) != value}
        self._log_each(lambda some: self._log(params=some), new_params)
        self._log_each(lambda some: self._log(tags=some), new_tags)
        if self._tags.get(tags.ATTEMPT) != str(run.attempt):
            if self._status != "RUNNING":
                self._client.update_run(self.run_id, status="RUNNING")
            # Last, so that after a kill all of it is done again.
            self._log(tags={tags.ATTEMPT: str(run.attempt)})

    def write(self, records: Sequence[Record]) -> int:
        """Write what is not there yet of the records; give the highest number that is there then.

        Raises:
            SinkRejected: MLflow refuses what is in them; some may be there.
            SinkUnavailable: MLflow refuses whatever is written to this run.
        """
        new = [record for record in records if record.seq > self.seq]
        if not new:
            return self.seq
        told = self.seq
        for batch in batches(new, self._names, self.seq):
            # MLflow promises no order within a call, so the number goes with the call that follows.
            self._write(batch, told)
            self.seq = told = batch.last
        self._log(tags={tags.SEQ: str(self.seq)})
        return self.seq

    def close(self, status: Status, time: int, reason: str) -> None:
        """End the run; ``time`` in ms since 1970."""
        self._log(tags={"telemetry.status": status, "telemetry.reason": tags.cut(reason, tags.TAG_LIMIT)})
        # MLflow takes 0 for "now".
        self._client.set_terminated(self.run_id, status=_STATUS[status], end_time=max(time, 1))

    def _find(self, experiment_id: str) -> Any:
        wanted = f"tags.`{tags.KEY}` = '{tags.run_key(self._run)}'"
        found = self._client.search_runs([experiment_id], filter_string=wanted)
        # Should there be two, the one that has the points, and always the same.
        return max(found, key=lambda run: (_seq(run), run.info.run_id), default=None)

    def _create(self, experiment_id: str, folder: Path, name: str) -> Any:
        return self._client.create_run(
            experiment_id,
            # MLflow takes 0 for "now".
            start_time=max(self._run.started, 1),
            tags=tags.first_tags(self._run, folder),
            run_name=name,
        )

    def _write(self, batch: Batch, told: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*value) for value in batch.values]
        try:
            self._log(metrics, batch.tags | {tags.SEQ: str(told)})
        except Exception as error:
            if is_refusal(error):
                self._judge(error, told)
            raise
        self._known = metrics[-1:] or self._known

    def _judge(self, error: Exception, told: int) -> None:
        """Say whether a refusal is about the records: what was taken before is offered again."""
        try:
            self._log(self._known, {tags.SEQ: str(told)})
        except Exception:  # noqa: BLE001 - whatever it is, no record has caused it
            msg = f"mlflow refuses all that is written to run {self.run_id}: {say(error)}"
            raise SinkUnavailable(msg) from None
        raise SinkRejected(say(error)) from None

    def _log_each(self, log: Callable[[dict[str, str]], None], items: dict[str, str]) -> None:
        """Write parameters or tags; what an MLflow of another version refuses is left out, and costs no curve."""
        for some in _portions(items, _PER_CALL):
            try:
                log(some)
            except Exception as error:
                if not is_refusal(error):
                    raise
                if len(some) > 1:
                    self._log_each(log, dict(list(some.items())[: len(some) // 2]))
                    self._log_each(log, dict(list(some.items())[len(some) // 2 :]))

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


def _portions(items: dict[str, str], count: int) -> Iterator[dict[str, str]]:
    pairs = list(items.items())
    for first in range(0, len(pairs), count):
        yield dict(pairs[first : first + count])


def _seq(run: Any) -> int:
    with contextlib.suppress(ValueError):
        return int(run.data.tags.get(tags.SEQ, "0"))
    return 0
