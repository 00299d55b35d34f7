"""Random changes of settings in YAML, for tests that no file gives anything but an error in plain words."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from aimnet2mult.config import trust
from aimnet2mult.config.merge import DEFAULTS
from aimnet2mult.config.schema import load
from aimnet2mult.errors import USER_ERRORS, Problems
from aimnet2mult.models.definition import DEFAULT, read_definition
from support.legacy_settings import FILES
from telemetry import Settings

SETTINGS = [DEFAULTS, *(FILES / f"{name}.yaml" for name in ("plateau", "cosine", "iterations"))]
MODELS = [DEFAULT, FILES / "model.yaml"]

ODD = [
    *("null", "~", "1e999999", "1" * 400, "0x" + "f" * 30, "-1", "0", "1.5", "18446744073709551616", ".nan", "-.inf"),
    *("[]", "{}", "[[[]]]", "{a: {b: c}}", "[1, a, null]", "{1: 2}", "{null: 1}", "- a\n- b", "? x", "|", "\t", "1:30"),
    *("''", "'\\0'", '"\\0"', '"\\u2028"', '"a\\n"', '"\\e[31m"', "2026-01-02", "true", "é" * 200, "x" * 5000, "!x y"),
    *("!!binary aGk=", "!!python/name:os.system x", "&a [*a]", "*nope", "<<", "{<<: {a: 1}}", "{<<: 3}", "%", "\r"),
    *("${run_name}", "${", "${oc.env:HOME}", "${oc.env:X}", "${a.b}", "???", "{{ 7*7 }}", "os.system", "a.yaml"),
    *("torch.hub.load", "__main__.x", "a..b", ".", "..", "/", "~/x", "/dev/stdin", "\x85", "\0", "\ufeff", "\ud800"),
]
"""Values that a parser or a check may not expect."""


def read_settings(path: Path) -> None:
    """Check a file of settings as far as the trainer does without torch."""
    problems = Problems()
    config = load([path], [f"data.fidelity_datasets.0={path.parent / 'a.h5'}"], problems=problems)
    with problems.collect():
        Settings.parse({key: value for key, value in config.telemetry.items() if key != "units"})
    trust.check_settings(config, [path], [], problems)
    problems.raise_any()
    config.to_dict()


def read_model(path: Path) -> None:
    """Check a model definition as far as the trainer does without torch."""
    problems = Problems()
    trust.check_definition(read_definition(path), path, problems)
    problems.raise_any()


KINDS = {"settings": (SETTINGS, read_settings), "model": (MODELS, read_model)}


def try_mutations(kind: str, folder: Path, *, seed: int, count: int) -> int:
    """Read ``count`` changed files of a kind, and return how many are valid; an error must have plain lines.

    Any other exception than that of a user's mistake is propagated; the file is then in the folder.
    """
    originals, read = KINDS[kind]
    (folder / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    valid = 0
    for text in _mutations([path.read_text(encoding="utf-8") for path in originals], seed, count):
        (folder / "changed.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            read(folder / "changed.yaml")
            valid += 1
        except USER_ERRORS as error:
            lines = str(error).split("\n")
            assert all(line.strip() and line.isprintable() for line in lines), lines
    return valid


def _mutations(texts: list[str], seed: int, count: int) -> Iterator[str]:
    """Yield ``count`` texts, each one of ``texts`` with one to four random changes."""
    rng = random.Random(seed)
    for _ in range(count):
        text = rng.choice(texts)
        for _ in range(rng.choice([1, 1, 2, 4])):
            text = _change(text, rng)
        yield text


def _change(text: str, rng: random.Random) -> str:
    lines, odd = text.split("\n"), rng.choice(ODD)
    at = rng.randrange(len(lines))
    key, colon, value = lines[at].partition(":")
    how = rng.randrange(8)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(at, rng.choice(lines))
    elif how == 2:
        lines[at] = " " * rng.randrange(6) + lines[at].strip()
    elif how == 3 and colon:
        lines[at] = f"{key[: len(key) - len(key.lstrip())]}{odd}:{value}"
    elif how == 4:
        position = rng.randrange(len(text) + 1)
        return text[:position] + odd + text[position + rng.randrange(3) :]
    elif colon:
        lines[at] = f"{key}: {odd}"
    return "\n".join(lines)
