"""Steps with a non-finite loss or gradient are skipped, counted and explained, and end the run if there are many."""

import copy
import io
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
import torch

from aimnet2mult.config.merge import read_defaults
from aimnet2mult.config.schema import Trainer, load
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import Snapshot
from aimnet2mult.train.bad_steps import BadStepReport, BadSteps
from aimnet2mult.train.components import build_components
from aimnet2mult.train.console import Console
from aimnet2mult.train.learner import build_loss
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support import tiny_model
from support.file_contents import read_content
from support.plain_runs import PLAIN
from support.tiny_runs import newest_checkpoint, points, write_data
from telemetry import NullBus, read_receipt
from telemetry.journal.reader import JournalReader
from telemetry.records import Level
from telemetry.sink_api import Alert

TRAINED = 12
"""Number of structures that a tiny run trains on: three batches of four."""


def spoil(path: Path, *rows: int) -> None:
    """Move the first atom of structures so far that `FragileCore` returns NaN."""
    with h5py.File(path, "a") as file:
        for row in rows:
            file["003/coord"][row, 0, 0] = 10.0


def settings(folder: Path, bad: Sequence[int]) -> list[str]:
    """Return the settings of a run on 12 structures in three batches, and write the data, some of them spoiled."""
    spoil(write_data(folder / "a.h5", TRAINED, 0), *bad)
    return [
        f"data.fidelity_datasets.0={folder / 'a.h5'}",
        f"data.val_fidelity_datasets.0={write_data(folder / 'v.h5', 4, 1)}",
        "run_name=tiny",
        "data.y=[energy, charges]",
        "data.samplers.train.batch_size=4",
        "optimizer={class: torch.optim.Adam, kwargs: {lr: 0.1}}",
        "optimizer.param_groups.shifts=null",
        "trainer.epochs=4",
        "telemetry.sinks=none",
        *PLAIN,
        "telemetry.every=1",
        f"telemetry.dir={folder / 'runs'}",
    ]


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """Return a function that trains a fragile model on 12 structures, of which given ones are spoiled."""
    (tmp_path / "model.yaml").write_text("class: support.tiny_model.FragileCore\n")

    def run(*overrides: str, bad: Sequence[int] = (), **request: Any) -> tuple[int, Path]:
        given = settings(tmp_path, bad)
        code = train(Request(overrides=[*given, *overrides], model=tmp_path / "model.yaml", **request))
        return code, max((tmp_path / "runs").iterdir(), key=lambda path: (len(path.name), path.name))

    return run


def alerts(run: Path) -> list[Alert]:
    found = (record for record in JournalReader(run).read(10_000, live=False) if isinstance(record, Alert))
    return [alert for alert in found if "skipped" in alert.title]


# ---- complete runs


def test_a_bad_structure_is_named_once_and_the_model_stays_usable(
    start: Callable[..., tuple[int, Path]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, run = start(bad=[7], save=tmp_path / "weights.pt")
    assert code == 0
    assert read_receipt(run).status == "finished"
    model = read_content(newest_checkpoint(run))["parts"]["model"]
    assert all(value.isfinite().all() for value in model.values())
    (alert,) = alerts(run)
    assert alert.title == "step skipped: loss or gradient is not finite"
    assert alert.text.endswith("a.h5, group 003, row 7")
    output = capfd.readouterr().err
    assert output.count("skipped: loss or gradient") == output.count("row 7") == 1
    losses = [values["loss"] for values in points(run, "train_epoch").values()]
    assert np.isfinite(losses).all()
    assert len(losses) == 4


def test_skipped_steps_are_counted_in_the_window_and_in_the_epoch(start: Callable[..., tuple[int, Path]]) -> None:
    _, run = start(bad=[7])
    windows, epochs = points(run, "train_window"), points(run, "train_epoch")
    assert [epochs[step]["skipped_steps"] for step in (3, 6, 9, 12)] == [1, 1, 1, 1]
    assert sum(point["skipped_steps"] for point in windows.values()) == 4


def test_a_skipped_step_equals_a_run_that_never_had_the_batch(start: Callable[..., tuple[int, Path]]) -> None:
    _, run = start("trainer.epochs=1", bad=[7])
    (alert,) = alerts(run)
    # The batch is the last one, or the others follow it: compare the optimizer's step counts and weights.
    state = read_content(newest_checkpoint(run))["parts"]["optimizer"]["state"]
    assert {float(values["step"]) for values in state.values()} == {2.0}
    assert 1 <= alert.step <= 3


def test_with_stop_the_first_bad_step_ends_the_run(
    start: Callable[..., tuple[int, Path]], capfd: pytest.CaptureFixture[str]
) -> None:
    code, run = start("trainer.on_bad_step=stop", bad=[7])
    assert code == 3
    receipt = read_receipt(run)
    assert receipt.status == "failed"
    (alert,) = alerts(run)
    reason = f"loss or gradient not finite in the training step at iteration {alert.step}: "
    assert receipt.reason.startswith(reason)
    assert receipt.reason.endswith("a.h5, group 003, row 7")
    assert f"error: {reason}" in capfd.readouterr().err
    # The weights are those before the step, from which the run can continue.
    assert train(Request(resume=str(run), overrides=["trainer.on_bad_step=skip"])) == 0
    assert read_receipt(run).status == "finished"


def test_too_many_bad_steps_in_a_row_end_the_run(start: Callable[..., tuple[int, Path]]) -> None:
    code, run = start("trainer.max_bad_steps=5", bad=range(TRAINED))
    assert code == 3
    reason = read_receipt(run).reason
    assert reason.startswith("loss or gradient not finite in 5 training steps in a row, the last one at iteration 5: ")
    assert re.search(r"row \d+(; …)?$", reason)


def test_after_many_bad_steps_no_checkpoint_of_exploded_weights_is_left_to_resume_from(
    start: Callable[..., tuple[int, Path]], capfd: pytest.CaptureFixture[str]
) -> None:
    explosive = "optimizer={class: torch.optim.SGD, kwargs: {lr: 1.0e+12}}"
    code, run = start(explosive, "trainer.max_bad_steps=5", "trainer.epochs=40", "checkpoint.keep=40")
    assert code == 3
    for path in (run / "checkpoints").glob("step-*.pt"):
        weights = read_content(path)["parts"]["model"]
        assert all(float(value.abs().max()) < 1e3 for value in weights.values())
    assert list((run / "checkpoints").glob("diverged-step-*.pt")), "a checkpoint was written while the weights grew"
    assert (run / "checkpoints/diverged.pt").is_file()
    said = capfd.readouterr().err
    assert f"set aside, since the weights may have become too large: {run}/checkpoints/diverged.pt" in said


def test_a_run_none_of_whose_steps_was_applied_is_not_finished(start: Callable[..., tuple[int, Path]]) -> None:
    code, run = start("trainer.epochs=1", bad=range(TRAINED))
    assert code == 3
    receipt = read_receipt(run)
    assert (receipt.status, receipt.reason) == (
        "failed",
        "no training step was applied: loss or gradient was never finite",
    )


def test_single_bad_steps_never_end_the_run(start: Callable[..., tuple[int, Path]]) -> None:
    code, _ = start("trainer.max_bad_steps=3", bad=[7])
    assert code == 0


def test_a_run_with_non_finite_weights_is_not_finished(
    start: Callable[..., tuple[int, Path]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Loss and gradient are finite, but the step divides 0 by 0 for elements that do not occur.
    optimizer = "optimizer={class: torch.optim.Adam, kwargs: {lr: 0.1, eps: 0}}"
    code, run = start(optimizer, save=tmp_path / "weights.pt")
    assert code == 3
    assert read_receipt(run).status == "failed"
    assert read_receipt(run).reason == "no checkpoint at iteration 12: the model's weights are not finite"
    assert not (tmp_path / "weights.pt").exists()
    output = capfd.readouterr().err
    assert "error: no checkpoint at iteration 12: the model's weights are not finite; the run has no chec" in output


def test_a_run_that_cannot_write_checkpoints_is_not_finished_but_saves_its_weights(
    start: Callable[..., tuple[int, Path]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_model.Stopping.calls_left = 1
    _, run = start("loss.class=support.tiny_model.StoppingLoss")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").touch()
    capfd.readouterr()
    weights = tmp_path / "weights.pt"
    assert train(Request(resume=str(run), save=weights)) == 4
    receipt = read_receipt(run)
    problem = f"cannot write to {run}/checkpoints: checkpoints is a file instead of a folder"
    assert (receipt.status, receipt.reason) == ("failed", f"no checkpoint at iteration 12: {problem}")
    output = capfd.readouterr().err
    assert f"weights: {weights}\n" in output
    assert f"error: {receipt.reason}; the run has no checkpoint\n" in output
    # Epochs 1, 2 and 4; the last attempt, after the last epoch, is the fifth.
    assert output.count("warning: no checkpoint") == 3
    assert weights.is_file()


# ---- counting


class Flags:
    """Bad steps with a limit of three, fed with flags."""

    def __init__(self, limit: int = 3, on_bad_step: Any = "skip") -> None:
        self.reported: list[int] = []
        self.cause = "because"
        settings = {**read_defaults()["trainer"], "on_bad_step": on_bad_step, "max_bad_steps": limit}
        config = msgspec.convert(settings, Trainer)
        self.steps = BadSteps(config, self._report)

    def _report(self, iteration: int) -> str:
        self.reported.append(iteration)
        return self.cause

    def add(self, *flags: bool) -> None:
        for iteration, flag in enumerate(flags, start=1):
            self.steps.add(iteration, torch.tensor(flag))


def test_each_bad_step_is_reported() -> None:
    flags = Flags()
    flags.add(True, False, True, False, False)
    assert flags.reported == [2, 4, 5]
    assert not flags.steps.failure


def test_the_steps_must_be_bad_in_a_row_to_end_the_run() -> None:
    flags = Flags()
    flags.add(False, False, True, False, False)
    assert not flags.steps.failure
    flags.steps.add(6, torch.tensor(False))
    assert flags.steps.failure == (
        "loss or gradient not finite in 3 training steps in a row, the last one at iteration 6: because"
    )


def test_the_reason_names_only_a_few_structures() -> None:
    flags = Flags()
    flags.cause = "; ".join(f"a.h5, group 003, row {row}" for row in range(10))
    flags.add(False, False, False)
    assert flags.steps.failure.endswith("row 0; a.h5, group 003, row 1; a.h5, group 003, row 2; …")


def test_flags_that_have_not_arrived_yet_are_examined_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, the copy of a flag arrives some iterations later."""
    arrived = False
    monkeypatch.setattr(Snapshot, "done", property(lambda _: arrived))
    flags = Flags(1)
    flags.add(False, True)
    assert flags.reported == []
    arrived = True
    flags.steps.add(3, torch.tensor(True))
    assert flags.reported == [1]
    arrived = False
    flags.steps.add(4, torch.tensor(False))
    flags.steps.wait()
    assert flags.reported == [1, 4]
    assert flags.steps.failure.endswith("iteration 1: because")


# ---- finding the cause


class Reported(NullBus):
    """A bus that keeps the alerts."""

    def __init__(self) -> None:
        super().__init__(1)
        self.texts: list[str] = []

    def alert(self, title: str, text: str = "", *, step: int, level: Level = "warning") -> None:
        self.texts.append(text)


class Report:
    """The report of a run on 12 structures in three batches, some of them spoiled."""

    def __init__(self, folder: Path, bad: Sequence[int] = (), *, batch_size: int = 4, **options: Any) -> None:
        config = load([], [*settings(folder, bad), f"data.samplers.train.batch_size={batch_size}"])
        self.components = build_components(config, {"class": "support.tiny_model.FragileCore"}, folder)
        self.bus, self.output = Reported(), io.StringIO()
        console = Console({}, epochs=1, stream=self.output)
        loss_fn = build_loss(config, Communicator())
        self.report = BadStepReport(self.components, loss_fn, bus=self.bus, console=console, **options)

    def batch(self, index: int) -> list[int]:
        """Return the rows of a batch, counted from 0."""
        _, rows = self.components.sampler.batch_at(index)
        return rows.tolist()

    @property
    def named(self) -> list[list[int]]:
        """Rows named in each alert."""
        return [[int(row) for row in re.findall(r"row (\d+)", text)] for text in self.bus.texts]


def test_all_bad_structures_of_a_batch_are_named_and_no_others(tmp_path: Path) -> None:
    order = Report(tmp_path).batch(0)
    report = Report(tmp_path, bad=[order[1], order[2]])
    cause = report.report(1)
    assert report.named == [[order[1], order[2]]]
    assert report.output.getvalue() == f"warning: iteration 1: step skipped: loss or gradient is not finite: {cause}\n"


def test_the_same_structures_are_not_named_again_but_new_ones_are(tmp_path: Path) -> None:
    report = Report(tmp_path, bad=[3, 5])
    causes = [report.report(iteration) for iteration in range(1, 13) if {3, 5} & set(report.batch(iteration - 1))]
    assert len(causes) >= 4
    assert sorted(row for rows in report.named for row in rows) == [3, 5]
    assert all("row 3" in cause or "row 5" in cause for cause in causes)


def test_absurd_labels_are_found_as_well(tmp_path: Path) -> None:
    report = Report(tmp_path)
    for group in report.components.data.train.groups:
        group["charges"][6, 0] = 1e30
    index = next(index for index in range(3) if 6 in report.batch(index))
    report.report(index + 1)
    assert report.named == [[6]]


def test_if_no_structure_is_the_cause_the_batch_is_named_ever_less_often(tmp_path: Path) -> None:
    report = Report(tmp_path)
    for iteration in range(1, 10):
        report.report(iteration)
    # The first, second, fourth and eighth time.
    assert [sorted(rows) for rows in report.named] == [sorted(report.batch(index)) for index in (0, 1, 3, 7)]
    assert all(text.startswith("no structure alone is the cause; the batch consists of ") for text in report.bus.texts)


def test_up_to_ten_structures_of_a_batch_are_named(tmp_path: Path) -> None:
    report = Report(tmp_path, batch_size=TRAINED)
    report.report(1)
    assert report.named == [report.batch(0)[:10]]
    assert report.bus.texts[0].endswith("; and 2 more")


def test_non_finite_weights_are_the_cause_of_everything(tmp_path: Path) -> None:
    report = Report(tmp_path)
    with torch.no_grad():
        next(report.components.model.parameters()).fill_(torch.nan)
    assert report.report(1) == report.report(2) == "the model's weights are not finite"
    assert report.bus.texts == ["the model's weights are not finite"] * 2


def test_a_failed_search_names_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(tmp_path, bad=[3])

    def too_large(*_: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(type(report.components.model), "forward", too_large)
    report.report(1)
    assert report.named == [report.batch(0)]
    assert report.bus.texts[0].startswith(
        "the search for the cause failed (MemoryError: too large); the batch consists"
    )


def test_if_all_structures_of_a_batch_are_bad_the_weights_may_be_the_cause(tmp_path: Path) -> None:
    report = Report(tmp_path, bad=range(TRAINED))
    for iteration in range(1, 10):
        report.report(iteration)
    assert [sorted(rows) for rows in report.named] == [sorted(report.batch(index)) for index in (0, 1, 3, 7)]
    hint = "unless they are all wrong, the weights have become too large: lower the learning rate"
    assert all(text.startswith(f"all 4 structures of the batch ({hint}): ") for text in report.bus.texts)


def test_the_number_of_alerts_is_limited(tmp_path: Path) -> None:
    report = Report(tmp_path, bad=range(TRAINED), max_alerts=2)
    for iteration in (1, 2, 3, 4):
        cause = report.report(iteration)
        assert str(report.batch(iteration - 1)[0]) in cause
    assert len(report.named) == 2
    suffix = "; further ones are only counted, as skipped_steps"
    assert [text.endswith(suffix) for text in report.bus.texts] == [False, True]
    assert report.output.getvalue().count("\n") == 2


def test_only_the_first_alerts_are_printed_with_a_few_of_the_structures(tmp_path: Path) -> None:
    """Too large a learning rate spoils other structures in every batch."""
    report = Report(tmp_path, bad=range(TRAINED), batch_size=1)
    for iteration in range(1, 9):
        report.report(iteration)
    lines = report.output.getvalue().splitlines()
    assert (len(report.bus.texts), len(lines)) == (8, 5)
    assert [line.endswith("; further ones are only recorded as alerts") for line in lines] == [False] * 4 + [True]
    many = Report(tmp_path, bad=range(TRAINED), batch_size=TRAINED)
    many.report(1)
    line = many.output.getvalue()
    assert (line.count(", row "), line.endswith("; …\n")) == (3, True)


def test_the_search_changes_nothing(tmp_path: Path) -> None:
    report = Report(tmp_path, bad=[3])
    model = report.components.model
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    report.report(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
