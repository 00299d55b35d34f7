"""``telemetry show``: output in the terminal, following a run, and PNG files."""

from __future__ import annotations

import math
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.telemetry_fakes import DEAD, beat
from support.written_runs import WrittenRun, add_training
from telemetry import Metric
from telemetry.cli import main
from telemetry.cli.show import follow_runs
from telemetry.display.text_width import width_of
from telemetry.reading.run import RunReader
from telemetry.run_folder.process_identity import current_process


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


@pytest.fixture
def plotext() -> None:
    pytest.importorskip("plotext")


@pytest.fixture
def matplotlib() -> None:
    pytest.importorskip("matplotlib")


def show(*args: object) -> Result:
    return CliRunner().invoke(main, ["show", *map(str, args)])


def shown(*args: object) -> list[str]:
    result = show(*args)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout.splitlines()


@pytest.mark.usefixtures("plotext")
class TestTerminalOutput:
    def test_the_status_the_charts_and_the_current_values_are_shown(self, run: WrittenRun) -> None:
        add_training(run)
        run.close()
        lines = shown(run.folder)
        assert lines[0] == "water (water), attempt 1: finished; last point at iteration 2000"
        text = "\n".join(lines)
        assert "loss, log scale, lower is better" in text
        assert "RMSE of energy [kcal/mol], lower is better" in text
        assert [line.split() for line in lines[-8:-3]] == [
            ["loss", "E_rmse", "lr"],
            ["kcal/mol"],
            [".", "train", "at", "2000", f"{math.exp(-2000 / 200):.4g}", "3", "0.1"],
            ["#", "val", "at", "2000", f"{math.exp(-2000 / 300):.4g}", "6"],
            ["lowest", f"{math.exp(-2000 / 300):.4g}", "6"],
        ]
        assert lines[-1] == "not shown: gfn1 (--all shows everything)"

    def test_with_all_every_chart_is_shown(self, run: WrittenRun) -> None:
        add_training(run)
        text = "\n".join(shown(run.folder, "--all"))
        for title in ("RMSE of energy, gfn1 [kcal/mol]", "learning rate", "\noverall\n", "\ngfn1\n"):
            assert title in text
        assert "not shown" not in text

    @pytest.mark.parametrize("name", ["水" * 60, "a run with a very long name " * 4, "x" * 200])
    @pytest.mark.parametrize("width", [40, 80])
    def test_no_line_is_wider_than_the_terminal(self, tmp_path: Path, name: str, width: int) -> None:
        units = {f"val/{'E' * n}_rmse": Metric(unit="kcal/mol/Å", label="誤差" * n) for n in range(1, 30, 4)}
        runs = [WrittenRun(tmp_path / f"run{n}", name=f"{name}{n}", metrics=units) for n in range(3)]
        for run in runs:
            for metric in units:
                run.point(metric, 1_000_000, 1234.5678)
            run.alert(1_000_000, "spike", text="誤差" * 100)
        lines = shown(*(run.folder for run in runs), "--all", "--width", width)
        assert max(map(width_of, lines)) <= width
        # The ends tell the runs apart.
        legend = [line.partition(" at ")[0] for line in lines if line.startswith(("o ", "+ ", "x "))]
        assert {label.removesuffix(" val")[-1] for label in legend} == {
            "0",
            "1",
            "2",
        }

    def test_without_a_terminal_there_are_no_colors_and_80_columns(self, run: WrittenRun) -> None:
        add_training(run)
        lines = shown(run.folder)
        assert "\x1b" not in "".join(lines)
        assert max(map(len, lines[1:])) == 80

    def test_the_width_and_height_can_be_set(self, run: WrittenRun) -> None:
        add_training(run)
        low, high = (shown(run.folder, "--metric", "lr", "--width", 30, "--height", n) for n in (5, 20))
        assert max(len(line) for line in low[1:]) == 30
        assert len(high) - len(low) == 15

    def test_several_runs_share_the_charts(self, run: WrittenRun, tmp_path: Path) -> None:
        other = WrittenRun(tmp_path / "ice")
        add_training(run)
        add_training(other, 2.0)
        lines = shown(run.folder, other.folder, "--metric", "train/loss")
        assert [line.partition(",")[0] for line in lines if "attempt 1" in line] == ["water (water)", "ice (ice)"]

    def test_an_unknown_metric_is_an_error_that_suggests_a_similar_one(self, run: WrittenRun) -> None:
        result = show(run.folder, "--metric", "E_rms")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "error: no metric 'E_rms'. Did you mean 'E_rmse'?\n"

    def test_text_in_a_journal_cannot_control_the_terminal(self, tmp_path: Path) -> None:
        nasty = "\x1b[2J\x9b31m\x07\r{}"
        run = WrittenRun(tmp_path / "run", name=nasty, metrics={f"a{nasty}/b{nasty}": Metric(unit=nasty, label=nasty)})
        run.points(f"a{nasty}", 1, {f"b{nasty}": 1.0, f"undeclared{nasty}": math.nan})
        run.alert(1, nasty, text=nasty)
        for args in ([], ["--metric", "*"], [run.folder]):
            result = show(run.folder, *args)
            assert result.exit_code == 0
            assert not set(result.stdout) & set("\x1b\x9b\x07\r")
        result = show(run.folder, "--metric", "nothing")
        assert result.exit_code == 2
        assert not set(result.stderr) & set("\x1b\x9b\x07\r")

    def test_the_readable_part_of_a_damaged_run_is_shown(self, run: WrittenRun, tmp_path: Path) -> None:
        add_training(run)
        run.raw(b"\xff\xfe damage\n" * 3)
        result = show(run.folder)
        assert "\n. train at 2000" in result.stdout
        assert result.stderr == "skipped in the journal: 3 damaged\n"
        both = show(run.folder, WrittenRun(tmp_path / "ice").folder)
        assert both.stderr == "skipped in the journal of water: 3 damaged\n"

    def test_no_file_is_written_or_changed(self, run: WrittenRun, tmp_path: Path) -> None:
        add_training(run)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        shown(run.folder)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    def test_a_terminal_without_unicode_gets_replacement_characters(self, run: WrittenRun) -> None:
        add_training(run)
        done = subprocess.run(
            [sys.executable, "-m", "telemetry", "show", str(run.folder)],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert b"RMSE of energy" in done.stdout


@pytest.mark.parametrize("module", [None, types.ModuleType("plotext")], ids=["missing", "other version"])
def test_without_a_supported_plotext_the_error_contains_the_install_command(
    run: WrittenRun, monkeypatch: pytest.MonkeyPatch, module: types.ModuleType | None
) -> None:
    add_training(run)
    monkeypatch.setitem(sys.modules, "plotext", module)
    result = show(run.folder)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'aimnet2mult[plot]'" in result.stderr


def test_without_matplotlib_the_error_contains_the_install_command(
    run: WrittenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_training(run)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    result = show(run.folder, "--png", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "pip install 'aimnet2mult[plot]'" in result.stderr
    assert not (tmp_path / "x.png").exists()


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = show(tmp_path / "empty")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: no run in {tmp_path / 'empty'}")


class TestFollow:
    def test_it_draws_after_each_new_record_until_the_run_ends(self, run: WrittenRun) -> None:
        beat(run.folder, current_process())
        drawn: list[int] = []
        steps: list[Callable[[], None]] = [
            lambda: None,
            lambda: run.point("train/loss", 1, 1.0),
            lambda: None,
            lambda: run.point("train/loss", 2, 1.0),
            run.close,
        ]
        reader = RunReader(run.folder)

        def draw() -> None:
            drawn.append(sum(len(curve) for curve in reader.run().curves.values()))

        follow_runs([reader], draw, lambda _: steps.pop(0)())
        assert drawn == [0, 1, 2, 2]
        assert steps == []

    def test_it_ends_when_the_trainer_dies(self, run: WrittenRun) -> None:
        beat(run.folder, current_process())
        reader = RunReader(run.folder)
        follow_runs([reader], lambda: None, lambda _: beat(run.folder, DEAD))
        assert reader.status == "killed"

    def test_it_ends_when_all_of_several_runs_have_ended(self, run: WrittenRun, tmp_path: Path) -> None:
        other = WrittenRun(tmp_path / "ice")
        for each in (run, other):
            beat(each.folder, current_process())
        ends = [run, other]
        readers = [RunReader(run.folder), RunReader(other.folder)]
        follow_runs(readers, lambda: None, lambda _: ends.pop(0).close())
        assert ends == []

    @pytest.mark.usefixtures("plotext")
    def test_an_ended_run_is_drawn_once(self, run: WrittenRun) -> None:
        add_training(run)
        run.close()
        assert sum("loss, log scale" in line for line in shown(run.folder, "--follow")) == 1

    @pytest.mark.usefixtures("plotext")
    def test_ctrl_c_ends_it_without_a_message(self, run: WrittenRun) -> None:
        add_training(run)
        beat(run.folder, current_process())
        args = [sys.executable, "-m", "telemetry", "show", str(run.folder), "--follow", "--metric", "lr"]
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("o train"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=20)
        assert (process.returncode, stderr) == (0, "")

    @pytest.mark.usefixtures("plotext")
    @pytest.mark.parametrize("rows", [18, 30, 40])
    def test_in_a_terminal_it_redraws_in_place_in_color_and_within_the_window(self, run: WrittenRun, rows: int) -> None:
        add_training(run)
        beat(run.folder, current_process())
        with Terminal(rows=rows, columns=80) as terminal:
            terminal.start("show", str(run.folder), "--follow")
            first = terminal.read_until("\x1b[J")
            run.point("train/lr", 2100, 0.5)
            run.close()
            second = terminal.read_until("finished", "\x1b[J")
            assert terminal.wait() == 0
        for text in (first, second):
            assert text.count("\x1b[H") == 1
            assert "\x1b[90m─ train" in text
            assert text.count("\n") < rows
        # Apart from colors, only cursor home and the codes that clear the rest of a line or of the screen.
        codes = re.findall(r"\x1b\[([^a-zA-Z]*[a-zA-Z])", first + second)
        assert {code for code in codes if not code.endswith("m")} <= {"H", "K", "J"}


class Terminal:
    """A pseudo-terminal of a given size that runs one command."""

    def __init__(self, *, rows: int, columns: int) -> None:
        import fcntl
        import termios

        self._primary, self._secondary = pty.openpty()
        fcntl.ioctl(self._secondary, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._text = ""

    def start(self, *args: str) -> None:
        env = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS", "LINES"}} | {"TERM": "xterm"}
        command = [sys.executable, "-m", "telemetry", *args]
        stream = self._secondary
        self._process = subprocess.Popen(command, stdin=stream, stdout=stream, stderr=stream, env=env)

    def read_until(self, *words: str, timeout: float = 30.0) -> str:
        """Return the output up to the point where it contains all words."""
        deadline = time.monotonic() + timeout
        while not all(word in self._text for word in words):
            assert time.monotonic() < deadline, self._text
            if select.select([self._primary], [], [], 0.1)[0]:
                self._text += os.read(self._primary, 1 << 16).decode(errors="replace")
        text, self._text = self._text, ""
        return text

    def wait(self) -> int:
        return self._process.wait(20)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._primary)
        os.close(self._secondary)


class TestPng:
    @pytest.mark.usefixtures("matplotlib")
    def test_a_png_is_written(self, run: WrittenRun, tmp_path: Path) -> None:
        add_training(run)
        out = tmp_path / "water.png"
        assert shown(run.folder, "--png", out) == [f"wrote {out}"]
        assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    def test_a_run_without_points_is_an_error(self, run: WrittenRun, tmp_path: Path) -> None:
        result = show(run.folder, "--png", tmp_path / "x.png")
        assert result.exit_code == 2
        assert "no points to draw yet" in result.stderr
        assert not (tmp_path / "x.png").exists()

    @pytest.mark.usefixtures("matplotlib")
    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("run/x.png", "is inside the run folder"),
            ("no/such/x.png", "cannot be written (No such file or directory)"),
        ],
    )
    def test_a_file_inside_the_run_folder_or_in_a_missing_folder_is_an_error(
        self, tmp_path: Path, out: str, message: str
    ) -> None:
        run = WrittenRun(tmp_path / "run")
        add_training(run)
        result = show(run.folder, "--png", tmp_path / out)
        assert result.exit_code == 2
        assert message in result.stderr

    def test_it_cannot_be_combined_with_follow(self, run: WrittenRun, tmp_path: Path) -> None:
        result = show(run.folder, "--png", tmp_path / "x.png", "--follow")
        assert result.exit_code == 2
        assert "--png cannot be combined with --follow" in result.stderr
