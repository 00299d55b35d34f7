"""Misbehaving plugins are reported with package and version, and do not affect runs that did not select them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from support.telemetry_fakes import lines_of, offer_sinks, row_steps
from telemetry import Metric, MetricBus, SettingError, Settings, TelemetryError, open_run, read_receipt
from telemetry.cli import main
from telemetry.plugins.registry import select
from telemetry.testing import RecordingSink

GOOD = """
from dataclasses import dataclass
from telemetry import Opened, hookimpl

class Foo:
    @dataclass
    class Options:
        path: str = "x"

    def __init__(self, options):
        self.options = options

    @hookimpl
    def sink_open(self, run, folder):
        return Opened(str(folder))

    @hookimpl
    def sink_write(self, records):
        return records[-1].seq

    @hookimpl
    def sink_close(self, status):
        pass
"""


class Case(NamedTuple):
    """A misbehavior of a plugin.

    Attributes:
        replaced: a part of a correct plugin.
        by: what it is replaced with.
        message: a part of the resulting error message.
    """

    replaced: str
    by: str
    message: str

    def source(self) -> str:
        assert self.replaced in GOOD
        return GOOD.replace(self.replaced, self.by)


AT_SELECTION = {
    "import error": Case("from dataclasses", "import zz_sdk\nfrom dataclasses", "cannot be imported (zz_foo:Foo)"),
    "exit at import": Case("class Foo:", "raise SystemExit(3)\nclass Foo:", "SystemExit: 3"),
    "missing hook": Case("    @hookimpl\n    def sink_close", "    def sink_close", "does not implement sink_close"),
    "misspelt hook": Case("sink_write", "sink_wriet", "unknown hook 'sink_wriet'"),
    "misspelt argument": Case("(self, records)", "(self, recrods)", "recrods"),
    "cannot be constructed": Case("self.options = options", "1 / 0", "cannot be constructed: ZeroDivisionError"),
    "takes no options": Case("(self, options)", "(self)", "cannot be constructed: TypeError"),
    "options are no dataclass": Case("@dataclass", "", "Options is <class 'zz_foo.Foo.Options'>; expected a dataclass"),
    "requires is no tuple": Case("class Foo:", "class Foo:\n    requires = ('',)", "requires is ('',)"),
    "a factory that raises": Case(
        'path: str = "x"', "path: list = __import__('dataclasses').field(default_factory=lambda: 1 / 0)", "ZeroDivision"
    ),
}
LATER = {
    "raises in open": Case("return Opened(str(folder))", "raise KeyError('token')", "KeyError: 'token'"),
    "exits in open": Case("return Opened(str(folder))", "raise SystemExit(3)", "SystemExit: 3"),
    "opens nothing": Case(
        "return Opened(str(folder))", "pass", "returned None; it must return telemetry.sink_api.Opened"
    ),
    "raises in write": Case("return records[-1].seq", "raise KeyError('token')", "KeyError: 'token'"),
    "raises in close": Case("        pass", "        raise KeyError('token')", "KeyError: 'token'"),
}


@pytest.fixture(name="install")
def _install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Install the package ``foo-sink 1.2`` with the sink ``foo``, and ``fakes 1.0`` with the sink ``file``."""
    before = set(sys.modules)
    others = tmp_path / "others"
    offer_sinks(others, file="support.telemetry_fakes:FileSink")
    monkeypatch.syspath_prepend(others)

    def install(source: str, package: str = "foo-sink", module: str = "zz_foo") -> None:
        site = tmp_path / package
        info = site / f"{package.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[telemetry.sinks]\nfoo = {module}:Foo\n", encoding="utf-8")
        monkeypatch.syspath_prepend(site)

    yield install
    for name in set(sys.modules) - before:
        if name.startswith("zz_"):
            del sys.modules[name]


Install = Callable[..., None]


def train(bus: MetricBus) -> None:
    with bus:
        for step in (1, 2, 3):
            bus.publish("train", step, {"loss": float(step)})


def opened(folder: Path, *sinks: str | object, backend: Path | None = None) -> MetricBus:
    settings = Settings(
        every=1,
        poll=0.02,
        linger=0.1,
        drain_timeout=0.5 if "foo" in sinks else 20.0,
        delivery="thread",
        options={"file": {"backend": str(backend)}},
    )
    return open_run(folder, metrics={"train/loss": Metric()}, sinks=sinks, settings=settings)


@pytest.mark.parametrize("case", AT_SELECTION.values(), ids=AT_SELECTION)
def test_selecting_a_broken_plugin_is_an_error_with_package_and_version_before_a_run_is_created(
    install: Install, tmp_path: Path, case: Case
) -> None:
    install(case.source())
    with pytest.raises(TelemetryError) as raised:
        opened(tmp_path / "run", "file", "foo", backend=tmp_path / "backend")
    assert str(raised.value).startswith("sink 'foo' of foo-sink 1.2")
    assert case.message in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", AT_SELECTION.values(), ids=AT_SELECTION)
def test_the_list_of_sinks_shows_what_is_wrong_with_it_and_lists_the_others(install: Install, case: Case) -> None:
    install(case.source())
    result = CliRunner().invoke(main, ["sinks"])
    assert result.exit_code == 0
    (broken,) = [line for line in result.stdout.splitlines() if "BROKEN" in line]
    assert broken.startswith("foo  BROKEN: sink 'foo' of foo-sink 1.2")
    assert case.message in broken
    assert "file  (fakes 1.0)  installed" in result.stdout
    assert "\ntensorboard  (aimnet2mult " in result.stdout


@pytest.mark.parametrize("case", {**AT_SELECTION, **LATER}.values(), ids={**AT_SELECTION, **LATER})
def test_a_run_that_did_not_select_it_is_unaffected(install: Install, tmp_path: Path, case: Case) -> None:
    install(case.source())
    train(opened(tmp_path / "run", "file", backend=tmp_path / "backend"))
    assert row_steps(tmp_path / "backend") == [1, 2, 3]
    assert lines_of(tmp_path / "backend" / "closed") == ["finished"]
    assert "zz_foo" not in sys.modules
    # The same holds with a section for it in the configuration.
    assert Settings.parse({"sinks": "file", "foo": {"path": "y"}}).sinks == ("file",)
    assert "zz_foo" not in sys.modules


@pytest.mark.parametrize("case", LATER.values(), ids=LATER)
def test_a_failing_hook_is_reported_with_package_and_version_and_does_not_affect_other_sinks(
    install: Install, tmp_path: Path, case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    install(case.source())
    other = RecordingSink()
    bus = opened(tmp_path / "run", "foo", other)
    train(bus)
    assert [record.step for record in other.records] == [1, 2, 3]  # type: ignore[attr-defined]
    assert other.closed == ["finished"]
    receipt = str(read_receipt(tmp_path / "run"))
    assert ": foo of foo-sink 1.2: " in receipt
    assert case.message in receipt
    assert "foo: cannot be reached" in caplog.text
    assert "delivery to foo of foo-sink 1.2 failed" in (tmp_path / "run/sinks/foo.log").read_text()


def test_a_name_provided_by_two_packages_is_listed_with_both_and_cannot_be_selected(
    install: Install, tmp_path: Path
) -> None:
    install(GOOD)
    install(GOOD, package="other-foo", module="zz_other")
    listed = CliRunner().invoke(main, ["sinks"]).stdout
    message = "sink 'foo' is provided by foo-sink 1.2 and other-foo 1.2: uninstall all but one"
    assert f"foo  BROKEN: {message}\n" in listed
    assert "file  (fakes 1.0)  installed" in listed
    with pytest.raises(TelemetryError, match=message):
        opened(tmp_path / "run", "foo")
    train(opened(tmp_path / "run", "file", backend=tmp_path / "backend"))
    assert row_steps(tmp_path / "backend") == [1, 2, 3]
    assert {"zz_foo", "zz_other"} & set(sys.modules) == set()


def test_options_are_listed_with_types_and_defaults_in_any_notation(install: Install) -> None:
    options = """path: str
        depth: int = 3
        tags: list[str] = field(default_factory=lambda: ["a"])
        mode: Literal["on", "off"] | None = None
        more: Optional[dict[str, float]] = None"""
    source = GOOD.replace('path: str = "x"', options).replace("import dataclass", "import dataclass, field")
    install("from typing import Literal, Optional\n" + source)
    listed = CliRunner().invoke(main, ["sinks"]).stdout.splitlines()
    start = listed.index("foo  (foo-sink 1.2)  installed")
    assert listed[start + 1 : start + 6] == [
        "    telemetry.foo.path: str",
        "    telemetry.foo.depth: int = 3",
        "    telemetry.foo.tags: list[str] = ['a']",
        "    telemetry.foo.mode: Optional[Literal['on', 'off']] = None",
        "    telemetry.foo.more: Optional[dict[str, float]] = None",
    ]
    with pytest.raises(SettingError, match="missing required field `path`"):
        select(["foo"], {})
