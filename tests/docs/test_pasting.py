"""Commands on the first pages work when they are pasted into bash or zsh."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIRST = [ROOT / "README.md", ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "tutorial").glob("*.md"))]
OTHERS = sorted((ROOT / "docs" / "how-to").glob("*.md"))
PROGRAMS = ("aimnet2mult", "telemetry", "pip", "make", "torchrun", "wandb", "mlflow", "tensorboard")
SPECIAL = re.compile(r"[][*?{}()<>|&;$!#…]")
"""Characters that a shell expands, or that stand for something else; zsh takes ``#`` literally at the prompt."""
PRINT = {"bash": "printf '%s\\n'", "zsh": "print -rl --"}


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(PROGRAMS)]


def unquoted(line: str) -> str:
    return re.sub(r"'[^']*'", "", line)


def test_commands_are_found() -> None:
    assert all(commands(page) for page in FIRST)


@pytest.mark.parametrize("page", FIRST, ids=lambda page: page.name)
def test_no_command_has_unquoted_special_characters_comments_or_placeholders(page: Path) -> None:
    assert [line for line in commands(page) if SPECIAL.search(unquoted(line))] == []


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.name)
def test_lists_and_patterns_are_quoted_everywhere(page: Path) -> None:
    lines = [line.partition("  #")[0] for line in commands(page)]
    assert [line for line in lines if re.search(r"[][*?{}]", unquoted(line))] == []


@pytest.mark.parametrize("shell", PRINT)
def test_the_shell_passes_the_words_as_they_are_written(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    lines = [line for page in FIRST for line in commands(page)]
    script = "\n".join(f"{PRINT[shell]} {line}" for line in lines)
    no_settings = {"bash": "--norc", "zsh": "-f"}[shell]
    done = subprocess.run(
        [shell, no_settings], input=script, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [word for line in lines for word in shlex.split(line)]
