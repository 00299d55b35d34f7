"""The pages about other frameworks show the examples as they are, and their tables tell the names that are recorded."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from telemetry import read_run
from telemetry.integrations.host_names import HostNames

ROOT = Path(__file__).parents[2]
EXAMPLES = {"lightning": "lightning", "huggingface": "transformers", "accelerate": "accelerate"}


def text(page: str) -> str:
    return (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")


def names(page: str) -> list[tuple[str, str]]:
    """Return the rows of the table of names: as logged, and as recorded."""
    return re.findall(r"^\| `(\S+)` \| `(\S+)` \|$", text(page), re.MULTILINE)


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_only_code_on_a_page_is_its_example(page: str) -> None:
    (shown,) = re.findall(r"^```\w*\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)
    name = f"hosts/{EXAMPLES[page]}_training.py"
    assert shown == f"# {name}\n" + (ROOT / "examples" / name).read_text(encoding="utf-8")


def test_every_example_has_a_page() -> None:
    there = {path.stem.removesuffix("_training") for path in (ROOT / "examples" / "hosts").glob("*.py")}
    assert there == set(EXAMPLES.values())


@pytest.mark.parametrize(("page", "count"), [("lightning", 9), ("accelerate", 4)])
def test_names_are_recorded_as_in_the_table(page: str, count: int) -> None:
    rows = names(page)
    assert len(rows) == count
    for logged, recorded in rows:
        assert "/".join(HostNames().resolve(logged)) == recorded


def test_names_of_transformers_are_recorded_as_in_the_table(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from telemetry.integrations.huggingface import TelemetryCallback

    rows = names("huggingface")
    assert len(rows) == 6
    callback = TelemetryCallback(tmp_path / "run", sinks=[])
    arguments: Any = None
    state: Any = SimpleNamespace(is_world_process_zero=True, global_step=1)
    callback.on_log(arguments, state, arguments, {logged: float(i) for i, (logged, _) in enumerate(rows)})
    callback.on_train_end(arguments, state, arguments)
    curves = read_run(tmp_path / "run").curves
    assert {name: curve.values.tolist() for name, curve in curves.items()} == {
        recorded: [float(i)] for i, (_, recorded) in enumerate(rows)
    }
