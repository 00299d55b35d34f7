"""What a W&B server holds of a run, asked in the way in which wandb itself asks before it resumes one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from sinks.wandb.offline_files import ALERT, STATUS, Held
from telemetry.sink_api import SinkRejected, SinkUnavailable

_TIMEOUT = 10.0
"""Seconds for an answer."""
# The query of wandb-core, as far as it is used here, and who asks.
_QUERY = """
query RunResumeStatus($project: String, $entity: String, $name: String!) {
  viewer { entity }
  model(name: $project, entityName: $entity) {
    entity { name }
    bucket(name: $name, missingOk: true) { historyLineCount historyTail summaryMetrics }
  }
}
"""


@dataclass(frozen=True)
class Answer:
    """What the server says of a run: to whom it belongs, and what is there."""

    entity: str
    held: Held = field(default_factory=Held)


def has_key(base_url: str) -> bool:
    """Say whether there is a key for a server: in WANDB_API_KEY, in wandb's settings, or in netrc, from a login."""
    return _key(base_url) is not None


def ask(base_url: str, *, project: str, entity: str | None, run_id: str) -> Answer:
    """Ask what the server holds of a run.

    Raises:
        SinkRejected: the key is missing, or refused, or may not see the project.
        SinkUnavailable: the server cannot be reached, or gives no answer of use.
    """
    import requests

    key = _key(base_url)
    if key is None:
        msg = f"wandb: there is no key for {base_url}: set WANDB_API_KEY, run `wandb login`, or choose mode=offline"
        raise SinkRejected(msg)
    try:
        response = requests.post(
            f"{base_url}/graphql",
            json={"query": _QUERY, "variables": {"project": project, "entity": entity, "name": run_id}},
            auth=("api", key),
            timeout=_TIMEOUT,
        )
    except requests.RequestException as error:
        msg = f"wandb: {base_url} cannot be reached: {_without(key, error)}"
        raise SinkUnavailable(msg) from error
    if response.status_code in {401, 403}:
        msg = (
            f"wandb: {base_url} refuses the key ({response.status_code}) for {entity or 'your'} project {project!r}: "
            "check WANDB_API_KEY, or run `wandb login --relogin`, and the entity"
        )
        raise SinkRejected(msg)
    if response.status_code != requests.codes.ok:
        msg = f"wandb: {base_url} answers {response.status_code} {response.reason}"
        raise SinkUnavailable(msg)
    try:
        return _answer(response.json(), entity)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"wandb: {base_url} gives no answer to what it holds of {run_id}: {response.text[:200]!r}"
        raise SinkUnavailable(msg) from error


def _answer(reply: dict[str, Any], entity: str | None) -> Answer:
    data = reply["data"]
    model = data["model"]
    if model is None or model["bucket"] is None:
        owner = model["entity"]["name"] if model else entity or (data["viewer"] or {}).get("entity") or ""
        return Answer(entity=owner, held=Held(last_seq=0))
    bucket = model["bucket"]
    held = Held(last_seq=None if bucket["historyLineCount"] else 0)
    for row in json.loads(bucket["historyTail"] or "[]"):
        held.add(json.loads(row))
    summary = json.loads(bucket["summaryMetrics"] or "{}")
    held.status, held.last_alert = summary.get(STATUS, ""), int(summary.get(ALERT, 0))
    return Answer(entity=model["entity"]["name"], held=held)


def _key(base_url: str) -> str | None:
    import wandb

    if key := os.environ.get("WANDB_API_KEY") or wandb.setup().settings.api_key:
        return str(key)
    # What wandb would find: it knows servers by their ports, and what its own was called before.
    try:
        from wandb.sdk.lib.wbauth.wbnetrc import read_netrc_auth
    except ImportError:
        import requests

        login = requests.utils.get_netrc_auth(base_url)
        return login[1] if login else None
    return read_netrc_auth(host=base_url)


def _without(key: str, error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace(key, "***")
