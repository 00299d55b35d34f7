"""The table of the migration page is up to date, and its current keys exist."""

import re
import runpy
from pathlib import Path

from aimnet2mult.cli import calc_sae, train
from aimnet2mult.config.merge import DEFAULTS, flatten, read_yaml
from support.legacy_keys import KEYS, OPTIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "moving-over.md").read_text(encoding="utf-8")


def test_the_table_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "migration_table.py"))["page"]
    assert page(PAGE) == PAGE, "run python tools/migration_table.py"


def test_every_current_key_on_the_page_exists() -> None:
    ours = {name for name, _ in flatten(read_yaml(DEFAULTS))}
    named = set(re.findall(r"`((?:data|trainer|checkpoint|log_frequency)\.\w+(?:\.\w+)*)(?:`|:|=)", PAGE))
    old = {*KEYS, "log_frequency.train", "data.sae.energy.file", "data.sae.energy.files.0"}
    assert named - old <= ours


def test_every_option_of_the_original_is_accepted() -> None:
    commands = {"train.cli": train, "train.calc_sae": calc_sae}
    for module, command in commands.items():
        ours = {name for parameter in command.params for name in parameter.opts}
        assert set(OPTIONS[module]) <= ours
