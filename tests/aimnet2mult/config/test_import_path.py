"""Settings import only what the user trusts, whatever way a path takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aimnet2mult.config.import_path import ALLOW_VARIABLE, Role, allow_flags, allow_packages, load_object
from aimnet2mult.errors import ConfigError

ROLES: tuple[Role, ...] = ("model", "loss", "optimizer", "scheduler")


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the marker file that the package `ownlab` writes when it is imported."""
    marker = tmp_path / "imported"
    (tmp_path / "ownlab.py").write_text(
        f"import os, subprocess, pathlib\nfrom subprocess import check_output\npathlib.Path({str(marker)!r}).touch()\n"
        "class Loss: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marker
    sys.modules.pop("ownlab", None)


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("torch.optim.RAdam", "optimizer"),
        ("torch.optim.adamw.AdamW", "optimizer"),
        ("torch.optim.lr_scheduler.StepLR", "scheduler"),
        ("ignite.handlers.param_scheduler.CosineAnnealingScheduler", "scheduler"),
        ("ignite.handlers.CosineAnnealingScheduler", "scheduler"),
        ("aimnet2mult.train.loss.MTLoss", "loss"),
        ("aimnet2mult.train.loss.peratom_loss_fn", "loss"),
        ("aimnet.models.AIMNet2", "model"),
        ("aimnet.modules.LRCoulomb", "model"),
        ("torch.nn.GELU", "model"),
        ("torch.nn.init.xavier_normal_", "model"),
    ],
)
def test_what_training_needs_is_trusted(path: str, role: Role) -> None:
    assert load_object(path, "key", role).__name__ == path.rpartition(".")[2]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.check_output",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.os.system",
        "torch.utils.cpp_extension.load",
        "torch.utils.tensorboard.SummaryWriter",
        "torch.package.PackageImporter",
        "torch.jit.load",
        "torch.nn.modules.module.torch.hub.load",
        "torch.nn.modules.module.functools.partial",
        "torch.nn.modules.module.warnings.warn",
        "torch.optim.optimizer.warnings.warn",
        "torch.optim.lr_scheduler.partial",
        "torch.nn.os.system",
        "torch.optimize.Adam",
        "ignite.handlers.checkpoint.torch.load",
        "aimnet.config.get_init_module",
        "aimnet.modules.core.get_init_module",
        "aimnet.models.base.torch.load",
        "aimnet.calculators.AIMNet2Calculator",
        "aimnet.train.loss.get_module",
        "aimnet2mult.train.runner.os.system",
        "aimnet2mult.train.loss.find_functions",
        "aimnet2mult.train.loss.torch.load",
        "aimnet2mult.config.merge.write_yaml",
        "telemetry.run_folder.atomic_write.atomic_write",
        "__main__.x",
    ],
)
def test_nothing_else_is_imported_in_any_role(path: str, role: Role) -> None:
    with pytest.raises(ConfigError) as caught:
        load_object(path, "some.key", role)
    (line,) = str(caught.value).splitlines()
    assert f"some.key is {path!r}" in line


@pytest.mark.parametrize("path", ["", ".", "os", "..loss.fn", "os..system", "os.system\n", "os.system()", " os.a", 5])
def test_a_malformed_path_is_rejected(path: object) -> None:
    with pytest.raises(ConfigError, match=r"expected a dotted path such as torch\.optim\.RAdam$"):
        load_object(path, "key", "loss")


def test_a_package_is_not_imported_before_it_is_allowed(package: Path) -> None:
    message = r"^key is 'ownlab\.Loss': a loss may come from .*; if you trust it, .*, add --allow-package ownlab$"
    with pytest.raises(ConfigError, match=message):
        load_object("ownlab.Loss", "key", "loss")
    assert not package.exists()
    with allow_packages(["ownlab"]):
        assert load_object("ownlab.Loss", "key", "loss").__name__ == "Loss"
    assert package.exists()
    with pytest.raises(ConfigError, match="--allow-package ownlab"):
        load_object("ownlab.Loss", "key", "loss")


@pytest.mark.parametrize("path", ["ownlab.check_output", "ownlab.os.system", "ownlab.subprocess.Popen"])
def test_an_allowed_package_does_not_admit_what_it_imports(package: Path, path: str) -> None:
    message = r"defined in subprocess: .*|cannot import ownlab\."
    with allow_packages(["ownlab"]), pytest.raises(ConfigError, match=message):
        load_object(path, "key", "loss")


@pytest.mark.parametrize("value", ["ownlab", "other,ownlab", " other  ownlab "])
def test_the_environment_may_allow_packages(package: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, value)
    assert load_object("ownlab.Loss", "key", "loss")
    assert package.exists()


def test_suggested_commands_allow_the_packages_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "mylab")
    with allow_packages(["ownlab", "other", "ownlab"]):
        assert allow_flags() == " --allow-package ownlab --allow-package other"
    assert allow_flags() == ""


def test_allowing_a_package_does_not_allow_one_whose_name_continues() -> None:
    with allow_packages(["sub"]), pytest.raises(ConfigError, match=r"a loss may come from [\w., ]+$"):
        load_object("subprocess.Popen", "key", "loss")


def test_an_error_suggests_to_allow_a_package_but_not_a_module_of_python() -> None:
    with pytest.raises(ConfigError, match=r"add --allow-package numpy$"):
        load_object("numpy.load", "key", "loss")
    with pytest.raises(ConfigError, match=r"a model may come from [\w., ]+$"):
        load_object("os.system", "key", "model")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a\n", ".a", "a.", "-x"])
def test_a_malformed_name_of_a_package_is_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--allow-package: .* is not the name of a package"), allow_packages([name]):
        pass


def test_a_malformed_name_in_the_environment_is_reported_with_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "fine a/b c-d")
    message = f"^{ALLOW_VARIABLE}: 'a/b' is not .*\n{ALLOW_VARIABLE}: 'c-d' is not .*$"
    with pytest.raises(ConfigError, match=message), allow_packages([]):
        pass
