"""``telemetry show``: curves in the terminal and as a figure."""

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
from support.written_runs import METRICS, WrittenRun
from telemetry import Metric, MetricNotFound, SettingError, read_run
from telemetry.cli import main
from telemetry.cli.show import follow_runs
from telemetry.display.plot_model import Plot, plots, run_labels, thinned
from telemetry.display.png import MOST, draw_figure
from telemetry.reading.run import RunReader
from telemetry.reading.selection import choose
from telemetry.run_folder.process_identity import current_process


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


@pytest.fixture
def plotext() -> None:
    pytest.importorskip("plotext")


def show(*args: object) -> Result:
    return CliRunner().invoke(main, ["show", *map(str, args)])


def shown(*args: object) -> list[str]:
    result = show(*args)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout.splitlines()


def fill(run: WrittenRun, factor: float = 1.0) -> None:
    for step in range(100, 2001, 100):
        run.points("train", step, {"loss": factor * math.exp(-step / 200), "E_rmse": 5 - step / 1000, "lr": 0.1})
        if not step % 500:
            run.points("val", step, {"loss": factor * math.exp(-step / 300), "E_rmse": 6.0, "gfn1/E_rmse": 7.0})


class TestChoice:
    NAMES = tuple(METRICS)

    @pytest.mark.parametrize(
        ("patterns", "chosen"),
        [
            ([], list(NAMES)),
            (["val/E_rmse"], ["val/E_rmse"]),
            (["E_rmse"], ["train/E_rmse", "val/E_rmse"]),
            (["val/*"], ["val/loss", "val/E_rmse", "val/gfn1/E_rmse"]),
            (["gfn1/*", "lr"], ["train/lr", "val/gfn1/E_rmse"]),
            (["*E_rmse"], ["train/E_rmse", "val/E_rmse", "val/gfn1/E_rmse"]),
        ],
    )
    def test_metrics_are_named_in_full_within_their_stream_or_by_a_pattern(
        self, patterns: list[str], chosen: list[str]
    ) -> None:
        assert choose(patterns, self.NAMES) == chosen

    def test_a_name_with_brackets_is_found_by_itself(self) -> None:
        assert choose(["x/T [K]"], ["x/T [K]", "x/T K"]) == ["x/T [K]"]

    def test_what_fits_nothing_is_an_error_with_the_close_names(self) -> None:
        with pytest.raises(MetricNotFound, match=r"no metric 'E_rms'; did you mean 'E_rmse'"):
            choose(["loss", "E_rms"], self.NAMES)
        with pytest.raises(MetricNotFound, match=r"no metric 'qqq'; there are train/loss, train/E_rmse"):
            choose(["qqq"], self.NAMES)
        with pytest.raises(MetricNotFound, match="the run declares none"):
            choose(["x"], [])


class TestPlots:
    def test_what_the_streams_call_by_one_name_shares_a_plot(self, run: WrittenRun) -> None:
        fill(run)
        found = plots([read_run(run.folder)])
        assert [(plot.heading, plot.title, [each.label for each in plot.series]) for plot in found] == [
            ("overall", "loss", ["train", "val"]),
            ("overall", "RMSE of energy [kcal/mol]", ["train", "val"]),
            ("overall", "learning rate", ["train"]),
            ("gfn1", "RMSE of energy, gfn1 [kcal/mol]", ["val"]),
        ]

    def test_several_runs_share_it_too_unless_their_units_differ(self, run: WrittenRun, tmp_path: Path) -> None:
        other = WrittenRun(
            tmp_path / "ice", metrics=METRICS | {"val/E_rmse": Metric(unit="eV", label="RMSE of energy")}
        )
        fill(run)
        fill(other)
        found = plots([read_run(run.folder), read_run(other.folder)], ["E_rmse"])
        assert [(plot.title, [each.label for each in plot.series]) for plot in found] == [
            ("RMSE of energy [kcal/mol]", ["water train", "water val", "ice train"]),
            ("RMSE of energy [eV]", ["ice val"]),
        ]

    def test_runs_of_one_name_are_told_apart(self, tmp_path: Path) -> None:
        runs = [read_run(WrittenRun(tmp_path / folder, name="same").folder) for folder in ("a", "b")]
        assert run_labels(runs) == ["a", "b"]
        copies = [read_run(WrittenRun(tmp_path / f / "x", name="same").folder) for f in ("c", "d")]
        assert run_labels(copies) == [str(tmp_path / "c" / "x"), str(tmp_path / "d" / "x")]
        assert len(set(run_labels([copies[0], copies[0]]))) == 2

    def test_the_last_iterations_are_those_before_the_end_of_each_run(self, run: WrittenRun) -> None:
        fill(run)
        (plot,) = plots([read_run(run.folder)], ["loss"], last=600)
        assert [each.curve.steps.tolist() for each in plot.series] == [[*range(1500, 2001, 100)], [1500, 2000]]
        assert plots([read_run(run.folder)], ["val/loss"], last=1)[0].series[0].curve.steps.tolist() == [2000]

    def test_alerts_stand_with_the_curves_that_they_are_about(self, run: WrittenRun) -> None:
        fill(run)
        run.alert(500, "spike", metric="train/loss")
        run.alert(600, "silence")
        run.alert(700, "over", metric="train/loss", recovered=True)
        found = {plot.title: [alert.title for alert in plot.alerts] for plot in plots([read_run(run.folder)])}
        assert found["loss"] == ["spike", "silence"]
        assert found["learning rate"] == ["silence"]

    @pytest.mark.parametrize(
        ("values", "is_log"),
        [
            ([math.exp(-i / 5) for i in range(50)], True),
            ([*range(1, 100)], False),
            ([1.0, 1.1, 1.2], False),
            ([-1.0, 0.01, 0.1, 100.0], False),
            ([0.0, 0.01, 0.1, 100.0], False),
            ([math.nan, math.inf], False),
            ([1e-5, 2e-5, 3e-5, math.nan, math.inf, 1.0], True),
            ([5e-324, 1.7e308], False),
        ],
    )
    def test_the_scale_is_logarithmic_where_most_values_would_lie_at_the_bottom(
        self, run: WrittenRun, values: list[float], is_log: bool
    ) -> None:
        for step, value in enumerate(values):
            run.point("train/loss", step, value)
        (plot,) = plots([read_run(run.folder)])
        assert plot.is_log == is_log

    def test_a_thinned_curve_keeps_the_extremes_and_the_last_point(self, run: WrittenRun) -> None:
        values = [math.sin(i / 7) for i in range(5000)]
        values[1234], values[3456], values[4000] = 9.0, -9.0, math.nan
        for step, value in enumerate(values):
            run.point("train/loss", step, value)
        steps, kept = thinned(read_run(run.folder).curves["train/loss"], 50)
        assert len(steps) <= 101
        assert (kept.max(), kept.min(), steps[-1]) == (9.0, -9.0, 4999)
        assert all(values[step] == value for step, value in zip(steps, kept, strict=True))


@pytest.mark.usefixtures("plotext")
class TestTerminal:
    def test_a_run_is_shown_with_its_state_its_curves_and_where_they_have_got_to(self, run: WrittenRun) -> None:
        fill(run)
        run.close()
        lines = shown(run.folder)
        assert lines[0] == "water (water), attempt 1: finished; last point at iteration 2000"
        text = "\n".join(lines)
        assert [line.strip() for line in lines if "[" in line or "learning" in line] == [
            "RMSE of energy [kcal/mol]",
            "learning rate",
        ]
        assert "loss, logarithmic" in text
        assert "* train: last 3 at 2000, lowest 3 at 2000" in lines
        assert f"o val: last {math.exp(-2000 / 300):.6g} at 2000, lowest {math.exp(-2000 / 300):.6g} at 2000" in lines
        assert lines[-1] == "left out: gfn1; --metric '*' shows all"

    def test_without_a_terminal_there_are_no_colours_and_80_columns(self, run: WrittenRun) -> None:
        fill(run)
        lines = shown(run.folder)
        assert "\x1b" not in "".join(lines)
        assert max(map(len, lines[1:])) == 80

    @pytest.mark.parametrize("width", [30, 100, 150, 230])
    def test_the_width_may_be_given_and_wide_terminals_have_charts_beside_each_other(
        self, run: WrittenRun, width: int
    ) -> None:
        fill(run)
        lines = shown(run.folder, "--width", width)
        assert max(len(line) for line in lines[1:-1]) <= width
        assert max(line.count("┌") for line in lines) == max(1, width // 74)

    def test_a_curve_goes_where_its_values_go(self, run: WrittenRun) -> None:
        for step in range(11):
            run.point("train/loss", step, float(step))
            run.point("val/loss", step, 10.0 - step)
        lines = [line.replace("┤", "│") for line in shown(run.folder, "--height", 12) if "┤" in line or "│" in line]
        inner = [line.partition("│")[2].rpartition("│")[0] for line in lines]
        assert inner[0].strip().startswith("o")
        assert inner[0].strip().endswith("*")
        assert inner[-1].strip().startswith("*")
        assert inner[-1].strip().endswith("o")

    def test_what_is_not_finite_is_left_out_and_counted(self, run: WrittenRun) -> None:
        for step, value in enumerate([1.0, math.nan, 2.0, math.inf]):
            run.point("train/loss", step, value)
        run.point("val/loss", 1, math.nan)
        lines = shown(run.folder)
        assert "* train: last 2 at 2, lowest 1 at 0" in lines
        assert "o val: no finite value" in lines
        assert "train: 2 of 4 not finite, the last inf at 3" in lines

    def test_curves_without_any_finite_value_are_said_to_have_none(self, run: WrittenRun) -> None:
        run.point("train/loss", 1, math.nan)
        lines = shown(run.folder)
        assert "* train: no finite value" in lines
        assert not any("┌" in line for line in lines)

    def test_several_runs_share_the_charts(self, run: WrittenRun, tmp_path: Path) -> None:
        other = WrittenRun(tmp_path / "ice")
        fill(run)
        fill(other, 2.0)
        lines = shown(run.folder, other.folder, "--metric", "train/loss")
        assert lines[0].startswith("water (water)")
        assert lines[1].startswith("ice (ice)")
        legend = [line for line in lines if line.startswith(("* ", "o "))]
        assert [line.partition(":")[0] for line in legend] == ["* water train", "o ice train"]

    def test_alerts_are_listed_and_marked(self, run: WrittenRun) -> None:
        fill(run)
        run.alert(500, "a spike", text="3 times the median", level="error")
        run.alert(600, "over", recovered=True)
        lines = shown(run.folder, "--metric", "lr")
        assert lines[-2:] == ["! iteration 500, error: a spike: 3 times the median", "  iteration 600, warning: over"]
        assert sum(line.count("!") for line in lines[1:-2]) == 1

    def test_a_run_without_points_says_so(self, run: WrittenRun) -> None:
        assert shown(run.folder)[1:] == ["no points yet"]
        run.point("train/loss", 1, 1.0)
        assert shown(run.folder, "--metric", "val/*")[1:] == ["no points of these metrics yet"]

    def test_an_unknown_metric_is_an_error_with_the_close_names(self, run: WrittenRun) -> None:
        result = show(run.folder, "--metric", "E_rms")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: no metric 'E_rms'; did you mean 'E_rmse'")

    def test_what_a_journal_says_does_not_steer_the_terminal(self, tmp_path: Path) -> None:
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

    @pytest.mark.parametrize("height", [5, 14])
    def test_extreme_numbers_are_drawn(self, run: WrittenRun, height: int) -> None:
        largest, least = 1.7976931348623157e308, 5e-324
        for step in range(20):
            run.points(
                "train",
                step,
                {"loss": (-1) ** step * largest, "E_rmse": least * (step % 2), "lr": largest / (step + 1)},
            )
        run.point("val/loss", (1 << 62) // 1001, 1.0)
        run.point("val/E_rmse", 0, 1e-310)
        run.points("big", 3, {"x": 1e300})
        lines = shown(run.folder, "--metric", "*", "--height", height)
        assert sum("┌" in line for line in lines) == 4

    def test_a_damaged_run_is_shown_as_far_as_it_can_be_read(self, run: WrittenRun, tmp_path: Path) -> None:
        fill(run)
        run.raw(b"\xff\xfe damage\n" * 3)
        result = show(run.folder)
        assert "\n* train: last 3 at 2000" in result.stdout
        assert result.stderr == "passed over in the journal: 3 damaged\n"
        both = show(run.folder, WrittenRun(tmp_path / "ice").folder)
        assert both.stderr == "passed over in the journal of water: 3 damaged\n"

    def test_looking_writes_nothing(self, run: WrittenRun, tmp_path: Path) -> None:
        fill(run)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        shown(run.folder)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    def test_a_terminal_without_unicode_is_no_hindrance(self, run: WrittenRun) -> None:
        fill(run)
        done = subprocess.run(
            [sys.executable, "-m", "telemetry", "show", str(run.folder)],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert b"RMSE of energy" in done.stdout


@pytest.mark.parametrize("there", [None, types.ModuleType("plotext")])
def test_without_plotext_or_with_another_than_ours_the_error_says_how_to_install_it(
    run: WrittenRun, monkeypatch: pytest.MonkeyPatch, there: types.ModuleType | None
) -> None:
    fill(run)
    monkeypatch.setitem(sys.modules, "plotext", there)
    result = show(run.folder)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'aimnet2mult[plot]'" in result.stderr


def test_without_matplotlib_the_error_says_how_to_install_it(
    run: WrittenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(run)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    result = show(run.folder, "--png", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "pip install 'aimnet2mult[plot]'" in result.stderr
    assert not (tmp_path / "x.png").exists()


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    result = show(tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: no run in {tmp_path}")


class TestFollow:
    def test_it_draws_when_something_has_come_until_the_run_ends(self, run: WrittenRun) -> None:
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

    def test_a_run_whose_trainer_dies_has_ended(self, run: WrittenRun) -> None:
        beat(run.folder, current_process())
        reader = RunReader(run.folder)
        follow_runs([reader], lambda: None, lambda _: beat(run.folder, DEAD))
        assert reader.status == "killed"

    def test_of_several_runs_it_waits_for_all(self, run: WrittenRun, tmp_path: Path) -> None:
        other = WrittenRun(tmp_path / "ice")
        for each in (run, other):
            beat(each.folder, current_process())
        ends = [run, other]
        readers = [RunReader(run.folder), RunReader(other.folder)]
        follow_runs(readers, lambda: None, lambda _: ends.pop(0).close())
        assert ends == []

    @pytest.mark.usefixtures("plotext")
    def test_a_run_that_has_ended_is_drawn_once(self, run: WrittenRun) -> None:
        fill(run)
        run.close()
        assert sum("loss, log" in line for line in shown(run.folder, "--follow")) == 1

    @pytest.mark.usefixtures("plotext")
    def test_ctrl_c_ends_it_without_a_word(self, run: WrittenRun) -> None:
        fill(run)
        beat(run.folder, current_process())
        args = [sys.executable, "-m", "telemetry", "show", str(run.folder), "--follow", "--metric", "lr"]
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("* train"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=20)
        assert (process.returncode, stderr) == (0, "")

    @pytest.mark.usefixtures("plotext")
    @pytest.mark.parametrize("rows", [18, 30, 40])
    def test_in_a_terminal_it_draws_in_one_place_in_colours_and_as_much_as_fits(
        self, run: WrittenRun, rows: int
    ) -> None:
        fill(run)
        beat(run.folder, current_process())
        with Terminal(rows=rows, columns=80) as terminal:
            terminal.start("show", str(run.folder), "--follow")
            first = terminal.until("that do not fit")
            run.point("train/lr", 2100, 0.5)
            run.close()
            second = terminal.until("finished", "that do not fit")
            assert terminal.wait() == 0
        for text in (first, second):
            assert text.count("\x1b[H") == 1
            assert "\x1b[94m─ train" in text
            assert text.count("\n") < rows
        # Nothing but colours, and what puts the cursor to the beginning and clears the rest.
        codes = re.findall(r"\x1b\[([^a-zA-Z]*[a-zA-Z])", first + second)
        assert {code for code in codes if not code.endswith("m")} <= {"H", "K", "J"}


class Terminal:
    """A terminal of a given size, and what a command writes to it."""

    def __init__(self, *, rows: int, columns: int) -> None:
        import fcntl
        import termios

        self._mine, self._its = pty.openpty()
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._text = ""

    def start(self, *args: str) -> None:
        env = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS", "LINES"}} | {"TERM": "xterm"}
        command = [sys.executable, "-m", "telemetry", *args]
        self._process = subprocess.Popen(command, stdin=self._its, stdout=self._its, stderr=self._its, env=env)

    def until(self, *words: str, timeout: float = 30.0) -> str:
        """Read until all of the words have come, and give what was read."""
        deadline = time.monotonic() + timeout
        while not all(word in self._text for word in words):
            assert time.monotonic() < deadline, self._text
            if select.select([self._mine], [], [], 0.1)[0]:
                self._text += os.read(self._mine, 1 << 16).decode(errors="replace")
        text, self._text = self._text, ""
        return text

    def wait(self) -> int:
        return self._process.wait(20)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._mine)
        os.close(self._its)


class TestFigure:
    @pytest.fixture(autouse=True)
    def _matplotlib(self) -> None:
        pytest.importorskip("matplotlib")

    def test_a_png_is_written(self, run: WrittenRun, tmp_path: Path) -> None:
        fill(run)
        out = tmp_path / "water.png"
        assert shown(run.folder, "--png", out) == [f"wrote {out}"]
        data = out.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", data[16:24])
        assert width > 1000
        assert height > 500

    def test_the_curves_of_a_quantity_share_a_chart_with_their_points(self, run: WrittenRun) -> None:
        fill(run)
        read = read_run(run.folder)
        figure = draw_figure(plots([read]), "water")
        loss, energy, rate, part = figure.axes
        assert [axes.get_title() for axes in figure.axes][:2] == ["loss", "RMSE of energy [kcal/mol]"]
        assert (loss.get_yscale(), rate.get_yscale()) == ("log", "linear")
        for line, name in zip(loss.lines, ("train/loss", "val/loss"), strict=True):
            assert list(line.get_xdata()) == read.curves[name].steps.tolist()
            assert list(line.get_ydata()) == read.curves[name].values.tolist()
        assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "val"]
        # One colour stands for one stream.
        assert loss.lines[1].get_color() == energy.lines[1].get_color() == part.lines[0].get_color()

    def test_several_runs_have_a_colour_each(self, run: WrittenRun, tmp_path: Path) -> None:
        other = WrittenRun(tmp_path / "ice")
        fill(run)
        fill(other)
        (axes,) = draw_figure(plots([read_run(run.folder), read_run(other.folder)], ["loss"]), "both").axes
        assert [line.get_label() for line in axes.lines] == ["water train", "water val", "ice train", "ice val"]
        assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()
        assert axes.lines[0].get_linestyle() == axes.lines[2].get_linestyle() != axes.lines[1].get_linestyle()

    def test_alerts_are_marked_with_their_titles(self, run: WrittenRun) -> None:
        fill(run)
        run.alert(500, "a spike of $5")
        (axes,) = draw_figure(plots([read_run(run.folder)], ["lr"]), "").axes
        assert list(axes.lines[-1].get_xdata()) == [500, 500]
        assert [text.get_text() for text in axes.texts] == [r"a spike of \$5"]

    def test_what_is_not_finite_is_counted(self, run: WrittenRun) -> None:
        for step, value in enumerate([1.0, math.nan, 2.0]):
            run.point("train/loss", step, value)
        (axes,) = draw_figure(plots([read_run(run.folder)]), "").axes
        assert axes.get_legend().get_texts()[0].get_text() == "train (1 not finite)"
        assert list(axes.lines[0].get_ydata()) == [1.0, 2.0]

    def test_whatever_a_run_calls_things_and_whatever_its_values_are_it_is_drawn(self, tmp_path: Path) -> None:
        run = WrittenRun(
            tmp_path / "run", name="$\\frac{$", metrics={"_a/_b": Metric(label="日本\x1b[2J$x^{", unit="$\\nonsense{")}
        )
        largest = 1.7976931348623157e308
        for step in range(10):
            run.points("_a", step, {"_b": (-1) ** step * largest, "c": 5e-324 * step, "d": largest / (step + 1)})
        run.points("e", (1 << 62) // 1001, {"f": math.nan})
        run.alert(3, "$\\frac{")
        assert shown(run.folder, "--metric", "*", "--png", tmp_path / "x.png")[-1].startswith("wrote")

    def test_nothing_to_draw_is_an_error(self, run: WrittenRun, tmp_path: Path) -> None:
        result = show(run.folder, "--png", tmp_path / "x.png")
        assert result.exit_code == 2
        assert "no points to draw yet" in result.stderr
        assert not (tmp_path / "x.png").exists()

    def test_a_figure_takes_so_many_charts_and_no_more(self) -> None:
        with pytest.raises(SettingError, match=f"{MOST + 1} charts in one figure"):
            draw_figure([Plot(heading="", title="")] * (MOST + 1), "")

    @pytest.mark.parametrize(
        ("out", "message"),
        [("run/x.png", "lies in the run folder"), ("no/such/x.png", "cannot be written (No such file or directory)")],
    )
    def test_a_file_that_is_not_to_be_or_cannot_be_written_is_an_error(
        self, tmp_path: Path, out: str, message: str
    ) -> None:
        run = WrittenRun(tmp_path / "run")
        fill(run)
        result = show(run.folder, "--png", tmp_path / out)
        assert result.exit_code == 2
        assert message in result.stderr

    def test_it_is_not_drawn_again_and_again(self, run: WrittenRun, tmp_path: Path) -> None:
        result = show(run.folder, "--png", tmp_path / "x.png", "--follow")
        assert result.exit_code == 2
        assert "leave out --follow" in result.stderr
