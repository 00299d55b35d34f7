"""Generate docs/reference/settings.md, the list of all flags, keys and options with their defaults, from the code.

python tools/settings_page.py            # write the page
python tools/settings_page.py --check    # fail if the page is out of date
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from aimnet2mult.cli import cli
from aimnet2mult.config.import_path import TRUSTED
from aimnet2mult.config.merge import DEFAULTS
from aimnet2mult.config.references import VARIABLES
from telemetry import Settings
from telemetry.alerts.settings import AlertSettings
from telemetry.cli import main as telemetry_cli
from telemetry.plugins.registry import installed, load

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"
BUILT_IN = "sinks."
"""Prefix of the sinks on the page: third-party sinks may be installed, but are not listed."""

_VARIABLES = textwrap.fill(", ".join(f"`{name}`" for name in VARIABLES), 118)
_TRUSTED = "\n".join(f"| {role} | {', '.join(f'`{name}`' for name in names)} |" for role, names in TRUSTED.items())

HEAD = f"""# Settings

Every flag, key and option, with its default, and the environment variables. Generated from the code by
`python tools/settings_page.py`; do not edit.

Set keys in YAML (`--config`) or on the command line as dotted `KEY=VALUE`, for example `trainer.epochs=10`. Later
sources override earlier ones: the defaults, each `--config` in order, `TELEMETRY_SINKS`, `KEY=VALUE`, then the flags.

A value may refer to another one, `project_name: ${{run_name}}-tests`, or to an environment variable that locates
things, `load: ${{oc.env:SCRATCH}}/model.pt`; `${{oc.env:SCRATCH,/tmp}}` has a default. The variables are
{_VARIABLES}.

The values of settings are stored with the run, so other variables, and references to the options of sinks, are errors:
let the shell insert them, `KEY="$VARIABLE"`. `\\${{` is a plain `${{`. Nothing in the `train.yaml` of a run is a
reference.

Classes and functions are named by dotted path. They may come from these modules, and from the packages that you allow
with `--allow-package` or in `AIMNET2MULT_ALLOW_PACKAGE` (separated by spaces or commas):

| what | modules |
|---|---|
{_TRUSTED}

Only the command line and the environment allow packages, again at each resume, because importing a package executes it.
Python must be able to import them: install your package, or add its folder to `PYTHONPATH`.
See [SECURITY.md](https://github.com/aimnet2mult/aimnet2mult/blob/main/SECURITY.md).
"""

ENVIRONMENT = (
    ("`TELEMETRY_SINKS`", "sinks of a training, like `--telemetry-sinks`, which overrides it"),
    (
        "`TELEMETRY_<SINK>_<OPTION>`",
        (
            "a credential among the options of a sink; for other options, confirms "
            "[destinations in a run folder](../how-to/sinks.md#destinations-in-a-run-folder)"
        ),
    ),
    ("`AIMNET2MULT_ALLOW_PACKAGE`", "packages whose classes and functions settings may name, like `--allow-package`"),
    ("`MASTER_ADDR`, `MASTER_PORT`", "where the ranks meet; set by torchrun, optional under SLURM"),
    ("`RANK`, `LOCAL_RANK`, `WORLD_SIZE`", "place of a process among the ranks; set by torchrun"),
    ("`SLURM_STEP_NUM_TASKS`, `SLURM_PROCID`, `SLURM_LOCALID`, `SLURM_STEP_NODELIST`", "the same, set by srun"),
    (
        "`SLURM_JOB_ID`, `SLURM_ARRAY_JOB_ID`, `SLURM_ARRAY_TASK_ID`",
        "the job, which a run records for `--resume auto`",
    ),
    (
        "`XDG_CACHE_HOME`, `WARP_CACHE_PATH`, `TRITON_CACHE_DIR`",
        "caches of libraries; a temporary folder replaces those that cannot be written to",
    ),
    ("`HDF5_PLUGIN_PATH`", "folder of [filters for data files](../how-to/checking-data.md#errors)"),
    ("`NO_COLOR`", "turns off the colors of `telemetry show`"),
)
SDK_VARIABLES = """
The sinks also obey the variables of their SDKs, such as `WANDB_API_KEY`, `WANDB_MODE`, `WANDB_BASE_URL`,
`MLFLOW_TRACKING_URI` and `MLFLOW_TRACKING_TOKEN`, and torch those of its communication, such as `GLOO_SOCKET_IFNAME`
and `NCCL_SOCKET_IFNAME`.
"""


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for name, group in (("aimnet2mult", cli), ("telemetry", telemetry_cli)):
        for command in sorted(group.commands):
            usage = " ".join(group.commands[command].collect_usage_pieces(click.Context(group.commands[command]))[1:])
            parts.append(f"## `{name} {command} {usage}".rstrip() + f"`\n\n{_about(group.commands[command])}\n")
            if flags := list(_flags(group.commands[command])):
                parts.append(_table(("flag", "default", "meaning"), flags))
    parts.append("## Training keys\n")
    parts.append(_table(("key", "default", "meaning"), _keys(DEFAULTS.read_text(encoding="utf-8"))))
    parts.append("## Telemetry keys\n")
    parts.append(_table(("key", "default", "meaning"), _telemetry()))
    parts.append("## Sink options\n")
    parts.append(_table(("key", "default", "meaning"), _options()))
    parts.append("## Environment variables\n")
    parts.append(_table(("variable", "meaning"), ENVIRONMENT) + SDK_VARIABLES)
    return "\n".join(parts)


def _about(command: click.Command) -> str:
    return (command.help or "").partition("\n\n")[0].replace("\n", " ").strip()


def _flags(command: click.Command) -> Iterator[tuple[str, str, str]]:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            default = parameter.to_info_dict()["default"]
            shown = "" if default in (None, False, [], ()) else f"`{default}`"
            yield f"`{'`, `'.join(parameter.opts)}`", shown, parameter.help or ""


def _keys(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield each key of the defaults that has a value, with its default and the comment above it."""
    path: list[tuple[int, str]] = []
    comments: list[str] = []
    body = text.partition("\n\n")[2]
    for line in body.splitlines():
        found = re.fullmatch(r"( *)([\w.]+):(?: (.*))?", line)
        if comment := re.fullmatch(r" *# ?(.*)", line):
            comments.append(comment[1])
        elif found:
            indent, key, value = len(found[1]), found[2], found[3]
            path = [(n, name) for n, name in path if n < indent] + [(indent, key)]
            name = ".".join(part for _, part in path)
            if value is not None or comments:
                yield f"`{name}`", "" if value is None else f"`{value}`", " ".join(comments)
            comments = []
        else:
            comments = []


def _telemetry() -> Iterator[tuple[str, str, str]]:
    for struct, prefix in ((Settings, "telemetry"), (AlertSettings, "telemetry.watch")):
        texts = _attributes(struct)
        for field in msgspec.structs.fields(struct):
            if isinstance(field.default, msgspec.Struct) or field.name == "options":
                continue
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            shown = ", ".join(default) if isinstance(default, tuple) else default
            yield f"`{prefix}.{field.name}`", f"`{shown}`", texts[field.name]
    yield "`telemetry.units.LABEL`", "see the README", "unit in which the metrics of a label are shown"


def _options() -> Iterator[tuple[str, str, str]]:
    for name in installed():
        plugin = load(name)
        if not plugin.cls.__module__.startswith(BUILT_IN):
            continue
        options = plugin.cls.Options  # type: ignore[attr-defined]
        texts = _attributes(options)
        for field in dataclasses.fields(options):
            factory = field.default_factory
            default: Any = field.default if factory is dataclasses.MISSING else factory()
            yield f"`telemetry.{name}.{field.name}`", "" if default is None else f"`{default}`", texts[field.name]


def _attributes(cls: type) -> Mapping[str, str]:
    """Return the descriptions in the "Attributes:" section of a docstring, by attribute."""
    text = inspect.getdoc(cls) or ""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.partition("Attributes:\n")[2].splitlines():
        begun = re.fullmatch(r"    (\w+(?:, \w+)*): (.*)", line)
        if begun:
            names = begun[1].split(", ")
            found |= dict.fromkeys(names, begun[2])
        elif line.startswith("     ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return {name: text.replace("``", "`") for name, text in found.items()}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def main() -> None:
    """Write the page, or check it."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        sys.exit(None if PAGE.read_text(encoding="utf-8") == text else f"{PAGE} is out of date: run {sys.argv[0]}")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
