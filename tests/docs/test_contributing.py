"""What CONTRIBUTING.md shows works as it is shown."""

import csv
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from telemetry import Metric, Settings, open_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(name="example")
def _example(tmp_path: Path) -> ModuleType:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# csv_sink.py\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "csv_sink.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("csv_sink", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


def _train(folder: Path, sink: object, steps: range, resume_step: int | None = None) -> None:
    metrics = {"train/loss": Metric(label="loss")}
    settings = Settings(every=1, poll=0.05)
    with open_run(folder, metrics=metrics, sinks=[sink], settings=settings, resume_step=resume_step) as bus:
        for step in steps:
            bus.publish("train", step, {"loss": 1.0 / step})


def test_the_sink_of_contributing_writes_every_point_once_also_after_a_torn_row_and_a_resume(
    example: ModuleType, tmp_path: Path
) -> None:
    out = tmp_path / "metrics.csv"

    def sink() -> object:
        made = example.CsvSink(example.CsvSink.Options(path=str(out)))
        made.name = "csv"
        return made

    _train(tmp_path / "run", sink(), range(1, 6))
    whole = _rows(out)
    assert [(row[2], row[3], float(row[4])) for row in whole] == [(str(n), "train/loss", 1 / n) for n in range(1, 6)]

    out.write_bytes(out.read_bytes()[:-9])  # as a kill in the middle of a row leaves it
    _train(tmp_path / "run", sink(), range(6, 8), resume_step=5)
    rows = _rows(out)
    assert rows[:5] == whole
    assert [row[2] for row in rows[5:]] == ["6", "7"]
