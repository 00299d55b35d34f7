"""The summaries in the run's own folder: tables, the tags of the overlay, and the layout of Custom Scalars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from sinks import _run_tables
from sinks.tensorboard.events import Event, EventBuilder, EventFileState
from telemetry.sink_api import RunRecord, charts

_TAGS = "telemetry/tags"


def tables(builder: EventBuilder, run: RunRecord) -> list[Event]:
    """Return the tables about the run."""
    texts = {
        "run/about": _run_tables.run_table(run),
        "run/parameters": _run_tables.parameter_table(run),
        "run/units": _run_tables.unit_table(run),
    }
    return [builder.text(tag, text, time=run.time / 1000) for tag, text in texts.items()]


def layout(builder: EventBuilder, run: RunRecord, shown: Mapping[str, str]) -> list[Event]:
    """Return the event that lays out the Custom Scalars tab, with only the first heading expanded, if there are points.

    Args:
        builder: the builder of events.
        run: the run.
        shown: the tag of each metric that has points, by full name. The chart of another one would be empty.
    """
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    found = layout_pb2.Layout()
    for heading, group in charts({name: m for name, m in run.metrics.items() if name in shown}).items():
        category = found.category.add(title=heading, closed=bool(found.category))
        for chart in group:
            # The plugin matches tags as regular expressions, from the beginning.
            tags = [f"^{re.escape(tag)}$" for tag in dict.fromkeys(shown[name] for name in chart.names)]
            category.chart.add(title=chart.title, multiline={"tag": tags})
    if not found.category:
        return []
    data = found.SerializeToString(deterministic=True)
    return [builder.tensor(metadata.CONFIG_SUMMARY_TAG, metadata.PLUGIN_NAME, data, time=run.time / 1000)]


def overlay_tags(builder: EventBuilder, run: RunRecord, tags: Mapping[str, str]) -> Event:
    """Return the event that stores the tags of the overlay; no tab shows it."""
    return builder.tensor(_TAGS, "aimnet2mult", json.dumps(dict(tags)).encode(), time=run.time / 1000)


def read_overlay_tags(state: EventFileState) -> dict[str, str] | None:
    """Return the tags stored by an earlier attempt; None if there are none, as in version 0.1."""
    if _TAGS not in state.summaries:
        return None
    try:
        found = json.loads(state.summaries[_TAGS][1])
    except (ValueError, RecursionError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: tag for name, tag in pairs if isinstance(tag, str)}
