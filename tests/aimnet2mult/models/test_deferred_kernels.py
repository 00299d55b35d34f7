"""Tests of the import of aimnet without the kernels that few models use."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aimnet
import pytest

from aimnet2mult.models.deferred_kernels import DEFERRED, import_deferring

KERNELS = """
class Overflow(Exception):
    pass

def add(a, *, b):
    if a + b > 10:
        raise Overflow
    return a + b
"""
USER = """
from zz_package.zz_kernels import Overflow, add

def total(a, b):
    try:
        return add(a, b=b)
    except Overflow:
        return 10
"""
NAMES = {"zz_package.zz_kernels": ("Overflow", "add")}

IMPORT = """
import json, sys
import aimnet2mult.train.assembly
print(json.dumps([name for name in sys.modules if name.startswith("nvalchemiops.")]))
"""
FIRST_CALL = """
import json, sys
import aimnet2mult.models.build
import torch
from aimnet import nbops
from aimnet.modules import DFTD3, lr
from aimnet2mult.models.deferred_kernels import DEFERRED

def energy():
    coord = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]])
    data = {"coord": coord, "numbers": torch.tensor([[18, 18]]), "charge": torch.zeros(1), "energy": torch.zeros(1)}
    return float(module(nbops.calc_masks(nbops.set_nb_mode(data)))["energy"])

module = DFTD3(s8=0.5764, a1=0.4145, a2=4.8593).eval()
first = energy()
same = [getattr(lr, name) is getattr(sys.modules[of], name) for of, names in DEFERRED.items() for name in names]
print(json.dumps([same, first, energy()]))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a package with a module of kernels, in a folder from which modules are imported."""
    folder = tmp_path / "zz_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "zz_kernels.py").write_text(KERNELS)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("zz_package", "zz_package.zz_kernels", "zz_user"):
        # Removes, at the end of the test, what it has imported.
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
        del sys.modules[name]
    return tmp_path


def test_kernels_are_imported_with_the_first_call(package: Path) -> None:
    (package / "zz_user.py").write_text(USER)
    import_deferring("zz_user", NAMES)
    assert "zz_package.zz_kernels" not in sys.modules
    user = sys.modules["zz_user"]
    assert user.total(1, 2) == 3
    assert user.add is sys.modules["zz_package.zz_kernels"].add


def test_an_error_of_the_first_call_is_caught(package: Path) -> None:
    (package / "zz_user.py").write_text(USER)
    import_deferring("zz_user", NAMES)
    assert sys.modules["zz_user"].total(9, 9) == 10


@pytest.mark.parametrize(
    "line",
    ["from zz_package.zz_kernels import KERNEL", "class Special(Overflow): pass", "import zz_package.zz_kernels.deep"],
)
def test_a_version_that_needs_more_of_the_kernels_imports_them_at_once(package: Path, line: str) -> None:
    deep = "deep" in line
    kernels = package / "zz_package/zz_kernels.py"
    if deep:
        kernels.unlink()
        kernels = package / "zz_package/zz_kernels/__init__.py"
        kernels.parent.mkdir()
        (kernels.parent / "deep.py").touch()
    kernels.write_text(f"{KERNELS}\nKERNEL = 1\n")
    (package / "zz_user.py").write_text(f"{USER}\n{line}\n")
    import_deferring("zz_user", NAMES)
    assert sys.modules["zz_user"].add is sys.modules["zz_package.zz_kernels"].add


def test_an_error_of_the_module_itself_is_raised(package: Path) -> None:
    (package / "zz_user.py").write_text(f"{USER}\nraise ValueError('wrong')\n")
    with pytest.raises(ValueError, match="wrong"):
        import_deferring("zz_user", NAMES)
    assert "zz_package.zz_kernels" in sys.modules


def test_kernels_that_are_imported_already_are_used(package: Path) -> None:
    (package / "zz_user.py").write_text(USER)
    __import__("zz_package.zz_kernels")
    import_deferring("zz_user", NAMES)
    assert sys.modules["zz_user"].add is sys.modules["zz_package.zz_kernels"].add


def test_aimnet_imports_the_deferred_names_and_no_others() -> None:
    source = Path(aimnet.__file__).parent / "modules/lr.py"
    found = {
        node.module: tuple(sorted(alias.name for alias in node.names))
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("nvalchemiops")
    }
    assert found == DEFERRED


def test_training_does_not_import_the_kernels() -> None:
    assert _run(IMPORT) == []


@pytest.mark.slow
def test_the_first_call_of_a_kernel_in_aimnet_imports_it() -> None:
    same, first, second = _run(FIRST_CALL)
    assert all(same)
    assert first == second < 0


def _run(code: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    return json.loads(done.stdout)
