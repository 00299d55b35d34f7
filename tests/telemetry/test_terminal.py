"""Nothing that is printed can control the terminal or contains credentials."""

from __future__ import annotations

import ast
import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import telemetry
from support.cli_runs import telemetry as run_telemetry
from telemetry.printable import MAX_LINE_LENGTH, csv_text, printable, shorten
from telemetry.terminal import print_data, print_line, print_lines, print_styled

HOSTILE = "\x1b[2J\x1b]52;c;cm0=\x07\x1b]8;;http://x\x1b\\link\r\x08\x9b31m\u202e\u200b\u2028\ud800"
ROOT = Path(telemetry.__file__).parents[1]


def test_control_characters_become_spaces_and_letters_stay() -> None:
    assert printable(HOSTILE).isprintable()
    assert len(printable(HOSTILE)) == len(HOSTILE)
    ordinary = "µ Å kcal/mol, ΔE·10⁹ “quoted” 分子 …"
    assert printable(ordinary) == ordinary


def test_long_texts_end_with_an_ellipsis() -> None:
    assert shorten("abcd", 4) == "abcd"
    assert shorten("abcde", 4) == "abc…"


def test_printed_lines_are_safe_and_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(HOSTILE + "x" * 1_000_000)
    print_line("to https://me:hunter2@host", err=True)
    print_lines(f"first {HOSTILE}\nsecond", err=False)
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in out.split("\n"))
    assert [len(line) for line in out.split("\n")[:1]] == [MAX_LINE_LENGTH]
    assert out.endswith("\nsecond\n")
    assert err == "to https://***@host\n"


def test_own_colors_and_data_for_programs_stay(capsys: pytest.CaptureFixture[str]) -> None:
    print_styled("\x1b[31mred\x1b[0m")
    print_data('{"token": "' + "x" * 3000 + '"}')
    # click removes colors if the output is not a terminal.
    assert capsys.readouterr().out == 'red\n{"token": "' + "x" * 3000 + '"}\n'


def test_characters_that_the_terminal_cannot_encode_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    print_line("5 µs")
    assert raw.getvalue() == b"5 ? s\n" or raw.getvalue() == b"5 ?s\n"


@pytest.mark.parametrize("args", [["status", "{}"], ["status", "a", "{}"], ["--{}"], ["export", "--format={}", "a"]])
def test_usage_errors_quote_arguments_printably(args: list[str]) -> None:
    result = run_telemetry(*(arg.format(HOSTILE[:-1]) for arg in args))
    assert result.exit_code == 2
    assert all(line.isprintable() for line in result.output.split("\n")), result.output


SCRIPT = """
import logging, sys, threading, warnings
from telemetry.terminal import protect_terminal
protect_terminal()
text = "\\x1b]52;c;x\\x07 https://me:hunter2@host \\u202e"
warnings.warn(text)
logging.getLogger("other").warning("%s", text)
def fail(): raise ValueError(text)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_warnings_log_messages_and_tracebacks_are_filtered() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("https://***@host") == 4, done.stderr
    assert done.stderr.count("Traceback") == 2
    assert "hunter2@" not in done.stderr.replace('"\\x1b]52;c;x\\x07 https://me:hunter2@host', "")
    assert all(line.isprintable() for line in done.stderr.split("\n"))


def test_log_messages_of_telemetry_are_filtered(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("telemetry").warning("at %s: %s", "https://me:hunter2@host", HOSTILE)
    assert "https://***@host" in caplog.messages[0]
    assert caplog.messages[0].isprintable()


def test_tracebacks_in_log_messages_are_filtered(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(f"https://me:hunter2@host {HOSTILE}")  # noqa: TRY301
    except ValueError:
        logging.getLogger("telemetry").exception("failed")
    assert "ValueError: https://***@host" in caplog.text
    assert all(line.isprintable() for line in caplog.text.split("\n"))


def test_a_malformed_log_message_does_not_fail_its_caller(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("telemetry").warning("%d of %s", "text")  # noqa: PLE1206
    assert caplog.messages == ["%d of %s"]


def test_all_output_passes_through_the_terminal_module() -> None:
    """Nothing else calls print on a standard stream, click.echo, or a write method of a standard stream."""
    allowed = {
        "telemetry/terminal.py": 1,
        # Lines of a log, which LogStream filters, and the values of an export, which is a file if it is not printed.
        "telemetry/delivery/worker_main.py": 1,
        "telemetry/cli/export.py": 1,
    }
    found: dict[str, int] = {}
    for package in ("telemetry", "sinks", "aimnet2mult"):
        for path in sorted((ROOT / package).rglob("*.py")):
            calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
            if count := sum(map(_prints, calls)):
                found[str(path.relative_to(ROOT))] = count
    assert found == allowed


def _prints(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name == "print":
        streams = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "file"]
        return not streams or streams[0] in {"sys.stdout", "sys.stderr"}
    streams = ("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__")
    return name in {"click.echo", "click.secho", "click.echo_via_pager", "traceback.print_exc"} or (
        name.startswith(streams) and name.endswith((".write", ".writelines"))
    )


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", "\rx"])
def test_cells_that_a_spreadsheet_would_evaluate_are_neutralized(text: str) -> None:
    assert csv_text(text) == f"'{text}"
    assert csv_text(f"a{text}") == f"a{text}"
