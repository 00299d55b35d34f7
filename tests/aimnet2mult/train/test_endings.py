"""Ends of runs and resumes: --save that fails, moved and changed data, nothing left to train, errors on a resume."""

import os
import shutil
import signal
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from aimnet2mult.errors import CheckpointError, ConfigError, DataError, ModelError
from aimnet2mult.models.checkpoint_folder import checkpoint_path
from aimnet2mult.train import opening, run_files, runner
from aimnet2mult.train.ending import LAST_MOMENT, PREEMPTED_DRAIN_TIMEOUT
from aimnet2mult.train.loop import Training
from aimnet2mult.train.outcome import Outcome
from aimnet2mult.train.plan import Request, make_plan
from aimnet2mult.train.runner import EXIT_NOT_SAVED, train
from support import tiny_model
from support.file_contents import read_content, read_weights
from support.plain_runs import PLAIN
from support.saved_models import TINY_DESCRIPTION
from support.tiny_runs import newest_checkpoint, points, train_tiny, write_data
from telemetry import read_receipt
from telemetry.delivery.deadline import Deadline

ONE_EPOCH = "trainer.epochs=1"


def resume(run: Path, *overrides: str, **request: Any) -> int:
    return train(Request(resume=str(run), overrides=overrides, **request))


def segments(run: Path) -> int:
    return len(list(run.glob("journal-*.jsonl")))


# ---------------------------------------------------------------- --save


@pytest.mark.parametrize("spoil", ["remove the folder", "block the name"])
def test_failing_to_save_names_the_checkpoint_and_the_command_and_the_run_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], spoil: str
) -> None:
    target = tmp_path / "out/weights.pt"
    target.parent.mkdir()
    (tmp_path / "model.yaml").write_text("class: support.tiny_model.TinyCore\n")
    real = tiny_model.SquaredLoss.__call__

    def spoiling(*arguments: Any) -> dict[str, torch.Tensor]:
        if spoil == "remove the folder":
            shutil.rmtree(target.parent, ignore_errors=True)
        else:
            target.mkdir(exist_ok=True)
        return real(*arguments)

    run = train_tiny(tmp_path, ONE_EPOCH)
    with monkeypatch.context() as patched:
        patched.setattr(tiny_model.SquaredLoss, "__call__", spoiling)
        assert resume(run, "trainer.epochs=2", save=target) == EXIT_NOT_SAVED
    assert read_receipt(run).status == "finished"
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: cannot write the weights to {target}: ")
    assert f"{newest_checkpoint(run)} contains them; to save them: aimnet2mult train --resume {run} --save PATH" in said
    assert not list(tmp_path.rglob("*.tmp"))
    assert resume(run, save=tmp_path / "again.pt") == 0
    kept = read_content(newest_checkpoint(run))["parts"]["model"]
    assert all(torch.equal(value, read_weights(tmp_path / "again.pt")[name]) for name, value in kept.items())


def test_without_a_checkpoint_the_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    from aimnet2mult.train import final_weights

    monkeypatch.setattr(final_weights, "save_weights", full_disk)
    assert final_weights.save_model(tiny_model.TinyCore(), TINY_DESCRIPTION, tmp_path / "w.pt", tmp_path) == (
        f"cannot write the weights to {tmp_path / 'w.pt'}: No space left on device; there is no checkpoint that "
        "contains them"
    )


def test_weights_saved_from_the_checkpoint_of_a_finished_run_are_those_of_its_end(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    before = segments(run)
    assert resume(run, save=tmp_path / "a.pt") == 0
    assert segments(run) == before
    assert resume(run, "trainer.epochs=2", save=tmp_path / "b.pt") == 0
    assert resume(run, save=tmp_path / "c.pt") == 0
    a, b, c = (read_weights(tmp_path / f"{name}.pt") for name in "abc")
    assert list(b) == list(c) == list(tiny_model.TinyCore().state_dict())
    assert all(torch.equal(b[name], c[name]) for name in b)
    assert not all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("folder", "it is not a file"), ("pipe", "it is not a file"), ("nowhere/w.pt", "cannot write to the folder")],
)
def test_a_target_that_cannot_be_written_is_reported_before_anything_is_created(
    tmp_path: Path, name: str, problem: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    request = Request(save=tmp_path / name, overrides=[f"telemetry.dir={tmp_path / 'runs'}"])
    with pytest.raises(ConfigError, match=rf"--save {tmp_path / name}: {problem}"):
        make_plan(request)
    assert not (tmp_path / "runs").exists()


def test_a_target_that_only_another_user_can_replace_is_reported_before_anything_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.pt").touch(mode=0o666)
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    request = Request(save=tmp_path / "w.pt", overrides=[f"telemetry.dir={tmp_path / 'runs'}"])
    with pytest.raises(ConfigError, match=r"--save .*w\.pt: the file belongs to another user"):
        make_plan(request)
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- what a resume needs


def test_a_resume_needs_neither_the_loaded_weights_nor_files_of_reference_energies(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    resume(run, save=tmp_path / "w.pt")
    (tmp_path / "sae.yaml").write_text("1: -0.1\n6: 0.1\n8: 0.2\n")
    more = (f"load={tmp_path / 'w.pt'}", f"data.sae.energy.files.0={tmp_path / 'sae.yaml'}")
    run = train_tiny(tmp_path, ONE_EPOCH, *more)
    (tmp_path / "w.pt").unlink()
    (tmp_path / "sae.yaml").unlink()
    assert resume(run, "trainer.epochs=2") == 0
    assert list(points(run)) == [3, 6]


def test_a_run_without_a_checkpoint_needs_the_weights_that_it_starts_from(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    resume(run, save=tmp_path / "w.pt")
    tiny_model.Stopping.calls_left = 1
    run = train_tiny(tmp_path, ONE_EPOCH, f"load={tmp_path / 'w.pt'}")
    (tmp_path / "w.pt").unlink()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match=r"load: no file .*w.pt"):
        resume(run)


def test_data_may_move_but_not_change(tmp_path: Path) -> None:
    validation = write_data(tmp_path / "v.h5", 5, 1)
    tiny_model.Stopping.calls_left = 2
    run = train_tiny(tmp_path, "trainer.epochs=2", f"data.val_fidelity_datasets.0={validation}")
    (tmp_path / "new").mkdir()
    for name in ("a.h5", "v.h5"):
        (tmp_path / name).rename(tmp_path / "new" / name)
    hint = r"no file .*; if it has moved, add data.val_fidelity_datasets.0=PATH to the command"
    with pytest.raises(ConfigError, match=hint):
        resume(run)
    moved = [f"data.{part}.0={tmp_path / 'new' / name}" for part, name in (("fidelity_datasets", "a.h5"),)]
    other = write_data(tmp_path / "other.h5", 5, 2)
    # With a checkpoint and without one.
    for _ in range(2):
        with pytest.raises(DataError, match=rf"the data have changed .*: data.val_fidelity_datasets.0 \({other}\)"):
            resume(run, *moved, f"data.val_fidelity_datasets.0={other}")
        with pytest.raises(DataError, match=rf"the data have changed .*: data.fidelity_datasets.0 \({other}\)"):
            resume(run, f"data.fidelity_datasets.0={other}", f"data.val_fidelity_datasets.0={tmp_path / 'new/v.h5'}")
        assert read_receipt(run).status == "preempted"
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    assert resume(run, *moved, f"data.val_fidelity_datasets.0={tmp_path / 'new/v.h5'}") == 0
    assert list(points(run)) == [4, 8]
    # The new places are those of the run from now on.
    assert resume(run, "trainer.epochs=3") == 0


def test_a_validation_file_that_has_changed_in_place_is_noticed(tmp_path: Path) -> None:
    validation = write_data(tmp_path / "v.h5", 5, 1)
    run = train_tiny(tmp_path, ONE_EPOCH, f"data.val_fidelity_datasets.0={validation}")
    with h5py.File(validation, "a") as file:
        file["003/charges"][0, 0] += 1e-3
    with pytest.raises(DataError, match=rf"the data have changed .*: data.val_fidelity_datasets.0 \({validation}\)"):
        resume(run, "trainer.epochs=2")


def test_data_sets_cannot_appear_or_disappear(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    own = write_data(tmp_path / "v.h5", 5, 1)
    for key in ("data.fidelity_datasets.1", "data.val_fidelity_datasets.0"):
        with pytest.raises(ConfigError, match=rf"{key} was None in .* and cannot be '{own}' after a resume"):
            resume(run, f"{key}={own}", "trainer.epochs=2")


def test_with_another_batch_size_iterations_keep_counting_and_epochs_have_the_new_length(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path, "trainer.epochs=2")
    assert list(points(run)) == [3, 6]
    capfd.readouterr()
    assert resume(run, "data.samplers.train.batch_size=2", "trainer.epochs=3") == 0
    said = capfd.readouterr().err
    assert "data.samplers.train.batch_size was 4, is 2: from here on, the run is not bit-identical" in said
    assert "iterations per epoch: 6 instead of 3; iteration 6 is in epoch 1" in said
    assert list(points(run)) == [3, 6, 12, 18]
    assert resume(run) == 0
    assert "nothing left to train after epoch 3" in capfd.readouterr().err


def test_too_few_epochs_of_the_new_length_leave_the_run_as_it_was(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, "trainer.epochs=2")
    settings = (run / "train.yaml").read_text()
    with pytest.raises(ConfigError, match=r"trainer.epochs is 3, but the run is already in epoch 6"):
        resume(run, "data.samplers.train.batch_size=12", "trainer.epochs=3")
    assert read_receipt(run).status == "finished"
    assert (run / "train.yaml").read_text() == settings


def test_a_checkpoint_of_an_earlier_version_needs_the_same_batch_size(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    path = newest_checkpoint(run)
    content = read_content(path)
    del content["position"]["samplers"]
    torch.save(content, path)
    (run / "data.json").unlink()
    with pytest.raises(CheckpointError, match=r"the data sets or data.samplers have changed"):
        resume(run, "data.samplers.train.batch_size=2", "trainer.epochs=2")
    assert resume(run, "trainer.epochs=2") == 0


# ---------------------------------------------------------------- nothing left, and errors on a resume


def test_a_resume_with_nothing_left_opens_no_attempt(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capfd.readouterr()
    assert resume(run) == 0
    assert capfd.readouterr().err == (
        f"{run}: nothing left to train after epoch 1; increase trainer.epochs to continue\n"
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_resume_with_nothing_left_names_the_command_that_delivers_the_rest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH, "telemetry.sinks=tensorboard", "telemetry.delivery=thread")
    (run / "sinks" / "tensorboard.json").unlink()
    assert resume(run) == 0
    assert f"deliver the rest: telemetry sync {run} --telemetry-sinks tensorboard" in capfd.readouterr().err


def test_a_user_error_on_a_resume_leaves_a_finished_run_finished(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path, "trainer.epochs=2")
    before = segments(run)
    for override, message in (("trainer.epochs=1", "already in epoch 2"), ("seed=1", "seed was 0")):
        with pytest.raises(ConfigError, match=message):
            resume(run, override)
    # These are known before an attempt is opened, the next one is not.
    assert segments(run) == before
    torch_cuda = torch.cuda.is_available()
    if not torch_cuda:
        with pytest.raises(ConfigError, match="torch finds no CUDA device"):
            resume(run, "device=cuda", "trainer.epochs=3")
    write_data(tmp_path / "a.h5", 16, 5)
    capfd.readouterr()
    with pytest.raises(DataError, match="the data have changed"):
        resume(run, "trainer.epochs=3")
    assert capfd.readouterr().out == "", "a receipt would hide the message"
    assert read_receipt(run).status == "finished"
    plan = make_plan(Request(resume="auto", overrides=_auto(tmp_path)))
    assert plan.folder != run


def _auto(folder: Path) -> list[str]:
    return ["run_name=tiny", f"telemetry.dir={folder / 'runs'}", f"data.fidelity_datasets.0={folder / 'a.h5'}"]


def test_all_changes_that_a_resume_refuses_are_listed_at_once(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    with pytest.raises(ConfigError) as caught:
        resume(run, "seed=1", "optimizer.kwargs.lr=0.2", "trainer.epochs=ten", "telemetry.evry=1")
    lines = str(caught.value).splitlines()
    assert [next(word for word in ("seed", "lr", "epochs", "evry") if word in line) for line in lines] == [
        "epochs",
        "seed",
        "lr",
        "epochs",  # the settings that may change
        "evry",
    ]
    assert lines[3].startswith("only trainer.epochs, ")


def test_a_finished_run_without_a_checkpoint_is_not_started_again(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="has finished, but has no checkpoint to continue from"):
        resume(run, "trainer.epochs=2")


def test_a_file_with_the_name_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    torch.save({"weights": torch.ones(3)}, checkpoint_path(run, 9))
    with pytest.raises(CheckpointError, match=r"step-00000009.pt is not a checkpoint of this trainer"):
        resume(run)


def test_malformed_files_of_a_run_are_refused(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, ONE_EPOCH)
    original = (run / "data.json").read_bytes()
    (run / "data.json").write_bytes(original[:5])
    with pytest.raises(DataError, match=r"data.json is damaged; remove it to resume without comparing"):
        resume(run, "trainer.epochs=2")
    (run / "data.json").write_bytes(original)
    path = newest_checkpoint(run)
    content = read_content(path)
    content["parts"]["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"does not fit this run: optimizer: state of parameter 0 of group 0: "):
        resume(run, "trainer.epochs=2")
    torch.save([1, 2], path)
    message = r"is not a checkpoint of this trainer: it contains a list instead of the state of a training"
    with pytest.raises(CheckpointError, match=message):
        resume(run, "trainer.epochs=2")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("step/data.pkl", bytes(10**6))
    with pytest.raises(ConfigError, match=r"all checkpoints of .* are damaged"):
        resume(run, "trainer.epochs=2")


# ---------------------------------------------------------------- errors before the data are read


def test_problems_of_model_loss_optimizer_and_weights_are_reported_at_once(
    tmp_path: Path,
) -> None:
    # It begins like an archive.
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError) as caught:
        train_tiny(
            tmp_path,
            f"load={tmp_path / 'w.pt'}",
            "optimizer.kwargs.nesterov=1",
            "loss.class=support.tiny_model.NoSuchLoss",
            "data.y=[energy, charges]",
        )
    lines = str(caught.value).splitlines()
    assert ["NoSuchLoss" in lines[0], "w.pt does not contain" in lines[1], "nesterov" in lines[2]] == [True] * 3
    assert not (tmp_path / "runs").exists()


def test_an_error_of_the_model_names_its_file(tmp_path: Path) -> None:
    train_tiny(tmp_path, ONE_EPOCH)
    (tmp_path / "m.yaml").write_text("class: support.tiny_model.TinyCore\nkwargs: {layers: 3}\n")
    with pytest.raises(ModelError, match=rf"^{tmp_path / 'm.yaml'}: cannot build the model: .*layers"):
        train(Request(overrides=[*_auto(tmp_path), "data.y=[energy, charges]"], model=tmp_path / "m.yaml"))


def test_a_disk_that_is_full_before_the_settings_are_written_is_reported_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_files, "write_yaml", full_disk)
    with pytest.raises(ConfigError, match=r"cannot write the settings to .*: No space left on device; free some"):
        train_tiny(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_rejected_sink_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        train_tiny(tmp_path, "telemetry.sinks=nosuchsink", f"telemetry.dir={tmp_path / 'new/runs'}")
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- signals while waiting for the sinks


@pytest.fixture
def request_to_train(tmp_path: Path) -> Request:
    """Return a request for one epoch of a tiny model."""
    (tmp_path / "model.yaml").write_text("class: support.tiny_model.TinyCore\n")
    write_data(tmp_path / "a.h5", 16, 0)
    overrides = [*_auto(tmp_path), "data.y=[energy, charges]", "loss.class=support.tiny_model.SquaredLoss"]
    overrides += ["optimizer.param_groups.shifts=null", ONE_EPOCH, "telemetry.sinks=none", *PLAIN]
    return Request(overrides=overrides, model=tmp_path / "model.yaml")


def the_run(tmp_path: Path) -> Path:
    (run,) = (tmp_path / "runs").iterdir()
    return run


def test_ctrl_c_while_waiting_for_the_sinks_prints_the_receipt_of_the_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], request_to_train: Request
) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    # The wait for the sinks, which without sinks is too short to be interrupted from outside.
    monkeypatch.setattr("telemetry.delivery.supervisor.ProcessSupervisor.finish", interrupted)
    assert train(request_to_train) == 128 + signal.SIGINT
    assert read_receipt(the_run(tmp_path)).status == "finished"
    assert f"journaled in {the_run(tmp_path)}" in capfd.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_waiting_for_the_sinks_of_a_finished_run_leaves_them_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_to_train: Request, number: signal.Signals
) -> None:
    left: list[float] = []

    def signaled(_: object, deadline: Deadline) -> None:
        left.append(deadline.remaining())
        signal.raise_signal(number)
        left.append(deadline.remaining())

    monkeypatch.setattr("telemetry.delivery.supervisor.ProcessSupervisor.finish", signaled)
    # The job must not be started again because of it.
    assert train(request_to_train) == 0
    before, after = left
    assert before > 25
    assert after <= LAST_MOMENT
    assert read_receipt(the_run(tmp_path)).status == "finished"


def test_a_signal_after_the_last_iteration_shortens_the_wait_for_the_sinks(
    monkeypatch: pytest.MonkeyPatch, request_to_train: Request
) -> None:
    left: list[float] = []
    monkeypatch.setattr(
        "telemetry.delivery.supervisor.ProcessSupervisor.finish", lambda _, deadline: left.append(deadline.remaining())
    )
    run = Training.run

    def signaled(training: Training) -> Outcome:
        outcome = run(training)
        signal.raise_signal(signal.SIGTERM)
        return outcome

    monkeypatch.setattr(Training, "run", signaled)
    assert train(request_to_train) == 0
    assert left[0] <= PREEMPTED_DRAIN_TIMEOUT


# ---------------------------------------------------------------- signals before the run is opened


def test_a_signal_during_the_check_of_the_data_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_to_train: Request
) -> None:
    monkeypatch.setattr(opening, "check_data", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        train(request_to_train)
    assert ended.value.code == 143
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_the_import_of_torch_takes_effect_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_to_train: Request, number: int, code: int
) -> None:
    def load_libraries() -> None:
        signal.raise_signal(number)
        pytest.fail("the import continued")

    monkeypatch.setattr(runner, "load_libraries", load_libraries)
    assert train(request_to_train) == code
    assert read_receipt(the_run(tmp_path)).status == "preempted"
