"""Check the training on a machine with a CUDA GPU, in less than eight minutes: ``python tools/gpu_check.py``.

Four parts, each with a limited time: install the packages into a virtual environment, unless this Python has them; run
the tests marked ``gpu``; measure the duration of a step with none, one and three sinks; and count the launches and
synchronizations of an iteration. ``gpu.json`` and ``gpu.md`` are written after each part.

The exit code is 0 if every part succeeded, and 1 otherwise. Needs Python 3.11, an NVIDIA driver, and a package index or
what pip's environment variables say, such as PIP_FIND_LINKS. ``--device cpu`` is a rehearsal without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

import gpu_report  # noqa: E402

LIMITS = {"setup": 0.55, "tests": 0.4, "launches": 0.2, "step time": 0.25}
"""Maximum time of each part, as a fraction of that of the whole check, which also ends it."""
IMPORTS = "torch, aimnet, ignite, h5py, msgspec, click, pytest, hypothesis, ase, tensorboard, wandb, mlflow"
EXTRAS = ".[train,tensorboard,wandb,mlflow,plot,convert]"
TEST_PACKAGES = ("pytest", "hypothesis", "omegaconf")
TESTS = ("tests/gpu", "tests/aimnet2mult/metrics", "tests/integrations")
SINKS = {
    "bare": (),
    "none": (),
    "one": ("tensorboard",),
    "three": ("tensorboard", "wandb", "mlflow"),
}
EVERY = {"bare": 1_000_000, "between": 1_000_000, "due": 1}
ITERATIONS = {"cuda": 200, "cpu": 20}
ALLOWED_WAITS = 0.02
"""Synchronizations per iteration between due points up to which the count passes: the profiler itself waits."""
ENDING = 10.0
"""Seconds that a process gets to end after it was asked to."""


class PartFailed(Exception):
    """A part did not succeed; the message says why."""


@dataclass
class Check:
    """What all parts need."""

    python: str
    device: str
    out: Path
    tests: tuple[str, ...]
    variants: tuple[str, ...]
    iterations: int
    rounds: int
    deadline: float = 0.0
    """When the part has to end, on the monotonic clock."""

    @property
    def left(self) -> float:
        """Seconds until the part has to end."""
        return max(0.0, self.deadline - time.monotonic())

    def run(self, *command: str, log: str) -> int:
        """Run a command in the root of the repository until the part has to end; return its exit code."""
        with (self.out / log).open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=file, env=environment(), start_new_session=True
            )
            try:
                return process.wait(self.left)
            except subprocess.TimeoutExpired:
                end_group(process)
                raise PartFailed(f"not finished within its time; see {log}") from None


def environment() -> dict[str, str]:
    """Return the environment of all commands, which use this checkout."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return os.environ | quiet | {"PYTHONPATH": os.pathsep.join(paths)}


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDING)
            return


def can_import(python: str, names: str, *, cuda: bool) -> bool:
    """Return whether a Python can import modules, and torch finds a CUDA device if that is required."""
    test = f"import {names}" + ("; import sys, torch; sys.exit(not torch.cuda.is_available())" if cuda else "")
    return not subprocess.run([python, "-c", test], check=False, capture_output=True, timeout=120).returncode


def driver_problem(library: str = "libcuda.so.1") -> str:
    """Return why the driver finds no GPU, or ""."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"there is no NVIDIA driver: {library} is missing; --device cpu is a rehearsal without a GPU"
    if code := driver.cuInit(0):
        return f"the NVIDIA driver finds no GPU that it can use (cuInit returns {code}); see nvidia-smi"
    return ""


def set_up(check: Check) -> dict[str, Any]:
    """Find or create the environment of the other parts, with a build of torch for CUDA."""
    on_gpu = check.device == "cuda"
    if on_gpu and (problem := driver_problem()):
        raise PartFailed(problem)
    if can_import(check.python, IMPORTS, cuda=on_gpu):
        return {"result": f"{check.python} has all packages"}
    has_torch = can_import(check.python, "torch", cuda=on_gpu)
    venv = check.out / "venv"
    options = ["--system-site-packages"] if has_torch else []
    if check.run(check.python, "-m", "venv", "--clear", *options, str(venv), log="setup.log"):
        raise PartFailed("cannot create a virtual environment; see setup.log")
    python = str(venv / "bin" / "python")
    constraints = check.out / "constraints.txt"
    constraints.write_text(pinned_versions(without="torch" if has_torch else ""), encoding="utf-8")
    wanted = ["--constraint", str(constraints), "--editable", EXTRAS, *TEST_PACKAGES]
    installers = [[python, "-m", "pip", "install", "--quiet", *wanted]]
    # uv is several times as fast, but installs a second torch where the system has one.
    if not has_torch and not check.run(python, "-m", "pip", "install", "--quiet", "uv", log="setup-uv.log"):
        installers.insert(0, [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, *wanted])
    problem = "the packages cannot be installed"
    for number, command in enumerate(installers):
        if check.run(*command, log=f"setup-{number}.log"):
            continue
        if can_import(python, IMPORTS, cuda=on_gpu):
            check.python = python
            return {"result": f"installed into {venv}" + (", with the torch of the system" if has_torch else "")}
        problem = f"{python} cannot import all packages" + (", or its torch finds no CUDA device" if on_gpu else "")
    raise PartFailed(f"{problem}; see setup-*.log")


def pinned_versions(*, without: str) -> str:
    """Return the versions in ``requirements/all.txt``, without hashes, as pip would otherwise require them for all."""
    text = (ROOT / "requirements" / "all.txt").read_text(encoding="utf-8")
    lines = re.findall(r"^([A-Za-z0-9_.-]+==[^\s;\\]+(?: ; [^\\\n]+)?)", text, re.MULTILINE)
    return "".join(f"{line.strip()}\n" for line in lines if line.partition("==")[0] != without)


def describe_machine(check: Check) -> dict[str, str]:
    """Return what the figures depend on."""
    code = (
        "import json, platform, torch, warp\n"
        "found = {'Python': platform.python_version(), 'torch': torch.__version__, 'warp': warp.__version__}\n"
        "if torch.cuda.is_available():\n"
        "    found |= {'CUDA': torch.version.cuda, 'GPU': torch.cuda.get_device_name(0)}\n"
        "print(json.dumps(found))"
    )
    with contextlib.suppress(subprocess.SubprocessError, ValueError, IndexError):
        done = subprocess.run(
            [check.python, "-c", code], check=False, capture_output=True, timeout=120, env=environment()
        )
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found
    return {}


def run_tests(check: Check) -> dict[str, Any]:
    """Run the tests marked ``gpu``."""
    report = check.out / "tests.xml"
    report.unlink(missing_ok=True)
    options = ["-m", "gpu", f"--device={check.device}", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    # Drivers and libraries of another machine may print warnings of their own.
    options += ["-W", "default"]
    code = check.run(check.python, "-m", "pytest", *check.tests, *options, log="tests.log")
    if not report.exists():
        raise PartFailed(f"pytest ended with exit code {code}; see tests.log")
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - written by pytest
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    found = {"passed": len(cases) - len(bad) - skipped, "failed": bad, "skipped": skipped}
    if bad or code or not found["passed"]:
        raise PartFailed(f"{found['passed']} tests passed, {len(bad)} failed: {', '.join(bad)}; see tests.log")
    return {"result": f"{found['passed']} passed, {skipped} skipped", **found}


class Loop:
    """A process of ``benchmarks/gpu_loop.py``; a context manager that ends it.

    Args:
        check: the check.
        name: name of the variant, and of its folder and log.
        job: the rest of the job.
    """

    def __init__(self, check: Check, name: str, **job: Any) -> None:
        self._check, self._name, self._unread = check, name, b""
        job |= {"variant": name, "device": check.device, "folder": str(check.out / "loops" / name)}
        with (check.out / f"loop-{name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [check.python, str(ROOT / "benchmarks" / "gpu_loop.py"), json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )

        self._in, self._out = (pipe.fileno() for pipe in (self._process.stdin, self._process.stdout) if pipe)

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        end_group(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def read(self) -> dict[str, Any]:
        """Return the next message, which must come before the part has to end."""
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._out], [], [], self._check.left)
            chunk = os.read(self._out, 1 << 16) if ready else b""
            if not chunk:
                what = "has ended" if ready else "took too long"
                raise PartFailed(f"the variant {self._name} {what}; see loop-{self._name}.log")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def go(self) -> None:
        """Let it run its next block."""
        os.write(self._in, b"\n")


def count_launches(check: Check) -> dict[str, Any]:
    """Count the calls of the CUDA runtime without telemetry, between due points, and with a point in each iteration."""
    profiles: dict[str, Any] = {}
    found = {"iterations": check.iterations, "profiles": profiles}
    job = {"sinks": [], "iterations": check.iterations, "blocks": 1, "profile": True}
    with contextlib.ExitStack() as stack:
        chosen = {name: every for name, every in EVERY.items() if name in check.variants}
        loops = {name: stack.enter_context(Loop(check, name, every=every, **job)) for name, every in chosen.items()}
        for name, loop in loops.items():
            profiles[name] = loop.read()["calls"]
    waits = gpu_report.waits_of(profiles["between"]) / check.iterations
    found["waits_between_due_points"] = waits
    found["result"] = f"{waits:.3f} synchronizations per iteration between due points"
    if waits > ALLOWED_WAITS:
        raise PartFailed(f"{found['result']}, expected none", found)
    return found


def measure_steps(check: Check) -> dict[str, Any]:
    """Measure the duration of a step in blocks of all variants in turn, as many as there is time for."""
    chosen = {name: sinks for name, sinks in SINKS.items() if name in check.variants}
    times: dict[str, list[float]] = {name: [] for name in chosen}
    with contextlib.ExitStack() as stack:
        job = {"every": check.iterations, "iterations": check.iterations, "blocks": check.rounds, "profile": False}
        loops = {name: stack.enter_context(Loop(check, name, sinks=sinks, **job)) for name, sinks in chosen.items()}
        for number in range(check.rounds):
            started = time.monotonic()
            for name, loop in sorted(loops.items(), reverse=bool(number % 2)):
                loop.read()
                loop.go()
                times[name].append(1e3 * loop.read()["seconds"] / check.iterations)
            if check.left < 2 * (time.monotonic() - started):
                break
    return {"result": f"{len(times['bare'])} rounds of {check.iterations} iterations", "ms": times}


PARTS: dict[str, Callable[[Check], dict[str, Any]]] = {
    "setup": set_up,
    "tests": run_tests,
    "launches": count_launches,
    "step time": measure_steps,
}


def check_can_start(check: Check, results: dict[str, Any]) -> None:
    """Check that the next part can succeed.

    Raises:
        PartFailed: It cannot.
    """
    if results["parts"].get("setup", {}).get("result", "").startswith("FAILED"):
        raise PartFailed("left out, because setup has failed")
    if not check.left:
        raise PartFailed("no time was left for it")


def run_parts(check: Check, seconds: float, results: dict[str, Any]) -> Iterator[bool]:
    """Run the parts within some seconds, and yield whether each succeeded, with what it found in the results."""
    end = time.monotonic() + seconds
    for name, part in PARTS.items():
        start = time.monotonic()
        check.deadline = min(end, start + LIMITS[name] * seconds)
        print(f"{name} …", flush=True)
        found: dict[str, Any] = {}
        try:
            check_can_start(check, results)
            found = part(check)
        except PartFailed as error:
            found = {**(error.args[1] if len(error.args) > 1 else {}), "result": f"FAILED: {error.args[0]}"}
        except Exception as error:  # noqa: BLE001 - the other parts still run
            found = {"result": f"FAILED: {type(error).__name__}: {error}"}
        results["parts"][name] = {**found, "seconds": time.monotonic() - start}
        if name == "setup" and not found["result"].startswith("FAILED"):
            results["machine"] = describe_machine(check)
        print(f"    {found['result']}", flush=True)
        yield not found["result"].startswith("FAILED")


def write(results: dict[str, Any], out: Path) -> None:
    """Write what there is so far."""
    (out / "gpu.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(gpu_report.render(results), encoding="utf-8")


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = os.environ.get("OUT") or str(ROOT / "build" / "gpu")
    parser.add_argument("--out", type=Path, default=Path(default), help="folder of the results, by default $OUT")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a rehearsal")
    parser.add_argument("--minutes", type=float, default=7.5, help="time of the whole check")
    parser.add_argument("--iterations", type=int, help="iterations of a block, by default 200, and 20 on the CPU")
    parser.add_argument("--rounds", type=int, default=12, help="maximum number of blocks of each variant")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="folders, files or tests to run")
    names = list(dict.fromkeys([*SINKS, *EVERY]))
    parser.add_argument("--variants", nargs="*", choices=names, default=names, help="trainings to measure")
    parser.add_argument("--skip-setup", action="store_true", help="use this Python as it is")
    parser.add_argument("--publish", action="store_true", help="write the page docs/explanation/gpu.md")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the check, and return the exit code."""
    args = read_arguments(arguments)
    out: Path = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    iterations = args.iterations or ITERATIONS[args.device]
    check = Check(sys.executable, args.device, out, tuple(args.tests), tuple(args.variants), iterations, args.rounds)
    if args.skip_setup:
        PARTS["setup"] = lambda _: {"result": "left out"}
    start = time.monotonic()
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": args.device,
        "machine": {},
        "parts": {},
        "ok": False,
        "seconds": 0.0,
    }
    all_good = True
    for good in run_parts(check, 60 * args.minutes, results):
        all_good &= good
        results["seconds"] = time.monotonic() - start
        write(results, out)
    results["ok"] = all_good
    write(results, out)
    if args.publish and args.device == "cuda":
        gpu_report.publish(results)
    print((out / "gpu.md").read_text(encoding="utf-8"))
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
