"""The HParams of a run: its main parameters, next to the main metrics of its last stream."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from sinks._run_tables import leaves
from sinks.tensorboard.events import Event, EventBuilder
from telemetry.sink_api import SYSTEM, VALIDATION, RunRecord, charts, stream_of

Value = bool | int | float | str

MAX_HPARAMS = 10
_COMMON = (
    r"lr|learning_rate",
    r"batch_size",
    r"(max_|num_)?epochs",
    r"(optimizer|scheduler)(\.(class|name))?",
    r"weight",
    r"hidden",
    r"weight_decay",
    r"clip_grad_norm",
    r"seed",
)
"""The ends of the names of parameters that are compared most often, in order of preference."""
_ENDS = [re.compile(rf"(^|\.)({end})$") for end in _COMMON]
_VALIDATION = re.compile(r"(^|\.)(val|valid|validation|eval|test)\.")
_TYPES = {bool: "DATA_TYPE_BOOL", str: "DATA_TYPE_STRING", int: "DATA_TYPE_FLOAT64", float: "DATA_TYPE_FLOAT64"}


def is_described(run: RunRecord) -> bool:
    """Return whether the parameters and metrics are known; TensorBoard keeps what it reads first.

    Metrics that only appear while the run is recorded have no unit; the first may be those of the training. The load of
    the system is declared at another time.
    """
    metrics = [(stream_of(name), metric) for name, metric in run.metrics.items()]
    return bool(run.params) and any(
        stream == VALIDATION or (metric.unit and stream != SYSTEM) for stream, metric in metrics
    )


def start(builder: EventBuilder, run: RunRecord) -> list[Event]:
    """Return the events that declare the parameters and metrics, and give the values of the parameters."""
    params, time = main_params(run.params), run.started / 1000
    # TensorBoard sorts by key, and shows only the first five at first.
    keys = {name: f"{_rank(name)} {name}" for name in params}
    main = next((group for heading, group in charts(run.metrics).items() if heading != SYSTEM), [])
    experiment = {
        "hparam_infos": [_hparam(keys[name], name, value) for name, value in params.items()],
        "metric_infos": [_metric(chart.names[-1], chart.title) for chart in main],
        "time_created_secs": time,
    }
    session = {"hparams": {keys[name]: value for name, value in params.items()}, "start_time_secs": time}
    return [_event(builder, "experiment", experiment, time), _event(builder, "session_start_info", session, time)]


def success(builder: EventBuilder, time: float) -> Event:
    """Return the event that a run has finished; ``time`` is in seconds since 1970."""
    return _event(builder, "session_end_info", {"status": "STATUS_SUCCESS", "end_time_secs": time}, time)


def main_params(params: Mapping[str, Any]) -> dict[str, Value]:
    """Return up to ten parameters by dotted name: all, or those that are compared most often.

    The choice depends on the names only, so that the runs of a trainer have the same columns.
    """
    found = {name: value for name, leaf in leaves(params) if (value := _value(leaf)) is not None}
    common = [name for name in found if _rank(name) < len(_ENDS)] if len(found) > MAX_HPARAMS else list(found)
    return {name: found[name] for name in sorted(common, key=_rank)[:MAX_HPARAMS]}


def _rank(name: str) -> int:
    if _VALIDATION.search(name):
        return len(_ENDS)
    return next((rank for rank, end in enumerate(_ENDS) if end.search(name)), len(_ENDS))


def _value(value: Any) -> Value | None:
    """Return a value as HParams shows it; None if there is nothing to show."""
    if isinstance(value, bool | str) or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    return None if value is None or value == {} else str(value)


def _hparam(key: str, name: str, value: Value) -> dict[str, Any]:
    return {"name": key, "display_name": name, "type": _TYPES[type(value)]}


def _metric(name: str, title: str) -> dict[str, Any]:
    return {"name": {"tag": name}, "display_name": f"{stream_of(name)} {title}"}


def _event(builder: EventBuilder, kind: str, fields: Mapping[str, Any], time: float) -> Event:
    from google.protobuf.json_format import ParseDict
    from tensorboard.plugins.hparams import plugin_data_pb2

    data = ParseDict({kind: fields}, plugin_data_pb2.HParamsPluginData())
    return builder.setting(f"_hparams_/{kind}", "hparams", data.SerializeToString(deterministic=True), time=time)
