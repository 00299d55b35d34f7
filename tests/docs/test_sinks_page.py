"""The sink page and the README section mention only existing sinks and options."""

import re
from pathlib import Path

import yaml

from telemetry import Settings
from telemetry.plugins.registry import load, select

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/sinks.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SINKS = ("tensorboard", "wandb", "mlflow")


def test_every_mentioned_option_exists() -> None:
    named = set(re.findall(r"telemetry\.(tensorboard|wandb|mlflow)\.(\w+)", PAGE + README))
    assert len(named) > 4
    assert [(sink, name) for sink, name in sorted(named) if name not in load(sink).option_types()] == []


def test_the_yaml_on_the_page_is_accepted() -> None:
    (text,) = YAML
    settings = Settings.parse(yaml.safe_load(text)["telemetry"])
    chosen = select(settings.sinks, settings.options)
    assert [sink.name for sink in chosen] == ["wandb", "tensorboard", "mlflow"]


def test_the_options_on_the_command_line_of_the_page_are_accepted() -> None:
    (sinks,) = re.findall(r"train … --telemetry-sinks (\S+) telemetry", PAGE)
    given = re.findall(r"telemetry\.(\w+)\.(\w+)=(\w+)", PAGE)
    assert given
    select(sinks.split(","), {sink: {name: value} for sink, name, value in given})


def test_every_built_in_sink_has_a_column_on_the_page_and_a_row_in_the_readme() -> None:
    assert set(re.findall(r"^\| \| (TensorBoard .*) \|$", PAGE, re.MULTILINE)) == {
        "TensorBoard | Weights & Biases | MLflow"
    }
    section = README.partition("## Where the curves go")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == SINKS


def test_the_page_states_which_media_each_sink_shows() -> None:
    section = PAGE.partition("## Texts, tables, images")[2].partition("\n## ")[0]
    for kind in ("text", "table", "image", "histogram", "artifact"):
        (row,) = re.findall(rf"^\| {kind} \| (.*) \|$", section, re.MULTILINE)
        for sink, cell in zip(SINKS, row.split(" | "), strict=True):
            assert (kind in load(sink).media) == (cell != "not shown"), f"{kind} in {sink}"
