"""The command reports mistakes immediately, in one line, without slow imports."""

import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from aimnet2mult import cli
from aimnet2mult.errors import CheckpointError, ConfigError, DataError, ModelError
from aimnet2mult.train import plan as plans
from aimnet2mult.train import runner
from aimnet2mult.train.plan import Request
from telemetry import SinkNotFound

HEAVY = ("torch", "aimnet", "h5py", "ignite", "warp", "tqdm", "pint", "tensorboard", "wandb", "mlflow")


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    return f"data.fidelity_datasets.0={tmp_path / 'a.h5'}"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Return the requests that reach the training, which is replaced."""
    received: list[Request] = []

    def train(request: Request) -> int:
        received.append(request)
        return 7

    monkeypatch.setattr(runner, "train", train)
    monkeypatch.delenv("TELEMETRY_SINKS", raising=False)
    return received


def run(capsys: pytest.CaptureFixture[str], *arguments: str, command: click.Command = cli.cli) -> tuple[int, str, str]:
    """Run a command as the entry point does; return its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as exit_:
        cli.run(command, "aimnet2mult", list(arguments))
    written = capsys.readouterr()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, written.out, written.err


# ---------------------------------------------------------------- mistakes


MISTAKES = {
    "unknown command": (["trian"], "no such command 'trian'. Did you mean 'train'? See: aimnet2mult --help"),
    "unknown option": (
        ["train", "--confg", "a"],
        "no such option '--confg'. Did you mean '--config'? See: ",
    ),
    "missing file": (["train", "--config", "nowhere.yaml"], "'nowhere.yaml' does not exist"),
    "no data": (["train"], "data.fidelity_datasets.0=FILE.h5"),
    "unknown key": (["train", "DATASET", "trainer.epoch=1"], "Did you mean 'trainer.epochs'?"),
    "bad value": (["train", "DATASET", "trainer.epochs=0"], "trainer.epochs is 0"),
    "bad threads": (["train", "DATASET", "--threads", "many"], "'--threads': 'many' is not an integer of at least 1"),
    "bad every": (["train", "DATASET", "--telemetry-every", "0"], "--telemetry-every"),
    "bad every in the key": (["train", "DATASET", "telemetry.every=0"], "telemetry.every"),
    "unknown sink": (["train", "DATASET", "--telemetry-sinks", "tensorbord"], "Did you mean 'tensorboard'?"),
    "unknown setting": (["train", "DATASET", "telemetry.evry=3"], "did you mean telemetry.every?"),
    "unknown option of a sink": (["train", "DATASET", "telemetry.tensorboard.x=1"], "has no option 'x'"),
    "no run": (["train", "--resume", "nowhere"], "no run 'nowhere'"),
    "no HDF5": (["train", "data.fidelity_datasets.0=empty"], "empty is not an HDF5 file"),
    "no YAML": (["train", "DATASET", "--model", "a.h5"], "cannot read a.h5"),
    "no model": (["train", "DATASET", "--model", "empty"], "empty has no key 'class'"),
    "unwritable": (["train", "DATASET", "--telemetry-dir", "a.h5/runs"], "choose another with --telemetry-dir"),
    "several mistakes": (["train", "trainer.epochs=0", "seed=x", "checkpoint.kep=1", "--save", "."], "trainer.epochs"),
    "unwritable weights": (["train", "DATASET", "--save", "nowhere/w.pt"], "--save"),
    "unknown unit": (["train", "DATASET", "telemetry.units.energy=quatloo"], "'quatloo' is not a unit"),
    "unit of another dimension": (["train", "DATASET", "telemetry.units.energy=second"], "another dimension"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_in_one_line_with_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: str, name: str
) -> None:
    arguments, message = MISTAKES[name]
    (tmp_path / "empty").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TELEMETRY_SINKS", raising=False)
    code, out, err = run(capsys, *[dataset if word == "DATASET" else word for word in arguments])
    assert code == 2
    assert out == ""
    lines = err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) == (5 if name == "several mistakes" else 1)
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_mistakes_and_help_import_no_slow_packages(tmp_path: Path, dataset: str) -> None:
    """Run all of the above in one process, except for units, which need pint."""
    (tmp_path / "empty").touch()
    mistakes = [
        [dataset if word == "DATASET" else word for word in arguments]
        for name, (arguments, _) in MISTAKES.items()
        if "unit" not in name
    ]
    code = f"""
import sys
from aimnet2mult.cli import cli, run
for arguments in {[*mistakes, ["--help"], ["train", "--help"], ["--version"], []]!r}:
    try:
        run(cli, "aimnet2mult", arguments)
    except SystemExit as exit_:
        print(exit_.code)
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env=_environment()
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line == "2"] == ["2"] * len(mistakes)
    assert lines[-1] == "[]"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "trainer.epoch=1"]], ids=" ".join)
def test_help_and_mistakes_take_less_than_a_second(arguments: list[str]) -> None:
    # CPU time, which does not depend on the load of the machine.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "aimnet2mult.cli", *arguments], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize("error", [ConfigError, DataError, ModelError, CheckpointError, SinkNotFound])
def test_errors_that_the_user_can_fix_have_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def train(_: Request) -> int:
        raise error("the problem")

    monkeypatch.setattr(runner, "train", train)
    assert run(capsys, "train", "a=1") == (2, "", "error: the problem\n")


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(_: Request) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "train", train)
    with pytest.raises(ZeroDivisionError):
        cli.run(cli.cli, "aimnet2mult", ["train", "a=1"])


def test_an_interrupt_exits_as_shells_expect(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_: Request) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "train", train)
    assert run(capsys, "train", "a=1")[0] == 130


def test_missing_packages_are_named_with_the_command_that_installs_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: str
) -> None:
    monkeypatch.setitem(sys.modules, "ignite", None)  # makes find_spec return None
    for arguments in (["train", dataset], ["calc-sae", str(tmp_path / "a.h5"), "out.yaml"]):
        code, _, err = run(capsys, *arguments)
        assert (code, err) == (
            2,
            "error: required packages are not installed: ignite; run: pip install 'aimnet2mult[train]'\n",
        )


@pytest.mark.parametrize("arguments", [["--help"], ["sample-data", "DIR"], ["train", "--help"]], ids=" ".join)
def test_output_to_a_full_device_is_reported_without_a_traceback(tmp_path: Path, arguments: list[str]) -> None:
    words = [str(tmp_path / word) if word == "DIR" else word for word in arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "aimnet2mult.cli", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


def test_folders_named_like_packages_are_no_packages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: str
) -> None:
    monkeypatch.setattr("aimnet2mult.cli.console.TRAINING_PACKAGES", ("torch", "zz_ignite"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "torch").mkdir()
    (tmp_path / "zz_ignite").mkdir()
    code, _, err = run(capsys, "train", dataset)
    assert (code, err.partition(";")[0]) == (2, "error: required packages are not installed: zz_ignite")


# ---------------------------------------------------------------- options


def test_options_reach_the_run(
    capsys: pytest.CaptureFixture[str], requests: list[Request], tmp_path: Path, dataset: str
) -> None:
    for name in ("1.yaml", "2.yaml", "m.yaml", "w.pt"):
        (tmp_path / name).touch()
    arguments = ["--config", f"{tmp_path}/1.yaml", "--config", f"{tmp_path}/2.yaml", "--model", f"{tmp_path}/m.yaml"]
    arguments += ["--load", f"{tmp_path}/w.pt", "--save", "out.pt", "--resume", "auto", "--threads", "3"]
    arguments += ["--telemetry-sinks", "a,b", "--telemetry-every", "5", "--telemetry-dir", "d d"]
    assert run(capsys, "train", *arguments, dataset)[0] == 7
    (request,) = requests
    assert request.configs == (tmp_path / "1.yaml", tmp_path / "2.yaml")
    assert (request.model, request.save, request.resume) == (tmp_path / "m.yaml", Path("out.pt"), "auto")
    assert set(request.overrides) == {
        dataset,
        f'load="{tmp_path}/w.pt"',
        "threads=3",
        'telemetry.sinks="a,b"',
        "telemetry.every=5",
        'telemetry.dir="d d"',
    }


def test_a_tilde_is_expanded_in_every_path(
    capsys: pytest.CaptureFixture[str],
    requests: list[Request],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    dataset: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.yaml").write_text("class: support.tiny_model.TinyCore\n")
    (tmp_path / "c.yaml").touch()
    (tmp_path / "w.pt").write_bytes(b"PK")
    arguments = ["--config=~/c.yaml", "--model=~/m.yaml", "--load=~/w.pt", "--save=~/s.pt", "--telemetry-dir=~/runs"]
    assert run(capsys, "train", *arguments, dataset)[0] == 7
    plan = plans.make_plan(requests[0])
    assert (requests[0].configs, plan.save) == ((tmp_path / "c.yaml",), tmp_path / "s.pt")
    assert (plan.config.load, plan.folder.parent) == (str(tmp_path / "w.pt"), tmp_path / "runs")
    assert run(capsys, "train", "--resume=~/nowhere")[0] == 7
    with pytest.raises(ConfigError, match="no run"):
        plans.make_plan(requests[1])
    assert run(capsys, "sample-data", "~/sample")[0] == 0
    assert (tmp_path / "sample/train.yaml").is_file()


@pytest.mark.parametrize(
    ("given", "wins"),
    [
        ({"flag": "a", "environment": "b", "key": "c", "file": "d"}, ("a",)),
        ({"environment": "b", "file": "d"}, ("b",)),
        ({"environment": "b", "key": "c", "file": "d"}, ("c",)),
        ({"environment": "", "file": "d"}, ("d",)),
        ({}, ("tensorboard",)),
        ({"flag": "none", "environment": "b", "file": "d"}, ()),
        ({"flag": "a,b"}, ("a", "b")),
    ],
)
def test_the_command_line_overrides_the_environment_which_overrides_files(
    *,
    monkeypatch: pytest.MonkeyPatch,
    requests: list[Request],
    tmp_path: Path,
    dataset: str,
    given: dict[str, str],
    wins: tuple[str, ...],
) -> None:
    arguments = [dataset, f"telemetry.dir={tmp_path}/runs"]
    if "file" in given:
        (tmp_path / "c.yaml").write_text(f"telemetry: {{sinks: [{given['file']}]}}")
        arguments += ["--config", str(tmp_path / "c.yaml")]
    if "environment" in given:
        monkeypatch.setenv("TELEMETRY_SINKS", given["environment"])
    if "key" in given:
        arguments.append(f"telemetry.sinks={given['key']}")
    if "flag" in given:
        arguments += ["--telemetry-sinks", given["flag"]]
    with pytest.raises(SystemExit):
        cli.run(cli.cli, "aimnet2mult", ["train", *arguments])
    assert plans.make_plan(requests[0]).settings.sinks == wins


def test_the_modules_of_the_original_trainer_are_equivalent_commands() -> None:
    for module, command in (("cli", "train"), ("calc_sae", "calc-sae")):
        texts = [
            subprocess.run([sys.executable, "-m", *words, "--help"], capture_output=True, text=True, check=True).stdout
            for words in ([f"aimnet2mult.train.{module}"], ["aimnet2mult.cli", command])
        ]
        first, second = (text.partition("\n")[2] for text in texts)
        assert first == second


# ---------------------------------------------------------------- the other commands


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, list(arguments))


def test_help_is_shown_without_a_command() -> None:
    result = invoke()
    assert result.exit_code == 0
    assert all(command in result.output for command in ("train", "calc-sae", "sample-data"))


def test_sample_data_are_written_with_valid_settings(tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    result = invoke("sample-data", str(folder))
    assert result.exit_code == 0, result.output
    command = result.output.rpartition("to train: ")[2].strip()
    config, model = folder / "train.yaml", folder / "model.yaml"
    assert shlex.split(command) == ["aimnet2mult", "train", "--config", str(config), "--model", str(model)]
    plan = plans.make_plan(Request(configs=[config], model=model, overrides=[f"telemetry.dir={tmp_path}/runs"]))
    assert plan.config.fidelity_names == ("gfn1", "spgfn2")
    assert plan.config.data.fidelity_datasets[1] == str(folder / "spgfn2.h5")


def test_sample_data_are_not_written_over_other_files(tmp_path: Path) -> None:
    assert invoke("sample-data", str(tmp_path)).exit_code == 0
    assert invoke("sample-data", str(tmp_path)).exit_code == 0
    (tmp_path / "train.yaml").write_text("mine")
    result = invoke("sample-data", str(tmp_path))
    assert result.exit_code != 0
    assert f"{tmp_path / 'train.yaml'} already exists with other content" in result.output
    assert (tmp_path / "train.yaml").read_text() == "mine"


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "TELEMETRY_SINKS"}
