"""Complete runs in this process: their files, and that a resumed run equals an uninterrupted one."""

import itertools
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from aimnet2mult.config.merge import read_yaml
from aimnet2mult.data.reference_energies import read_sae
from aimnet2mult.errors import ConfigError, DataError
from aimnet2mult.models.checkpoint_folder import find_newest, iteration_of
from aimnet2mult.train import new_folders, rank_training
from aimnet2mult.train.components import Components
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support import tiny_model
from support.file_contents import read_content, read_weights
from support.plain_runs import PLAIN
from support.tiny_runs import newest_checkpoint
from telemetry import JournalError, read_header
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Closed, Scalars

Points = dict[tuple[str, int], dict[str, float]]

PREEMPTED = 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 28 structures of 3 and 4 atoms."""
    path = tmp_path_factory.mktemp("data") / "a.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for atoms, structures in ((3, 16), (4, 12)):
            group = file.create_group(f"{atoms:03d}")
            group["coord"] = rng.normal(size=(structures, atoms, 3))
            group["numbers"] = rng.choice([1, 6, 8], size=(structures, atoms))
            group["energy"] = rng.normal(size=structures)
            group["forces"] = rng.normal(size=(structures, atoms, 3))
            group["charges"] = rng.normal(size=(structures, atoms))
    return path


class Trainee:
    """Runs of a tiny model in a separate folder."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.runs = folder / "runs"
        self.model = folder / "model.yaml"
        self.model.write_text("class: support.tiny_model.TinyCore\nkwargs: {dropout: 0.3}\n")
        self.overrides = [
            f"data.fidelity_datasets.0={data}",
            "run_name=tiny",
            "data.y=[energy, forces, charges]",
            "data.val_fraction=0.25",
            "data.samplers.train.batch_size=4",
            "data.samplers.val.batch_size=4",
            "loss.class=support.tiny_model.StoppingLoss",
            "optimizer.class=torch.optim.Adam",
            "optimizer.kwargs.lr=0.01",
            "optimizer.param_groups.shifts=null",
            "scheduler={class: torch.optim.lr_scheduler.CosineAnnealingLR, kwargs: {T_max: 20}, step: iteration}",
            "trainer.epochs=2",
            "telemetry.sinks=none",
            *PLAIN,
            "telemetry.every=5",
            f"telemetry.dir={self.runs}",
        ]

    def start(self, *overrides: str, stop_at: int | None = None, **request: Any) -> int:
        tiny_model.Stopping.calls_left = stop_at
        return train(Request(overrides=[*self.overrides, *overrides], model=self.model, **request))

    def resume(self, *overrides: str, stop_at: int | None = None, run: Path | None = None, **request: Any) -> int:
        tiny_model.Stopping.calls_left = stop_at
        return train(Request(overrides=overrides, resume=str(run or self.run), **request))

    @property
    def run(self) -> Path:
        """The folder of the run started last."""
        return max(self.runs.iterdir(), key=lambda path: (len(path.name), path.name))


@pytest.fixture
def trainee(tmp_path: Path, data: Path) -> Trainee:
    return Trainee(tmp_path, data)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Callable[..., Points]:
    """Return a function that returns the points of an uninterrupted run."""
    known: dict[tuple[str, ...], Points] = {}

    def points_of(*overrides: str) -> Points:
        if overrides not in known:
            trainee = Trainee(tmp_path_factory.mktemp("reference"), data)
            assert trainee.start(*overrides) == 0
            known[overrides] = points(trainee.run)
        return known[overrides]

    return points_of


def records(run: Path) -> list[Any]:
    return JournalReader(run).read(100_000, live=False)


def points(run: Path) -> Points:
    """Return the values of a run by stream and step, except the iteration rate, which depends on the clock."""
    scalars = [record for record in records(run) if isinstance(record, Scalars)]
    keys = [(record.stream, record.step) for record in scalars]
    assert len(set(keys)) == len(keys), "duplicate points"
    return {
        key: {name: value for name, value in record.values.items() if name != "it_per_s"}
        for key, record in zip(keys, scalars, strict=True)
    }


def status(run: Path) -> str | None:
    last = records(run)[-1]
    return last.status if isinstance(last, Closed) else None


def steps(of: Points, stream: str) -> list[int]:
    return [step for name, step in of if name == stream]


# ---------------------------------------------------------------- one run


def test_a_run_publishes_on_one_step_axis_and_writes_the_files_for_a_resume(trainee: Trainee) -> None:
    assert trainee.start() == 0
    of = points(trainee.run)
    length = steps(of, "train_epoch")[0]
    assert steps(of, "train_epoch") == steps(of, "val") == [length, 2 * length]
    due = [step for step in range(1, 2 * length + 1) if step % 5 == 0]
    assert steps(of, "train") == steps(of, "train_window") == sorted({*due, 2 * length})
    assert status(trainee.run) == "finished"
    assert {path.name for path in trainee.run.iterdir()} >= {"train.yaml", "model.yaml", "sae", "checkpoints"}
    assert [path.name for path in (trainee.run / "sae").iterdir()] == ["fid0.yaml"]
    newest = newest_checkpoint(trainee.run)
    assert iteration_of(newest) == 2 * length
    assert read_yaml(trainee.run / "model.yaml")["kwargs"] == {"dropout": 0.3}


def test_data_and_model_are_described_in_lines(trainee: Trainee, capsys: pytest.CaptureFixture[str]) -> None:
    assert trainee.start(stop_at=1, allow_packages=["support"]) == PREEMPTED
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert "fid0: 21 training structures, 7 validation structures; energy, forces, charges" in lines
    assert any(re.fullmatch(r"\d+ trainable parameters on cpu, 6 iterations per epoch", line) for line in lines)
    assert f"resume with: aimnet2mult train --resume {trainee.run} --allow-package support" in output.out + output.err


def test_a_run_without_problems_prints_nothing_else_than_these_lines(
    trainee: Trainee, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trainee.start("telemetry.sinks=tensorboard") == 0
    out, err = capfd.readouterr()
    expected = [
        r".*: new run; sinks: tensorboard",
        r"loading torch and aimnet …",
        r"fid0: \d+ training structures, \d+ validation structures; .*",
        r"fid0: energies less references .*",
        r"\d+ trainable parameters on cpu, \d+ iterations per epoch",
        r"iteration 1/\d+; first batch: loss .*, E .* kcal/mol, F .* kcal/mol/Å, q .* e",
        r"epoch 1/2, iteration \d+; train loss .*; val loss .*, E .* kcal/mol, F .* kcal/mol/Å, q .* e",
        r"epoch 2/2, iteration \d+; train loss .*",
        r"waiting up to \d+ s for tensorboard .*; Ctrl-C: continue in the background",
    ]
    # The first loss arrives in another thread, and a short wait has no line.
    optional = (expected[5], expected[8])
    assert [pattern for pattern in expected if any(re.fullmatch(pattern, line) for line in err.splitlines())] == [
        pattern for pattern in expected if pattern not in optional or re.search(pattern, err)
    ]
    assert [line for line in err.splitlines() if not any(re.fullmatch(pattern, line) for pattern in expected)] == []
    assert out.startswith("telemetry: ")


def test_the_header_records_parameters_and_units(trainee: Trainee) -> None:
    trainee.start("trainer.epochs=1", "project_name=p", "telemetry.units.energy=eV/particle")
    header = read_header(trainee.run)
    assert (header.name, header.project, header.every) == ("tiny", "p", 5)
    assert header.params["optimizer"]["kwargs"] == {"lr": 0.01}
    assert header.params["model"]["class"] == "support.tiny_model.TinyCore"
    assert header.metrics["val/E_rmse"].unit == "eV/particle"
    assert header.metrics["val/F_rmse"].unit == "kcal/mol/Å"
    # The metadata of some builds omits the suffix, such as +cu128.
    assert header.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


def test_the_seed_determines_the_run(trainee: Trainee, reference: Callable[..., Points]) -> None:
    trainee.start()
    assert points(trainee.run) == reference()
    trainee.start("seed=1")
    assert points(trainee.run) != reference()


def test_validation_runs_at_the_configured_iterations(trainee: Trainee) -> None:
    trainee.start("log_frequency.val=4")
    total = steps(points(trainee.run), "train")[-1]
    assert steps(points(trainee.run), "val") == list(range(4, total + 1, 4))


def test_training_does_not_depend_on_the_validation_frequency(
    trainee: Trainee, reference: Callable[..., Points]
) -> None:
    trainee.start("log_frequency.val=4")
    mine = points(trainee.run)
    assert all(mine[key] == values for key, values in reference().items() if key[0] != "val")


def test_a_failing_run_is_closed_as_failed_with_the_reason(trainee: Trainee) -> None:
    with pytest.raises(ArithmeticError, match="the third call"):
        trainee.start("loss.class=support.tiny_model.FailingLoss")
    last = records(trainee.run)[-1]
    assert isinstance(last, Closed)
    assert (last.status, last.reason) == ("failed", "ArithmeticError: the third call")


def test_a_second_interrupt_closes_the_run_as_killed(
    trainee: Trainee, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(tiny_model.SquaredLoss, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainee.start()
    assert status(trainee.run) == "killed"
    said = capfd.readouterr()
    assert "SIGINT: stopping after this iteration and writing a checkpoint; Ctrl-C now stops without one\n" in said.err
    assert f"stopped at once; resume with: aimnet2mult train --resume {trainee.run}\n" in said.out


def test_signal_handlers_are_restored(trainee: Trainee) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    trainee.start("trainer.epochs=1")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_unusable_data_leave_no_run_folder(trainee: Trainee, tmp_path: Path) -> None:
    own = tmp_path / "empty.h5"
    with h5py.File(own, "w") as file:
        file.create_group("003")
    with pytest.raises(DataError, match=r"empty.h5"):
        trainee.start(f"data.fidelity_datasets.0={own}")
    assert not trainee.runs.exists()


def test_an_unknown_option_of_the_data_loader_is_named(trainee: Trainee) -> None:
    with pytest.raises(ConfigError, match=r"data.loaders.val is .*'num_wrkers': 1.*: .*num_wrkers"):
        trainee.start("data.loaders.val.num_wrkers=1")


def test_runs_started_in_the_same_second_have_separate_folders(
    trainee: Trainee, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_folders.time, "time", lambda: 1.0e9)
    for _ in range(3):
        trainee.start("trainer.epochs=1")
    first, second, third = sorted(path.name for path in trainee.runs.iterdir())
    assert (second, third) == (f"{first}-2", f"{first}-3")


def test_invalid_telemetry_settings_leave_no_run_folder(trainee: Trainee) -> None:
    for override in ("telemetry.units.energy=parsec", "telemetry.sinks=nosuchsink"):
        with pytest.raises((ValueError, LookupError)):
            trainee.start(override)
        assert not trainee.runs.is_dir() or not list(trainee.runs.iterdir())


# ---------------------------------------------------------------- stopped and resumed


PLATEAU = "scheduler={class: torch.optim.lr_scheduler.ReduceLROnPlateau, kwargs: {patience: 0, threshold: 0.9}}"


@pytest.mark.parametrize(
    ("strides", "overrides"),
    # A validation takes several calls: if each of them is interrupted, it completes in the longer stride.
    [((1, 1, 1, 5), ()), ((4,), ()), ((2, 4), (PLATEAU, "log_frequency.val=3"))],
    ids=["at every call", "at every fourth", "with validations in between"],
)
def test_a_run_in_pieces_equals_an_uninterrupted_one(
    trainee: Trainee, reference: Callable[..., Points], strides: tuple[int, ...], overrides: tuple[str, ...]
) -> None:
    code = trainee.start(*overrides, stop_at=strides[0])
    for piece in range(1, 50):
        if code == 0:
            break
        assert (code, status(trainee.run)) == (PREEMPTED, "preempted")
        code = trainee.resume(stop_at=strides[piece % len(strides)])
    assert status(trainee.run) == "finished"
    assert len(list(trainee.run.glob("journal-*.jsonl"))) > 3
    assert points(trainee.run) == reference(*overrides)


def test_a_stop_takes_effect_after_the_iteration_without_a_last_point(trainee: Trainee) -> None:
    assert trainee.start(stop_at=4) == PREEMPTED
    newest = newest_checkpoint(trainee.run)
    assert iteration_of(newest) == 4
    assert not points(trainee.run)


def test_a_stop_before_the_first_iteration_trains_nothing(
    trainee: Trainee, reference: Callable[..., Points], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = rank_training.build_components

    def stopped(*arguments: Any, **options: Any) -> Components:
        signal.raise_signal(signal.SIGTERM)
        return build(*arguments, **options)

    monkeypatch.setattr(rank_training, "build_components", stopped)
    assert trainee.start() == PREEMPTED
    assert trainee.resume() == PREEMPTED
    assert find_newest(trainee.run) is None
    monkeypatch.undo()
    assert trainee.resume() == 0
    assert points(trainee.run) == reference()


def test_adding_epochs_after_the_end_equals_a_run_that_had_them_from_the_start(
    trainee: Trainee, reference: Callable[..., Points]
) -> None:
    assert trainee.start("trainer.epochs=1") == 0
    assert trainee.resume("trainer.epochs=2") == 0
    longer, mine = reference(), points(trainee.run)
    # The run that ended after the first epoch has an additional point there.
    assert {key: values for key, values in mine.items() if key in longer} == longer
    assert {step for _, step in set(mine) - set(longer)} == {steps(mine, "train_epoch")[0]}
    assert read_yaml(trainee.run / "train.yaml")["trainer"]["epochs"] == 2


def test_resuming_a_finished_run_finishes_it_again(trainee: Trainee) -> None:
    trainee.start()
    before = points(trainee.run)
    assert trainee.resume() == 0
    assert points(trainee.run) == before
    assert status(trainee.run) == "finished"


def test_a_resume_leaves_out_a_sink_whose_destination_is_only_in_the_run_folder(
    trainee: Trainee, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = tmp_path / "my events"
    sinks = ("telemetry.sinks=tensorboard", "telemetry.delivery=thread")
    trainee.start(f"telemetry.tensorboard.dir={events}", *sinks, stop_at=3)
    shutil.rmtree(events)
    capsys.readouterr()
    assert trainee.resume(stop_at=3) == PREEMPTED
    assert not events.exists()
    output = capsys.readouterr()
    confirming = f"'tensorboard.dir={events}'"
    assert (
        "warning: tensorboard is left out, because its destination comes from the run folder; its records stay in the "
        f"journal. If you trust the destination, add to the command: telemetry.{confirming}\n"
    ) in output.err
    assert f"telemetry sync {trainee.run} --telemetry-sinks tensorboard -o {confirming}" in output.out + output.err
    assert trainee.resume(f"telemetry.tensorboard.dir={events}") == 0
    assert "is left out" not in capsys.readouterr().err
    assert list(events.iterdir())


def test_a_run_without_a_checkpoint_restarts_in_its_folder(trainee: Trainee, reference: Callable[..., Points]) -> None:
    trainee.start(stop_at=5)
    shutil.rmtree(trainee.run / "checkpoints")
    assert trainee.resume() == 0
    assert len(list(trainee.runs.iterdir())) == 1
    assert points(trainee.run) == reference()


def test_a_validation_made_up_before_a_crash_is_published_once(
    trainee: Trainee, reference: Callable[..., Points], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first epoch has 6 iterations and 2 batches of validation, of which the first is interrupted.
    assert trainee.start(stop_at=7) == PREEMPTED
    assert steps(points(trainee.run), "val") == []
    real, calls = tiny_model.SquaredLoss.__call__, itertools.count(1)

    def crash(*arguments: Any) -> dict[str, torch.Tensor]:
        if next(calls) == 2 + 1:
            raise MemoryError
        return real(*arguments)

    for _ in range(2):
        calls = itertools.count(1)
        with monkeypatch.context() as patch:
            patch.setattr(tiny_model.SquaredLoss, "__call__", crash)
            with pytest.raises(MemoryError):
                trainee.resume()
        assert steps(points(trainee.run), "val") == [6]
    assert trainee.resume() == 0
    assert points(trainee.run) == reference()


def test_points_after_the_last_checkpoint_of_a_crashed_run_are_superseded(
    trainee: Trainee, reference: Callable[..., Points], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = tiny_model.SquaredLoss.__call__, itertools.count(1)

    def crash(*arguments: Any) -> dict[str, torch.Tensor]:
        # The first epoch has 6 iterations and 2 batches of validation; iteration 10 has a point.
        if next(calls) == 6 + 2 + 5:
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(tiny_model.SquaredLoss, "__call__", crash)
    with pytest.raises(MemoryError):
        trainee.start()
    assert steps(points(trainee.run), "train") == [5, 10]
    assert trainee.resume() == 0
    assert points(trainee.run) == reference()
    reader = JournalReader(trainee.run)
    reader.read(100_000, live=False)
    assert reader.skipped.superseded == 2


def test_a_resume_ignores_a_torn_checkpoint(trainee: Trainee, reference: Callable[..., Points]) -> None:
    trainee.start(stop_at=8)
    trainee.resume(stop_at=3)
    newest = newest_checkpoint(trainee.run)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert find_newest(trainee.run) not in {newest, None}
    assert trainee.resume() == 0
    assert points(trainee.run) == reference()


def test_a_resume_uses_the_reference_energies_of_the_run(
    trainee: Trainee, reference: Callable[..., Points], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee.start(stop_at=5)
    monkeypatch.setattr("aimnet2mult.data.loading.fit_sae", lambda *_: pytest.fail("fitted again"))
    assert trainee.resume() == 0
    assert points(trainee.run) == reference()


def test_an_element_that_occurs_only_without_an_energy_does_not_stop_the_run(
    trainee: Trainee, tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.h5"
    shutil.copy(data, own)
    with h5py.File(own, "a") as file:
        file["003/numbers"][:4, 0] = 9
        file["003/energy"][:4] = np.nan
    assert trainee.start(f"data.fidelity_datasets.0={own}", "trainer.epochs=1") == 0
    assert list(read_sae(trainee.run / "sae" / "fid0.yaml")) == [1, 6, 8]
    assert np.isfinite(points(trainee.run)["train_epoch", 6]["loss"])
    summary = r"fid0: energies less references .* eV \(worst: .* eV\); forces rms .* eV/Å"
    assert re.search(summary, capfd.readouterr().err)


def test_data_of_another_size_are_detected(trainee: Trainee, tmp_path: Path, data: Path) -> None:
    own = tmp_path / "own.h5"
    shutil.copy(data, own)
    trainee.start(f"data.fidelity_datasets.0={own}", stop_at=5)
    with h5py.File(own, "a") as file:
        del file["004"]
    with pytest.raises(DataError, match=rf"the data have changed .*: data.fidelity_datasets.0 \({own}\); restore"):
        trainee.resume()


def test_data_with_other_values_are_detected(trainee: Trainee, tmp_path: Path, data: Path) -> None:
    own = tmp_path / "own.h5"
    shutil.copy(data, own)
    trainee.start(f"data.fidelity_datasets.0={own}", stop_at=5)
    with h5py.File(own, "a") as file:
        file["004/forces"][0, 0, 0] += 1e-3
        file["004/forces"][1, 0, 0] += 1e-3
    with pytest.raises(DataError, match=r"the data have changed since the start of .*data.fidelity_datasets.0"):
        trainee.resume()


REFUSED = [
    ("optimizer.kwargs.lr=0.1", r"optimizer.kwargs.lr was 0.01 in .* and cannot be 0.1 after a resume"),
    ("seed=1", r"seed was 0 in"),
    ("optimizer.kwargs.eps=1e-9", r"optimizer.kwargs.eps was None in .* and cannot be 1e-09"),
    ("data.keys.energy=E", r"^data.keys.energy was None in [^\n]* and cannot be 'E' after a resume\nonly"),
    ("telemetry.units.forces=eV/particle/angstrom", r"telemetry.units.forces was 'kcal/mol/Å' in"),
    ("trainer.clip_grad_value=1", r"trainer.clip_grad_value was 0.4 in"),
    ("run_name=other", r"run_name was 'tiny'"),
]


def test_a_resume_rejects_changes_of_the_training_settings(trainee: Trainee, tmp_path: Path) -> None:
    trainee.start(stop_at=10)
    before = (trainee.run / "train.yaml").read_text()
    for override, message in REFUSED:
        with pytest.raises(ConfigError, match=message):
            trainee.resume(override)
    with pytest.raises(JournalError, match=r"telemetry.every was 5 .* cannot be 4"):
        trainee.resume("telemetry.every=4")
    other = tmp_path / "other.yaml"
    other.write_text("class: support.tiny_model.TinyCore\nkwargs: {dropout: 0.2}\n")
    with pytest.raises(ConfigError, match=r"the model's kwargs.dropout was 0.3 in .* and cannot be 0.2"):
        trainee.resume(model=other)
    with pytest.raises(ConfigError, match=r"trainer.epochs is 1, but the run is already in epoch 2"):
        trainee.resume("trainer.epochs=1")
    assert (trainee.run / "train.yaml").read_text().replace("epochs: 1", "epochs: 2") == before


def test_a_resume_accepts_changes_that_do_not_affect_training(
    trainee: Trainee, reference: Callable[..., Points]
) -> None:
    trainee.start(stop_at=4)
    same = ["threads=1", "checkpoint.keep=1", "data.loaders.val.num_workers=0", "telemetry.poll=1", "device=cpu"]
    assert trainee.resume(*same, model=trainee.model) == 0
    assert points(trainee.run) == reference()
    assert len(list((trainee.run / "checkpoints").iterdir())) == 1


def test_loader_workers_do_not_change_a_run(trainee: Trainee, reference: Callable[..., Points]) -> None:
    trainee.start("data.loaders.train.num_workers=1", stop_at=4)
    assert trainee.resume("data.loaders.train.num_workers=2") == 0
    assert points(trainee.run) == reference()


# ---------------------------------------------------------------- which run


def test_a_run_is_found_by_its_name_in_the_folder_of_runs(trainee: Trainee) -> None:
    trainee.start(stop_at=4)
    assert train(Request(overrides=[f"telemetry.dir={trainee.runs}"], resume=trainee.run.name)) == 0
    with pytest.raises(
        ConfigError, match=r"no run 'nowhere': there is no such folder, and no run with this ID or name in .*runs"
    ):
        train(Request(overrides=[f"telemetry.dir={trainee.runs}"], resume="nowhere"))


def test_a_run_is_found_by_a_unique_beginning_of_its_name(trainee: Trainee) -> None:
    trainee.start(stop_at=4)
    assert train(Request(overrides=[f"telemetry.dir={trainee.runs}"], resume="ti")) == 0
    shutil.copytree(trainee.run, trainee.runs / "tiny-copy")
    with pytest.raises(ConfigError, match=r"'ti' could be any of 2 runs in .*; give one of these IDs"):
        train(Request(overrides=[f"telemetry.dir={trainee.runs}"], resume="ti"))
    (trainee.runs / "tiny-copy" / "train.yaml").unlink()
    with pytest.raises(ConfigError, match=r"tiny-copy contains no train\.yaml, so it is not the folder of a training"):
        train(Request(overrides=[f"telemetry.dir={trainee.runs}"], resume="tiny-copy"))


def test_auto_starts_a_new_run_if_there_is_none_to_resume(trainee: Trainee, capsys: pytest.CaptureFixture[str]) -> None:
    assert trainee.start(resume="auto", stop_at=4) == PREEMPTED
    assert "no unfinished run 'tiny'" in capsys.readouterr().err
    assert len(list(trainee.runs.iterdir())) == 1


def test_auto_resumes_the_newest_unfinished_run_of_the_name(
    trainee: Trainee, reference: Callable[..., Points], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**9, 2 * 10**9, 10))
    monkeypatch.setattr(new_folders.time, "time", lambda: float(next(clock)))
    trainee.start(stop_at=2)
    trainee.start(stop_at=4)
    wanted = trainee.run
    trainee.start("trainer.epochs=1")
    with pytest.raises(ArithmeticError):
        trainee.start("loss.class=support.tiny_model.FailingLoss")
    trainee.start("run_name=tiny-other", stop_at=2)
    assert trainee.start(resume="auto") == 0
    assert status(wanted) == "finished"
    assert points(wanted) == reference()
    assert sorted(filter(None, map(status, trainee.runs.iterdir()))) == [
        "failed",
        "finished",
        "finished",
        "preempted",
        "preempted",
    ]


def test_a_resume_names_a_damaged_checkpoint_and_uses_the_previous_one(
    trainee: Trainee, reference: Callable[..., Points], capsys: pytest.CaptureFixture[str]
) -> None:
    trainee.start(stop_at=11)
    newest = newest_checkpoint(trainee.run)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert trainee.resume() == 0
    assert f"ignoring damaged checkpoints: {newest}" in capsys.readouterr().err
    assert points(trainee.run) == reference()


def test_a_run_whose_checkpoints_are_all_damaged_is_not_restarted_silently(trainee: Trainee) -> None:
    trainee.start(stop_at=8)
    for path in (trainee.run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"all checkpoints of .* are damaged: .*step-.*; remove them to restart"):
        trainee.start(resume=str(trainee.run))


# ---------------------------------------------------------------- weights


def test_saved_weights_are_the_final_ones_and_can_be_loaded(trainee: Trainee, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    trainee.start(save=file)
    newest = newest_checkpoint(trainee.run)
    state = read_content(newest)["parts"]["model"]
    saved = read_weights(file)
    assert state.keys() == {f"module.{name}" for name in saved}
    assert all(torch.equal(state[f"module.{name}"], value) for name, value in saved.items())

    trainee.start(f"load={file}", "optimizer.kwargs.lr=1e-12", "scheduler=null", "trainer.epochs=1", save=file)
    again = read_weights(file)
    assert all(torch.allclose(again[name], value, atol=1e-6) for name, value in saved.items())


def test_a_stopped_run_does_not_save_weights(trainee: Trainee, tmp_path: Path) -> None:
    trainee.start(save=tmp_path / "weights.pt", stop_at=4)
    assert not (tmp_path / "weights.pt").exists()


def test_a_missing_folder_for_weights_is_rejected_at_once(trainee: Trainee) -> None:
    with pytest.raises(ConfigError, match=r"--save /nowhere/weights.pt: cannot write"):
        trainee.start(save=Path("/nowhere/weights.pt"))
    assert not trainee.runs.exists()


# Links and permissions.


def test_a_run_with_links_in_place_of_its_folders_is_not_resumed(trainee: Trainee, tmp_path: Path) -> None:
    assert trainee.start(stop_at=12) == PREEMPTED
    for name in ("checkpoints", "sae", "sinks", "train.yaml", "model.yaml"):
        received = tmp_path / f"received-{name}"
        shutil.copytree(trainee.run, received)
        place, outside = received / name, tmp_path / f"outside-{name}"
        if place.exists():
            place.rename(outside)
        else:
            outside.mkdir()
        place.symlink_to(outside)
        before = {path: path.stat().st_mtime_ns for path in (outside, *outside.rglob("*"))}
        with pytest.raises(ConfigError, match=rf"received-{name}/{name}: links in a run folder are not followed"):
            trainee.resume(run=received)
        assert {path: path.stat().st_mtime_ns for path in (outside, *outside.rglob("*"))} == before


def test_a_checkpoint_does_not_overwrite_another_name_of_a_file(trainee: Trainee, tmp_path: Path) -> None:
    assert trainee.start(stop_at=12) == PREEMPTED
    victim = tmp_path / "victim"
    victim.write_text("precious")
    checkpoints = trainee.run / "checkpoints"
    (checkpoints / "step-00000012.tmp").symlink_to(victim)
    for number in range(1000):
        (checkpoints / f".step-00000012.pt.{os.getpid()}.{number}.tmp").hardlink_to(victim)
    assert trainee.resume() == 0
    assert victim.read_text() == "precious"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000010.pt", "step-00000012.pt"]


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
@pytest.mark.parametrize(("mode", "permissions"), [("private", (0o700, 0o600)), ("group", (0o750, 0o640))])
def test_every_file_of_a_run_has_the_permissions_of_its_mode_and_the_saved_weights_those_of_the_user(
    trainee: Trainee, tmp_path: Path, mode: str, permissions: tuple[int, int], umask: int
) -> None:
    before = os.umask(umask)
    try:
        more = ["checkpoint.best=loss", f"telemetry.mode={mode}"]
        assert trainee.start(*more, stop_at=12) == PREEMPTED
        assert trainee.resume(save=tmp_path / "w.pt") == 0
    finally:
        os.umask(before)
    found = [trainee.runs, trainee.run, *trainee.run.rglob("*")]
    folder, file = permissions
    expected = {path: folder if path.is_dir() else file for path in found}
    assert {path: path.stat().st_mode & 0o777 for path in found} == expected
    assert {"best.pt", "data.json", "journal-1.jsonl", "alive.json", "train.yaml"} <= {path.name for path in found}
    assert (tmp_path / "w.pt").stat().st_mode & 0o777 == 0o666 & ~umask
