"""The table of runs on the page, without a browser."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("bokeh")

from support.written_runs import WrittenRun
from telemetry import Metric
from telemetry.view.run_table import RunTable
from telemetry.view.store import RunStore


def test_best_values_in_different_units_have_their_own_columns(tmp_path: Path) -> None:
    runs = [
        WrittenRun(tmp_path / unit.replace("/", "_"), metrics={"val/E": Metric(unit=unit, better="lower", main=True)})
        for unit in ("eV", "kcal/mol")
    ]
    for run, value in zip(runs, (0.5, 11.5), strict=True):
        run.point("val/E", 1, value)
    store = RunStore([run.folder for run in runs])
    store.refresh()
    table = RunTable()
    table.show(store.runs(), [])
    titles = {column.field: column.title for column in table.widget.columns}
    shown = {
        (table.source.data["run"][row], titles[field]): value
        for field in ("best0", "best1")
        for row, value in enumerate(table.source.data[field])
        if not math.isnan(value)
    }
    assert shown == {("eV", "best val/E [eV]"): 0.5, ("kcal_mol", "best val/E [kcal/mol]"): 11.5}
