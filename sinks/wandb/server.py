"""Query a W&B server for the stored part of a run, in the same way as wandb does before resuming one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sinks.wandb.run_config import ABOUT_KEY
from sinks.wandb.stored_run import LAST_ALERT_KEY, STATUS_KEY, StoredRun
from sinks.wandb.user_settings import api_key
from telemetry.sink_api import SinkRejected, SinkUnavailable, format_error

# wandb-core's query, reduced to the fields used here; `viewer` is the owner of the key.
_QUERY = """
query RunResumeStatus($project: String, $entity: String, $name: String!) {
  viewer { entity }
  model(name: $project, entityName: $entity) {
    entity { name }
    bucket(name: $name, missingOk: true) { historyLineCount historyTail summaryMetrics config }
  }
}
"""


@dataclass(frozen=True)
class ServerRun:
    """The server's answer.

    Attributes:
        entity: the entity that owns the run.
        stored: the part of the run that is stored.
        about: the description of the run in its configuration, as far as it is stored.
    """

    entity: str
    stored: StoredRun = field(default_factory=StoredRun)
    about: dict[str, Any] = field(default_factory=dict)


def query_run(base_url: str, *, project: str, entity: str | None, run_id: str, timeout: float) -> ServerRun:
    """Query the server for the stored part of a run, waiting up to ``timeout`` seconds for its answer.

    Raises:
        SinkRejected: the key is missing or rejected, or has no access to the project.
        SinkUnavailable: the server cannot be reached, or its answer cannot be used.
    """
    import requests

    key = api_key(base_url)
    if key is None:
        msg = f"wandb: there is no key for {base_url}: set WANDB_API_KEY, run `wandb login`, or choose mode=offline"
        raise SinkRejected(msg)
    try:
        response = requests.post(
            f"{base_url}/graphql",
            json={"query": _QUERY, "variables": {"project": project, "entity": entity, "name": run_id}},
            auth=("api", key),
            timeout=timeout,
        )
    except requests.RequestException as error:
        msg = f"wandb: {base_url} cannot be reached: {format_error(error).replace(key, '***')}"
        raise SinkUnavailable(msg) from error
    if response.status_code in {401, 403}:
        msg = (
            f"wandb: {base_url} rejected the key ({response.status_code}) for {entity or 'your'} project {project!r}: "
            "check the entity and WANDB_API_KEY, or run `wandb login --relogin`"
        )
        raise SinkRejected(msg)
    if response.status_code != requests.codes.ok:
        msg = f"wandb: {base_url} answered {response.status_code} {response.reason}"
        raise SinkUnavailable(msg)
    try:
        return _parse(response.json(), entity)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"wandb: {base_url} gave an unexpected answer to a query of run {run_id}: {response.text[:200]!r}"
        raise SinkUnavailable(msg) from error


def _parse(reply: dict[str, Any], entity: str | None) -> ServerRun:
    data = reply["data"]
    model = data["model"]
    if model is None or model["bucket"] is None:
        owner = model["entity"]["name"] if model else entity or (data["viewer"] or {}).get("entity") or ""
        return ServerRun(entity=owner, stored=StoredRun(last_seq=0))
    bucket = model["bucket"]
    stored = StoredRun(last_seq=None if bucket["historyLineCount"] else 0)
    for row in json.loads(bucket["historyTail"] or "[]"):
        stored.add_row(json.loads(row))
    summary = json.loads(bucket["summaryMetrics"] or "{}")
    stored.status, stored.last_alert = summary.get(STATUS_KEY, ""), int(summary.get(LAST_ALERT_KEY, 0))
    config = json.loads(bucket.get("config") or "{}")
    about = config.get(ABOUT_KEY, {}).get("value", {})
    return ServerRun(entity=model["entity"]["name"], stored=stored, about=about)
