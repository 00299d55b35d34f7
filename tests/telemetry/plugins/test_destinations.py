"""Which destinations of a run folder must be confirmed, and the commands that confirm them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from support.cli_runs import telemetry
from support.telemetry_fakes import HandMadeRun, offer_sinks
from telemetry import PluginError
from telemetry.plugins.destinations import confirmations, is_inside, unconfirmed
from telemetry.plugins.registry import select
from telemetry.sink_api import Opened, hookimpl


class Undeclared:
    """A sink that declares no destinations."""

    @dataclass
    class Options:
        url: Any = "http://default"
        token: str = ""
        level: int = 0
        names: list[str] = field(default_factory=list)

    def __init__(self, options: Options) -> None:
        self.options = options

    @hookimpl
    def sink_open(self) -> Opened:
        return Opened("there", 10**9 - 1)

    @hookimpl
    def sink_write(self) -> None: ...

    @hookimpl
    def sink_close(self) -> None: ...


class Declared(Undeclared):
    destinations: ClassVar[Any] = {"url": lambda url, run: url == f"http://{run.name}"}


class Writing(Undeclared):
    """A sink that creates a folder."""

    destinations: ClassVar[Any] = {"dir": is_inside}

    @dataclass
    class Options:
        dir: str = "files"

    @hookimpl
    def sink_open(self) -> Opened:
        Path(self.options.dir).mkdir()
        return super().sink_open()


class Failing(Undeclared):
    destinations: ClassVar[Any] = {"url": lambda url, run: len(url) / 0}


class UnknownOption(Undeclared):
    destinations: ClassVar[Any] = {"uri": is_inside}


class NoMapping(Undeclared):
    destinations: ClassVar[Any] = ("url",)


@pytest.fixture(autouse=True)
def _sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    classes = {cls.__name__.lower(): cls for cls in (Undeclared, Declared, Writing, Failing, UnknownOption, NoMapping)}
    offer_sinks(site, **{name: f"{__name__}:{cls.__name__}" for name, cls in classes.items()})
    monkeypatch.syspath_prepend(site)


def to_confirm(name: str, stored: Mapping[str, Any], given: Collection[str] = (), run: str = "run") -> list[str]:
    (sink,) = select([name], {name: stored})
    return unconfirmed(sink, stored, given, Path(run))


def test_a_declared_destination_from_the_run_folder_is_unconfirmed_unless_the_sink_calls_it_harmless() -> None:
    stored = {"url": "http://evil", "level": 3}
    assert to_confirm("declared", stored) == ["declared.url=http://evil"]
    assert to_confirm("declared", stored, given=["url"]) == []
    assert to_confirm("declared", {"url": "http://run"}) == []
    assert to_confirm("declared", {"url": "http://default"}) == []
    assert to_confirm("declared", {}) == []


def test_the_variable_of_an_option_confirms_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_DECLARED_URL", "http://lab")
    assert to_confirm("declared", {"url": "http://lab"}) == []
    assert to_confirm("declared", {"url": "http://evil"}) == ["declared.url=http://evil"]


def test_without_a_declaration_all_options_are_destinations_of_credentials_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = {"url": "http://evil", "level": 3, "names": ["a b"]}
    assert to_confirm("undeclared", stored) == []
    monkeypatch.setenv("TELEMETRY_UNDECLARED_TOKEN", "t0k3n")
    assert to_confirm("undeclared", stored) == [
        "undeclared.url=http://evil",
        "undeclared.level=3",
        """'undeclared.names=["a b"]'""",
    ]
    assert to_confirm("undeclared", stored, given=["url", "level", "names"]) == []
    assert to_confirm("undeclared", {"token": "***"} | stored, given=["url", "level", "names"]) == []


def test_a_function_that_fails_confirms_nothing() -> None:
    assert to_confirm("failing", {"url": "http://evil"}) == ["failing.url=http://evil"]


@pytest.mark.parametrize("name", ["unknownoption", "nomapping"])
def test_an_invalid_declaration_is_an_error_of_the_plugin(name: str) -> None:
    with pytest.raises(PluginError, match=rf"sink '{name}' of fakes 1\.0: destinations is .*; expected a mapping"):
        to_confirm(name, {"url": "http://evil"})


def test_of_a_sink_that_cannot_be_loaded_nothing_is_known() -> None:
    assert confirmations("missing", {"url": "http://evil"}, Path("run")) == []
    assert confirmations("declared", {"url": "http://evil"}, Path("run")) == ["declared.url=http://evil"]


@pytest.mark.parametrize("value", ["http://evil", "a b; touch PASTED #", "'\"", "3", "true", '"x"', 3, [1, "a"], {}])
def test_the_suggested_command_restores_the_value_in_a_shell(tmp_path: Path, value: Any) -> None:
    run = HandMadeRun(tmp_path / "run", sinks={"declared": {"url": value}})
    run.points(1)
    run.close()
    result = telemetry("sync", run.folder)
    assert result.exit_code == 2
    option = shlex.split(result.stderr.partition("; if you trust it, add ")[2])
    assert len(option) == 2
    assert telemetry("sync", run.folder, *option).exit_code == 0


def test_each_unconfirmed_destination_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    outside = tmp_path / "out side"
    sinks = {"writing": {"dir": str(outside)}, "declared": {"url": "http://evil"}, "undeclared": {"level": 1}}
    run = HandMadeRun(tmp_path / "run", sinks=sinks)
    run.points(1)
    run.close()
    result = telemetry("sync", run.folder)
    assert result.exit_code == 2
    directory = shlex.quote(f"writing.dir={outside}")
    assert result.stderr.splitlines() == [
        f"error: the destination {text} comes from the run folder; if you trust it, add -o {text}"
        for text in (directory, "declared.url=http://evil")
    ]
    assert not outside.exists()
    assert list((run.folder / "sinks").iterdir()) == []


def test_the_suggested_command_of_the_status_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sinks = {"undeclared": {"level": 1}, "writing": {"dir": str(tmp_path / "tb")}}
    run = HandMadeRun(Path("-my run"), sinks=sinks)
    run.points(1)
    run.close()
    lines = telemetry("status", "./-my run").output.splitlines()
    assert lines[-1] == (
        "deliver the rest, if you trust the destination: telemetry sync './-my run' "
        f"--telemetry-sinks undeclared,writing -o writing.dir={tmp_path}/tb"
    )
    assert telemetry(*shlex.split(lines[-1].partition(": ")[2])[1:]).exit_code == 0
    assert (tmp_path / "tb").is_dir()
    assert "deliver the rest" not in telemetry("status", "./-my run").output


@pytest.mark.parametrize("path", ["tb", "./a/../tb", "{run}/tb", "{run}"])
def test_paths_in_the_run_folder_are_inside(tmp_path: Path, path: str) -> None:
    assert is_inside(path.format(run=tmp_path), tmp_path)


@pytest.mark.parametrize("path", ["..", "../other", "/tmp", "~/tb", "{run}-2", "link/tb"])  # noqa: S108 - not written
def test_other_paths_are_outside(tmp_path: Path, path: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to(tmp_path)
    assert not is_inside(path.format(run=run), run)


class TestNames:
    """Names of sinks that a run folder contains."""

    def test_files_with_other_names_are_ignored_and_mentioned_once(self, tmp_path: Path) -> None:
        run = HandMadeRun(tmp_path / "run")
        run.points(1)
        run.close()
        for name in ("x; touch PASTED; #", "-o", "a,b", "über", "e\x1b[31m"):
            (run.folder / "sinks" / f"{name}.json").write_text("{}", encoding="utf-8")
        (run.folder / "sinks" / "good-1.json").write_text("{}", encoding="utf-8")
        for command in ("status", "list"):
            assert "touch PASTED; # " not in telemetry(command, run.folder).output
        output = telemetry("status", run.folder).output
        shown = r"'-o.json', 'a,b.json', 'e\x1b[31m.json', 'x; touch PASTED; #.json', 'über.json'"
        assert output.splitlines()[-2:] == [
            f"ignored in {run.folder}/sinks, because they are not named after a sink: {shown}",
            f"deliver the rest: telemetry sync {run.folder} --telemetry-sinks good-1",
        ]

    @pytest.mark.parametrize("name", ["x; touch PASTED", "a b", "-x", ".x", "x" * 101, "", 5])
    def test_a_sink_object_with_an_invalid_name_is_rejected(self, name: object) -> None:
        sink = Undeclared(Undeclared.Options())
        sink.name = name  # type: ignore[attr-defined]
        with pytest.raises(PluginError, match="its name must consist of up to 100 letters"):
            select([sink], {})

    def test_a_plugin_with_an_invalid_name_cannot_be_selected(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = tmp_path / "other"
        offer_sinks(site, **{"my sink": f"{__name__}:Undeclared"})
        monkeypatch.syspath_prepend(site)
        with pytest.raises(PluginError, match=r"sink 'my sink' of fakes 1\.0: its name must consist of"):
            select(["my sink"], {})
