"""Messages between ranks: records arrive unchanged, and nothing in a message is executed."""

import importlib
import inspect
import os
import pickle
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aimnet2mult.data.report import Report
from aimnet2mult.distributed import process_group
from aimnet2mult.distributed.messages import MODULES, decode, encode
from aimnet2mult.train.plan import Plan, Request, make_plan
from support.tiny_runs import train_tiny


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def test_a_plan_arrives_unchanged(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, "trainer.epochs=1")
    rows = {("a.h5", "001"): {"a force is not finite": [np.array([3, 1]), np.array([7])]}}
    plan = replace(make_plan(Request(resume=str(run))), report=Report(bad_rows=rows))
    assert plan.metrics
    found = decode(encode(plan))
    assert isinstance(found, Plan)
    assert replace(found, report=None) == replace(plan, report=None)
    assert found.metrics == plan.metrics
    assert found.report is not None
    assert found.report.skipped["a.h5", "001"].tolist() == [1, 3, 7]
    assert found.report.skipped["a.h5", "001"].dtype == np.int64


def test_padding_is_ignored() -> None:
    assert decode(encode("text") + bytes(100)) == "text"


@pytest.mark.parametrize(
    "function", [os.mkdir, Path.mkdir, eval, getattr, msgspec.json.decode, np.ndarray, Plan.__eq__]
)
def test_a_message_that_calls_a_function_is_refused(function: Any, tmp_path: Path) -> None:
    path = tmp_path / "created"
    with pytest.raises(ValueError, match="unexpected"):
        decode(pickle.dumps(Call(function, str(path))))
    assert not path.exists()


@pytest.mark.parametrize("name", ["trust.check_settings", "Path", "contextlib.suppress", "echo", "Mapping"])
def test_what_a_trusted_module_imports_is_refused(name: str) -> None:
    content = b"\x80\x04" + b"".join(
        b"\x8c" + bytes([len(text)]) + text.encode() for text in ("aimnet2mult.train.plan", name)
    )
    with pytest.raises(ValueError, match=f"unexpected aimnet2mult.train.plan.{name}"):
        decode(content + b"\x93.")


@pytest.mark.parametrize("content", [b"", b"\x80", bytes(50), b"\x80\x04]", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 99])
def test_damaged_messages_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode(content)


def test_the_classes_of_messages_are_records() -> None:
    for module in MODULES:
        for name, found in vars(importlib.import_module(module)).items():
            if isinstance(found, type) and found.__module__ == module:
                assert is_dataclass(found) or issubclass(found, msgspec.Struct), f"{module}.{name}"


def test_torch_pickles_no_messages() -> None:
    source = inspect.getsource(process_group)
    assert "_object" not in source
    assert "pickle" not in source
