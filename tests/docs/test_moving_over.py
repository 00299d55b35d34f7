"""The migration page lists every key that is translated or has no effect."""

import re
from pathlib import Path

from aimnet2mult.config.legacy import settings as legacy
from aimnet2mult.config.merge import DEFAULTS, flatten, read_yaml

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "moving-over.md").read_text(encoding="utf-8")


def test_every_translated_or_ineffective_key_is_on_the_page() -> None:
    keys = [*legacy.RENAMED.values(), *legacy.NO_EFFECT]
    missing = [key for key in keys if key not in PAGE and not key.startswith("data.samplers.")]
    assert missing == []


def test_every_new_key_on_the_page_exists() -> None:
    ours = {name for name, _ in flatten(read_yaml(DEFAULTS))}
    named = set(re.findall(r"`((?:trainer|checkpoint|log_frequency)\.\w+)(?:`|:)", PAGE))
    old = {"checkpoint.save_best", "checkpoint.dirname", "checkpoint.filename_prefix", "log_frequency.train"}
    assert named - old
    assert named - old <= ours
