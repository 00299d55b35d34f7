"""Measure how many small faults in the code the closest tests notice.

python tools/mutation --out build/mutation                        # sample all modules; about an hour
python tools/mutation --module telemetry/journal/writer.py --list  # list the mutants, run none
python tools/mutation --module telemetry/journal/writer.py --only 17  # run one, and show pytest's output

Mutants are sampled with a fixed seed. The repository is copied once per job, and only the copies are changed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutants import Mutant, find_mutants, sample

REPOSITORY = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(
    ".venv*", "__pycache__", ".git", ".*_cache", ".hypothesis", "build", "dist", "demo", "runs", "*.tmp"
)
PYTEST = [
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:anyio", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("--hypothesis-seed=0", "--tb=short", "-m", "not chaos and not slow"),
]
LIGHT = ["pytest", "hypothesis.strategies", "numpy", "msgspec", "pluggy", "yaml", "click", "pint"]
BACKENDS = [
    *LIGHT,
    "tensorboard.backend.event_processing.event_accumulator",
    "mlflow",
    "wandb.proto.wandb_internal_pb2",
]
HEAVY = [*LIGHT, "torch", "ignite.engine", "ignite.metrics", "h5py", "aimnet", "aimnet.modules"]

PACKAGES = {"telemetry": LIGHT, "sinks": BACKENDS, "aimnet2mult": HEAVY}

# Modules where a fault would lose data or change numbers, each with its tests: the ones named after it, then these.
TESTS: dict[str, list[str]] = {
    "telemetry/journal/codec.py": [],
    "telemetry/journal/writer.py": ["tests/telemetry/journal/test_journal_properties.py"],
    "telemetry/journal/reader.py": ["tests/telemetry/journal/test_journal_properties.py"],
    "telemetry/journal/segment_lines.py": ["tests/telemetry/journal/test_reader.py"],
    "telemetry/journal/gaps.py": ["tests/telemetry/journal/test_reader.py", "tests/telemetry/reading/test_run.py"],
    "telemetry/journal/points_at.py": [],
    "telemetry/journal/run_attempts.py": ["tests/telemetry/journal"],
    "telemetry/run_folder/lease.py": [],
    "telemetry/run_folder/atomic_write.py": [],
    "telemetry/run_folder/sink_progress.py": ["tests/telemetry/delivery/test_cursor.py"],
    "telemetry/run_folder/heartbeat.py": [
        "tests/telemetry/delivery/test_receipt.py",
        "tests/telemetry/run_folder/test_lease.py",
    ],
    "telemetry/run_folder/paths.py": ["tests/telemetry/run_folder/test_sink_progress.py"],
    "telemetry/run_folder/trainer_liveness.py": [],
    "telemetry/delivery/delivery.py": ["tests/telemetry/testing/test_fakes.py"],
    "telemetry/delivery/cursor.py": ["tests/telemetry/delivery/test_delivery.py"],
    "telemetry/delivery/journal_tail.py": ["tests/telemetry/delivery/test_delivery.py"],
    "telemetry/delivery/retries.py": ["tests/telemetry/delivery/test_delivery.py"],
    "telemetry/delivery/sink_connection.py": ["tests/telemetry/delivery/test_delivery.py"],
    "telemetry/delivery/receipt.py": ["tests/telemetry/cli/test_status.py"],
    "telemetry/recording/admission.py": ["tests/telemetry/recording/test_bus.py"],
    "telemetry/recording/arguments.py": ["tests/telemetry/recording/test_open_run.py"],
    "telemetry/recording/bus.py": [],
    "telemetry/recording/journal_thread.py": ["tests/telemetry/recording/test_disk_failures.py"],
    "telemetry/recording/params.py": [],
    "telemetry/recording/point_values.py": ["tests/telemetry/recording/test_bus.py"],
    "telemetry/recording/record_appender.py": ["tests/telemetry/recording"],
    "telemetry/recording/record_queue.py": ["tests/telemetry/recording/test_bus.py"],
    "telemetry/recording/record_tally.py": ["tests/telemetry/recording/test_record_queue.py"],
    "telemetry/recording/run_plan.py": ["tests/telemetry/recording/test_open_run.py"],
    "telemetry/reading/best_value.py": ["tests/telemetry/reading/test_run_summary.py"],
    "telemetry/reading/run.py": [],
    "telemetry/reading/stream_points.py": ["tests/telemetry/reading/test_run_summary.py"],
    "telemetry/redaction.py": ["tests/telemetry/test_credentials.py"],
    "telemetry/units.py": [],
    "telemetry/cadence.py": [],
    "telemetry/alerts/detector.py": ["tests/telemetry/alerts"],
    "telemetry/alerts/history.py": ["tests/telemetry/alerts"],
    "telemetry/alerts/level.py": ["tests/telemetry/alerts"],
    "telemetry/alerts/missing_values.py": ["tests/telemetry/alerts"],
    "telemetry/alerts/rules.py": ["tests/telemetry/alerts"],
    "telemetry/plugins/registry.py": ["tests/telemetry/plugins/test_misbehaving_plugins.py"],
    "telemetry/testing/rehearsal.py": ["tests/telemetry/testing/test_contract_kit.py"],
    "sinks/tensorboard/event_files.py": [
        "tests/sinks/tensorboard/test_sink.py",
        "tests/sinks/tensorboard/test_contract.py",
    ],
    "sinks/tensorboard/events.py": ["tests/sinks/tensorboard/test_sink.py"],
    "sinks/mlflow/batches.py": ["tests/sinks/mlflow/test_names.py"],
    "sinks/mlflow/run.py": [],
    "sinks/wandb/offline_files.py": [],
    "sinks/wandb/run_writer.py": [],
    "aimnet2mult/config/resume_rules.py": [],
    "aimnet2mult/config/schema.py": [],
    "aimnet2mult/config/tree.py": ["tests/aimnet2mult/config/test_schema.py"],
    "aimnet2mult/config/value_checks.py": ["tests/aimnet2mult/config/test_schema.py"],
    **{
        f"aimnet2mult/data/cache/{name}.py": ["tests/aimnet2mult/data/cache/test_building.py"]
        for name in (
            "builder",
            "data_cache",
            "entry",
            "manifest",
            "plain_objects",
            "record_file",
            "record_store",
            "source",
        )
    },
    "aimnet2mult/data/cache/building.py": ["tests/aimnet2mult/train/test_data_cache.py"],
    "aimnet2mult/data/cache/source.py": ["tests/aimnet2mult/data/cache/test_building.py"],
    "aimnet2mult/data/cache/stores.py": ["tests/aimnet2mult/train/test_staging.py"],
    "aimnet2mult/data/checks.py": ["tests/aimnet2mult/data/test_duplicates.py"],
    "aimnet2mult/data/compositions.py": [
        "tests/aimnet2mult/data/test_reference_energies.py",
        "tests/aimnet2mult/data/test_outliers.py",
    ],
    "aimnet2mult/data/content_scan.py": ["tests/aimnet2mult/data/test_file_content.py"],
    "aimnet2mult/data/crc.py": [],
    "aimnet2mult/data/data_files.py": ["tests/aimnet2mult/data/test_loading.py"],
    "aimnet2mult/data/dataset.py": ["tests/aimnet2mult/data/test_loading.py"],
    "aimnet2mult/data/duplicates.py": [],
    "aimnet2mult/config/data_units.py": ["tests/aimnet2mult/data/test_file_format.py"],
    "aimnet2mult/data/file_format.py": ["tests/aimnet2mult/data/test_hdf5.py"],
    "aimnet2mult/data/file_content.py": ["tests/aimnet2mult/data/test_loading.py"],
    "aimnet2mult/data/file_evidence.py": [
        "tests/aimnet2mult/data/test_outliers.py",
        "tests/aimnet2mult/data/test_unit_hints.py",
    ],
    "aimnet2mult/data/file_rows.py": [],
    "aimnet2mult/data/file_scan.py": [
        "tests/aimnet2mult/data/test_checks.py",
        "tests/aimnet2mult/data/test_outliers.py",
        "tests/aimnet2mult/data/test_unit_hints.py",
    ],
    "aimnet2mult/data/loading.py": ["tests/aimnet2mult/data/test_dataset.py"],
    "aimnet2mult/data/in_memory.py": ["tests/aimnet2mult/data/test_loading.py"],
    "aimnet2mult/data/layout.py": [
        "tests/aimnet2mult/data/test_checks.py",
        "tests/aimnet2mult/data/test_file_format.py",
    ],
    "aimnet2mult/data/mixed_data.py": ["tests/aimnet2mult/data/test_loading.py"],
    "aimnet2mult/data/outliers.py": [],
    "aimnet2mult/data/places.py": ["tests/aimnet2mult/data/test_dataset.py", "tests/aimnet2mult/data/test_checks.py"],
    "aimnet2mult/data/positioned_reads.py": ["tests/aimnet2mult/data/test_file_rows.py"],
    "aimnet2mult/data/rank_share.py": [],
    "aimnet2mult/data/reference_energies.py": [],
    "aimnet2mult/data/sampler.py": ["tests/aimnet2mult/data/test_rank_share.py"],
    "aimnet2mult/data/split.py": [],
    "aimnet2mult/data/strata.py": ["tests/aimnet2mult/data/test_sampler.py"],
    "aimnet2mult/data/structures.py": [
        "tests/aimnet2mult/data/test_checks.py",
        "tests/aimnet2mult/data/test_dataset.py",
    ],
    "aimnet2mult/data/unit_hints.py": [],
    "aimnet2mult/metrics/batch_rmse.py": ["tests/aimnet2mult/train/test_engine.py"],
    "aimnet2mult/metrics/error_sums.py": ["tests/aimnet2mult/train/test_reporter.py"],
    **{
        f"aimnet2mult/metrics/{name}.py": ["tests/aimnet2mult/metrics/test_kernels.py"]
        for name in ("batch_table", "fused_update", "kernel_choice", "kernel_functions", "torch_update")
    },
    "aimnet2mult/metrics/layout.py": ["tests/aimnet2mult/metrics/test_error_sums.py"],
    "aimnet2mult/metrics/losses.py": [
        "tests/aimnet2mult/metrics/test_error_sums.py",
        "tests/aimnet2mult/train/test_loss.py",
    ],
    "aimnet2mult/metrics/masks.py": [
        "tests/aimnet2mult/metrics/test_error_sums.py",
        "tests/aimnet2mult/train/test_loss.py",
    ],
    "aimnet2mult/metrics/statistics.py": ["tests/aimnet2mult/metrics/test_error_sums.py"],
    "aimnet2mult/metrics/structure_errors.py": ["tests/aimnet2mult/metrics/test_error_sums.py"],
    "aimnet2mult/train/bad_steps.py": [],
    "aimnet2mult/models/checkpoint_folder.py": ["tests/aimnet2mult/train/test_checkpointing.py"],
    "aimnet2mult/train/checkpoint_file.py": ["tests/aimnet2mult/train/test_checkpointing.py"],
    "aimnet2mult/train/checkpointing.py": ["tests/aimnet2mult/train/test_divergence.py"],
    "aimnet2mult/train/conclusion.py": ["tests/aimnet2mult/train/test_loop.py"],
    "aimnet2mult/train/culprits.py": ["tests/aimnet2mult/train/test_bad_steps.py"],
    "aimnet2mult/train/data_position.py": ["tests/aimnet2mult/train/test_checkpointing.py"],
    "aimnet2mult/train/early_end.py": ["tests/aimnet2mult/train/test_loop.py"],
    "aimnet2mult/train/engine.py": ["tests/aimnet2mult/train/test_validation.py"],
    "aimnet2mult/train/guarded_step.py": ["tests/aimnet2mult/train/test_engine.py"],
    "aimnet2mult/train/iteration_rate.py": ["tests/aimnet2mult/train/test_reporter.py"],
    "aimnet2mult/train/loop.py": ["tests/aimnet2mult/train/test_bad_steps.py"],
    "aimnet2mult/train/loss.py": [],
    "aimnet2mult/train/loss_components.py": ["tests/aimnet2mult/train/test_loss.py"],
    "aimnet2mult/train/optimizer.py": [],
    "aimnet2mult/train/reporter.py": ["tests/aimnet2mult/train/test_validation.py"],
    "aimnet2mult/train/schedule_length.py": [],
    "aimnet2mult/train/skipped_structures.py": ["tests/aimnet2mult/train/test_validation.py"],
    "aimnet2mult/train/staging.py": [],
    "aimnet2mult/train/stream_values.py": ["tests/aimnet2mult/train/test_reporter.py"],
    "aimnet2mult/train/validation.py": [],
    "aimnet2mult/train/validation_metrics.py": ["tests/aimnet2mult/train/test_validation.py"],
}


@dataclass(frozen=True)
class Run:
    """The tests of a module with a mutant, or unchanged."""

    code: int | None
    seconds: float
    log: str

    @property
    def verdict(self) -> str:
        return {0: "survived", None: "timeout"}.get(self.code, "killed")

    @property
    def failure(self) -> str:
        lines = [line for line in self.log.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return (lines or [self.log[-200:].strip()])[0][:200]


class Server:
    """A process of ``server.py``."""

    def __init__(self, folder: Path, repository: Path, packages: str) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(repository),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
            "TMPDIR": str(folder / "tmp"),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py")), str(repository), packages],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=folder,
        )
        self._read()

    def run(self, job: dict[str, object]) -> dict[str, Any]:
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(next(iter(self._process.stdout or ())))
        return result


class Workspace:
    """A copy of the repository, and processes that run tests in it."""

    def __init__(self, folder: Path, timeout: float) -> None:
        self._folder = folder
        self._timeout = timeout
        self._repository = folder / "repository"
        self._servers: dict[str, Server] = {}
        shutil.copytree(REPOSITORY, self._repository, symlinks=True, ignore=NOT_COPIED)
        (folder / "tmp").mkdir()
        # Checked by hash, because a mutant can have the size and time of the module it replaces.
        compiled = ["-q", "--invalidation-mode", "checked-hash", "telemetry", "sinks", "aimnet2mult"]
        subprocess.run([sys.executable, "-m", "compileall", *compiled], cwd=self._repository, check=True)

    def run(self, module: str, mutant: Mutant | None) -> Run:
        path = self._repository / module
        source = path.read_bytes()
        if mutant is not None:
            path.write_bytes(mutant.apply(source))
        try:
            return self._run_tests(module)
        finally:
            path.write_bytes(source)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    def _run_tests(self, module: str) -> Run:
        server = self._server(PACKAGES[Path(module).parts[0]])
        log = self._folder / "log"
        args = [*PYTEST, f"--basetemp={self._folder / 'pytest'}", *closest_tests(module)]
        result = server.run({"args": args, "log": str(log), "timeout": self._timeout})
        return Run(result["code"], result["seconds"], log.read_text(errors="replace"))

    def _server(self, packages: list[str]) -> Server:
        key = ",".join(packages)
        if key not in self._servers:
            self._servers[key] = Server(self._folder, self._repository, key)
        return self._servers[key]


def closest_tests(module: str) -> list[str]:
    path = Path(module)
    named = Path("tests") / path.with_name(f"test_{path.name}")
    return [str(named) for _ in range((REPOSITORY / named).is_file())] + TESTS.get(module, [])


class Campaign:
    """A sample of mutants of several modules, run by several jobs in parallel."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        modules = arguments.module or list(TESTS)
        self._mutants = {module: find_mutants(REPOSITORY / module) for module in modules}
        self._results: dict[str, list[Run]] = {module: [] for module in modules}
        self._unchanged: dict[str, Run] = {}
        self._end = time.monotonic() + arguments.budget
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[str, int | None]] = queue.SimpleQueue()

    def run(self) -> float:
        """Run the sample, write the results, and return the percentage of faults that the tests noticed."""
        self._arguments.out.mkdir(parents=True, exist_ok=True)
        self._fill_queue()
        with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
            jobs = [
                threading.Thread(target=self._work, args=(Path(scratch) / str(n),)) for n in range(self._arguments.jobs)
            ]
            for job in jobs:
                job.start()
            for job in jobs:
                job.join()
        return self._write_table()

    def _fill_queue(self) -> None:
        """Queue each module unchanged, then its mutants, so that every module gets its share of a limited budget."""
        samples = {}
        for module, mutants in self._mutants.items():
            self._waiting.put((module, None))
            samples[module] = sample(mutants, self._arguments.per_module, f"{self._arguments.seed}:{module}")
        for position in range(self._arguments.per_module):
            for module, chosen in samples.items():
                # Every 7th of a sorted sample: the first results are spread over the module.
                order = sorted(range(len(chosen)), key=lambda n: (n * 7 % max(1, len(chosen)), n))
                if position < len(order):
                    self._waiting.put((module, chosen[order[position]]))

    def _work(self, folder: Path) -> None:
        folder.mkdir()
        with contextlib.closing(Workspace(folder, self._arguments.timeout)) as workspace:
            while time.monotonic() < self._end:
                try:
                    module, number = self._waiting.get_nowait()
                except queue.Empty:
                    break
                mutant = None if number is None else self._mutants[module][number]
                if mutant is not None and module in self._unchanged and self._unchanged[module].code:
                    continue
                self._record(module, number, mutant, workspace.run(module, mutant))

    def _record(self, module: str, number: int | None, mutant: Mutant | None, run: Run) -> None:
        with self._lock:
            if mutant is None:
                self._unchanged[module] = run
                print(f"{module} unchanged: {run.failure if run.code else 'passed'} in {run.seconds} s", flush=True)
                return
            self._results[module].append(run)
            row = {"module": module, "number": number, "line": mutant.line, "mutant": str(mutant)}
            row |= {"verdict": run.verdict, "seconds": run.seconds, "by": run.failure if run.code else ""}
            with (self._arguments.out / "mutants.jsonl").open("a", encoding="utf-8") as file:
                print(json.dumps(row), file=file)
            if not run.code:
                print(f"{run.verdict} {module}:{mutant.line} --only {number}  {mutant}", flush=True)

    def _write_table(self) -> float:
        lines = ["| module | mutants | tried | survived | noticed |", "|---|---|---|---|---|"]
        total: collections.Counter[str] = collections.Counter()
        for module, runs in self._results.items():
            counts = collections.Counter(mutants=len(self._mutants[module]), tried=len(runs))
            counts["survived"] = sum(run.verdict == "survived" for run in runs)
            total += counts
            lines.append(_row(module, counts))
        lines.append(_row("all", total))
        table = "\n".join(lines)
        (self._arguments.out / "table.md").write_text(table + "\n", encoding="utf-8")
        print(table)
        return _noticed(total)


def _row(name: str, counts: collections.Counter[str]) -> str:
    score = f"{_noticed(counts):.1f} %" if counts["tried"] else "-"
    return f"| {name} | {counts['mutants']} | {counts['tried']} | {counts['survived']} | {score} |"


def _noticed(counts: collections.Counter[str]) -> float:
    return 100 * (1 - counts["survived"] / max(1, counts["tried"]))


def _run_one(module: str, number: int, timeout: float) -> None:
    mutant = find_mutants(REPOSITORY / module)[number]
    with (
        tempfile.TemporaryDirectory(prefix="mutation-") as scratch,
        contextlib.closing(Workspace(Path(scratch), timeout)) as workspace,
    ):
        run = workspace.run(module, mutant)
    print(f"{module}:{mutant.line} {mutant}: {run.verdict} in {run.seconds} s\n{run.log[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", help="a module, relative to the repository; repeatable")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "mutation", help="folder of the results")
    parser.add_argument("--per-module", type=int, default=20, help="mutants per module")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--budget", type=float, default=5400.0, help="maximum duration in seconds")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for the tests of one mutant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="list the mutants of the modules")
    parser.add_argument("--only", type=int, help="number of the one mutant to run, as listed by --list")
    parser.add_argument("--minimum", type=float, default=0.0, help="fail if a smaller percentage is noticed")
    arguments = parser.parse_args()
    if arguments.list:
        for module in arguments.module or TESTS:
            for number, mutant in enumerate(find_mutants(REPOSITORY / module)):
                print(f"{number:4} {module}:{mutant.line} {mutant}")
    elif arguments.only is not None:
        (module,) = arguments.module
        _run_one(module, arguments.only, arguments.timeout)
    else:
        sys.exit(Campaign(arguments).run() < arguments.minimum)


if __name__ == "__main__":
    main()
