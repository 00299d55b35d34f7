"""Loading sinks by name, with made-up third-party packages."""

from __future__ import annotations

import dataclasses
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from telemetry import PluginError, SettingError, SinkNotFound, SinkNotInstalled, TelemetryError
from telemetry.plugins.optional_imports import is_installed
from telemetry.plugins.registry import Plugin, Sink, install_command, installed, load, select
from telemetry.sink_api import Opened, hookimpl

Install = Callable[..., Path]

GOOD = """
    from dataclasses import dataclass
    from telemetry import Opened, hookimpl

    class Foo:
        @dataclass
        class Options:
            path: str | None = None
            depth: int = 3

        def __init__(self, options):
            self.options = options

        @hookimpl
        def sink_open(self, run, folder):
            return Opened(str(self.options.path))

        @hookimpl
        def sink_write(self, records):
            return self.options.depth

        @hookimpl
        def sink_close(self, status):
            pass
"""
BARE = """
    from telemetry import Opened, hookimpl

    class Foo:
        @hookimpl
        def sink_open(self, run): return Opened("there")
        @hookimpl
        def sink_write(self): return 7
        @hookimpl
        def sink_close(self): pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package with one module, ``zz_foo``, that provides the sink ``foo``."""
    before = set(sys.modules)

    def install(
        source: str = GOOD,
        *,
        package: str = "foo-sink",
        version: str = "1.2",
        module: str = "zz_foo",
        points: str = "foo = zz_foo:Foo",
        extras: tuple[str, ...] = (),
    ) -> Path:
        site = tmp_path / package
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        metadata = ["Metadata-Version: 2.1", f"Name: {package}", f"Version: {version}"]
        metadata += [f"Provides-Extra: {extra}" for extra in extras]
        (info / "METADATA").write_text("\n".join(metadata) + "\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[telemetry.sinks]\n{points}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(site))
        return site

    yield install
    for name in set(sys.modules) - before:
        if name.startswith("zz_"):
            del sys.modules[name]


def chosen(options: dict[str, Any] | None = None, name: str = "foo") -> Sink:
    return select([name], {name: options or {}})[0]


# --- finding sinks


def test_a_third_party_sink_is_found_by_its_entry_point(install: Install) -> None:
    install()
    assert "foo" in installed()
    plugin = load("foo")
    assert (plugin.name, plugin.package, plugin.cls.__name__) == ("foo", "foo-sink 1.2", "Foo")
    assert list(plugin.option_types()) == ["path", "depth"]


def test_the_built_in_sinks_are_found_in_the_same_way() -> None:
    plugin = load("tensorboard")
    assert plugin.package.startswith("aimnet2mult ")


def test_listing_sinks_imports_none_of_them(install: Install) -> None:
    install("raise SystemError('imported')")
    assert "foo" in installed()
    assert "zz_foo" not in sys.modules


def test_only_the_selected_sink_is_imported(install: Install) -> None:
    site = install(points="foo = zz_foo:Foo\nbar = zz_bar:Bar")
    (site / "zz_bar.py").write_text("raise SystemError('imported')", encoding="utf-8")
    chosen()
    assert "zz_foo" in sys.modules
    assert "zz_bar" not in sys.modules


def test_an_unknown_name_is_an_error_with_the_installed_names_and_the_closest_one(install: Install) -> None:
    install()
    with pytest.raises(
        SinkNotFound, match=r"^no sink 'fooo'; installed: (.*, )?foo, .*tensorboard.*\. Did you mean 'foo'\?$"
    ) as e:
        load("fooo")
    assert isinstance(e.value, TelemetryError)
    assert isinstance(e.value, LookupError)
    with pytest.raises(SinkNotFound, match=r"Did you mean 'tensorboard'\?"):
        load("tensorbord")
    with pytest.raises(SinkNotFound, match=r"^no sink 'qqqqqq'; installed: [a-z, ]*$"):
        load("qqqqqq")


def test_a_name_provided_by_two_packages_is_an_error_that_names_both(install: Install) -> None:
    install()
    install(package="other-foo", version="0.3", module="zz_other", points="foo = zz_other:Foo")
    with pytest.raises(
        SinkNotFound, match=r"sink 'foo' is provided by foo-sink 1\.2 and other-foo 0\.3: uninstall all but one"
    ):
        load("foo")
    assert "zz_foo" not in sys.modules
    assert "zz_other" not in sys.modules


def test_a_package_found_twice_on_the_path_counts_once(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = install()
    link = tmp_path / "the same"
    link.symlink_to(site)
    monkeypatch.syspath_prepend(str(link))
    assert load("foo").package == "foo-sink 1.2"


# --- broken packages


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import zz_not_there", "cannot be imported (zz_foo:Foo): ModuleNotFoundError: No module named 'zz_not_there'"),
        ("raise KeyError('x')\n", "cannot be imported (zz_foo:Foo): KeyError: 'x'"),
        ("raise SystemExit(3)\n", "cannot be imported (zz_foo:Foo): SystemExit: 3"),
        ("this is no Python", "cannot be imported (zz_foo:Foo): SyntaxError"),
        ("class Fo: pass", "cannot be imported (zz_foo:Foo): AttributeError"),
        ("def Foo(options): pass", "zz_foo:Foo is not a class but <function Foo"),
        ("Foo = 3", "zz_foo:Foo is not a class but 3"),
        (
            GOOD.replace("self.options = options", "raise RuntimeError('out of\\nluck')"),
            "cannot be constructed: RuntimeError: out of luck",
        ),
        (GOOD.replace("self.options = options", "raise SystemExit"), "cannot be constructed: SystemExit"),
        (GOOD.replace("(self, options)", "(self)"), "cannot be constructed: TypeError"),
        (GOOD.replace("@dataclass", ""), "Options is <class 'zz_foo.Foo.Options'>; expected a dataclass"),
        (GOOD.replace("sink_write", "sink_wriet"), "unknown hook 'sink_wriet'"),
        (GOOD.replace("(self, records)", "(self, recrods)"), "recrods"),
        (GOOD.replace("(self, status)", "(self, status, why)"), "why"),
        (
            GOOD.replace("@hookimpl\n        def sink_close", "def sink_close"),
            "does not implement sink_close (is @hookimpl missing?)",
        ),
        (BARE.replace("@hookimpl", ""), "does not implement sink_open, sink_write, sink_close"),
        (
            BARE.replace("class Foo:", "class Foo:\n        requires = 'csv'"),
            "requires is 'csv'; expected a tuple of module names",
        ),
        (BARE.replace("class Foo:", "class Foo:\n        requires = (1,)"), "requires is (1,)"),
        (BARE.replace("class Foo:", "class Foo:\n        requires = None"), "requires is None"),
        (
            GOOD.replace("class Foo:", "class Foo:\n        media = 'text'"),
            "media is 'text'; expected a tuple of kinds: text, table, image, histogram, artifact",
        ),
    ],
    ids=lambda text: text if len(text) < 60 else "",
)
def test_a_broken_package_is_an_error_with_the_sink_package_and_version(
    install: Install, source: str, said: str
) -> None:
    install(source)
    with pytest.raises(PluginError) as raised:
        chosen()
    message = str(raised.value)
    assert message.startswith("sink 'foo' of foo-sink 1.2")
    assert said in message
    assert "\n" not in message
    assert isinstance(raised.value, TelemetryError)
    assert isinstance(raised.value, TypeError)


def test_a_keyboard_interrupt_during_an_import_is_not_swallowed(install: Install) -> None:
    install("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load("foo")


# --- requirements


def test_a_missing_module_is_an_error_with_the_command_that_installs_the_extra(install: Install) -> None:
    source = GOOD.replace("class Foo:", "class Foo:\n        requires = ('csv', 'zz_sdk', 'zz_other')")
    # Without its SDK, the sink cannot even be constructed.
    install(source.replace("self.options = options", "import zz_sdk"), extras=("foo", "dev"))
    with pytest.raises(SinkNotInstalled) as raised:
        chosen()
    assert str(raised.value) == (
        "sink 'foo' of foo-sink 1.2 needs the module 'zz_sdk', 'zz_other', which is not installed: "
        "pip install 'foo-sink[foo]'"
    )
    assert isinstance(raised.value, TelemetryError)
    assert isinstance(raised.value, ImportError)


def test_without_an_extra_the_command_installs_the_modules_themselves(install: Install) -> None:
    install(GOOD.replace("class Foo:", "class Foo:\n        requires = ('zz_sdk.client', 'zz_sdk.types')"))
    assert install_command(load("foo")) == "pip install zz_sdk"


def test_requirements_are_looked_up_without_importing_anything(install: Install) -> None:
    site = install(
        GOOD.replace("class Foo:", "class Foo:\n        requires = ('zz_sdk.client', 'zz_sdk.nothing', 'os.path')")
    )
    (site / "zz_sdk").mkdir()
    (site / "zz_sdk" / "__init__.py").write_text("raise SystemError('imported')", encoding="utf-8")
    (site / "zz_sdk" / "client.py").touch()
    assert load("foo").missing() == ["zz_sdk.nothing", "os.path"]
    assert "zz_sdk" not in sys.modules


def test_a_dotted_requirement_may_be_missing_at_any_level(install: Install) -> None:
    install(GOOD.replace("class Foo:", "class Foo:\n        requires = ('zz_sdk.client.v1', 'csv.reader')"))
    assert load("foo").missing() == ["zz_sdk.client.v1", "csv.reader"]


@pytest.mark.parametrize("name", ["zz_sdk", "wandb", "mlflow", "tensorboard"])
def test_an_empty_folder_with_the_name_of_an_sdk_is_no_installation(
    install: Install, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_for_real = is_installed(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # as for an interactive Python or `python -m`
    (tmp_path / name / "latest-run").mkdir(parents=True)
    assert is_installed(name) is installed_for_real
    install(GOOD.replace("class Foo:", f"class Foo:\n        requires = ({name!r}, '{name}.zz_part')"))
    (tmp_path / name / "zz_part").mkdir()
    assert load("foo").missing() == [*([] if installed_for_real else [name]), f"{name}.zz_part"]


def test_a_submodule_of_a_namespace_package_is_found(install: Install) -> None:
    site = install(GOOD.replace("class Foo:", "class Foo:\n        requires = ('zz_google.sdk', 'zz_google.other')"))
    (site / "zz_google").mkdir()
    (site / "zz_google" / "sdk.py").touch()
    assert load("foo").missing() == ["zz_google.other"]


# --- options


def test_the_constructor_receives_checked_options_with_defaults(install: Install) -> None:
    install()
    hooks = chosen({"path": "there"}).create()
    assert hooks.sink_open(run=None, folder=None) == Opened("there")  # type: ignore[arg-type]
    assert hooks.sink_write(records=[]) == 3
    assert chosen({"depth": 9}).create().sink_write(records=[]) == 9


def test_a_sink_without_options_is_constructed_without_arguments(install: Install) -> None:
    install(BARE)
    assert chosen().create().sink_write(records=[]) == 7
    with pytest.raises(SettingError, match=r"sink 'foo' of foo-sink 1\.2 has no option 'path'; available: none$"):
        chosen({"path": "there"})


def test_an_unknown_option_is_an_error_with_the_available_ones_and_the_closest_one(install: Install) -> None:
    install()
    expected = "sink 'foo' of foo-sink 1.2 has no option 'dept'; available: path, depth. Did you mean 'depth'?"
    with pytest.raises(SettingError, match=f"^{re.escape(expected)}$"):
        chosen({"dept": 3})


@pytest.mark.parametrize("value", ["3", 2.5, None, True, [3]])
def test_an_option_of_the_wrong_type_is_an_error_with_its_full_name(install: Install, value: Any) -> None:
    install()
    with pytest.raises(
        SettingError, match=r"invalid option of sink 'foo' of foo-sink 1\.2: Expected `int`.*`telemetry\.foo\.depth`"
    ):
        chosen({"depth": value})


def test_an_option_of_the_wrong_type_is_an_error_with_its_value_and_the_expected_type(install: Install) -> None:
    install(GOOD.replace("path: str | None = None", "path: list[str] | None = None"))
    with pytest.raises(SettingError, match=r"; got 'abc', expected list\[str\] \| None$"):
        chosen({"path": "abc"})
    with pytest.raises(SettingError, match=r"; got \['a', 3\], expected list\[str\] \| None$"):
        chosen({"path": ["a", 3]})


def test_a_missing_required_option_is_an_error(install: Install) -> None:
    install(GOOD.replace("path: str | None = None", "path: str"))
    with pytest.raises(SettingError, match=r"foo-sink 1\.2: .*missing required field `path`"):
        chosen()


def test_an_error_raised_by_the_options_is_reported(install: Install) -> None:
    check = "depth: int = 3\n\n            def __post_init__(self):\n                raise ValueError('too deep')"
    install(GOOD.replace("depth: int = 3", check))
    with pytest.raises(SettingError, match=r"foo-sink 1\.2: too deep"):
        chosen()


def test_a_setting_error_of_the_constructor_is_passed_on_unchanged(install: Install) -> None:
    install(
        GOOD.replace(
            "self.options = options", "from telemetry import SettingError; raise SettingError('no such place')"
        )
    )
    with pytest.raises(SettingError, match=r"^no such place$"):
        chosen()


# --- selecting


class Here:
    """A sink passed as an object."""

    @hookimpl
    def sink_open(self) -> Opened:
        return Opened("here")

    @hookimpl
    def sink_write(self) -> int:
        return 1

    @hookimpl
    def sink_close(self) -> None: ...


def test_objects_and_names_can_be_mixed_and_objects_are_named_by_attribute_or_class(install: Install) -> None:
    install()
    named = Here()
    named.name = "mine"  # type: ignore[attr-defined]
    sinks = select(["foo", Here(), named], {})
    assert [sink.name for sink in sinks] == ["foo", "Here", "mine"]
    assert sinks[1].create().sink_open(run=None, folder=None) == Opened("here")  # type: ignore[arg-type]


def test_a_class_instead_of_an_object_is_an_error() -> None:
    with pytest.raises(PluginError, match="is a class; pass an instance or the name of the sink"):
        select([Here], {})


def test_an_object_that_is_not_a_sink_is_an_error() -> None:
    with pytest.raises(PluginError, match="sink 'object' of an object does not implement sink_open"):
        select([object()], {})


def test_a_sink_listed_twice_is_an_error(install: Install) -> None:
    install()
    with pytest.raises(SettingError, match="sink 'foo' is listed twice"):
        select(["foo", "foo"], {})


def test_the_problems_of_all_sinks_are_reported_at_once() -> None:
    with pytest.raises(SinkNotFound) as raised:
        select(["nosuchsink", "another"], {})
    lines = str(raised.value).splitlines()
    assert [line.split(";")[0] for line in lines] == ["no sink 'nosuchsink'", "no sink 'another'"]


def test_each_instance_has_separate_hooks(install: Install) -> None:
    install()
    sink = chosen({"depth": 5})
    assert sink.create() is not sink.create()
    assert sink.create().sink_write(records=[]) == 5


def test_options_of_other_sinks_are_ignored(install: Install) -> None:
    install()
    assert select(["foo"], {"bar": {"x": 1}})[0].options == {}


def test_a_plugin_can_be_constructed_directly() -> None:
    @dataclasses.dataclass
    class Options:
        x: int = 1

    plugin = Plugin("here", type("Mine", (), {"Options": Options}), "nowhere 1.0")
    assert plugin.requires == ()
    assert list(plugin.option_types()) == ["x"]
