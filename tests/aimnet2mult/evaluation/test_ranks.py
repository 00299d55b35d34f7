"""Several ranks share the structures, with the results of one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.rank_jobs import Job, Launcher, torchrun_environments
from support.sample_runs import TrainedRun, read_groups


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with Launcher(double=False) as launcher:
        yield launcher


def evaluate(launcher: Launcher, trained: TrainedRun, folder: Path, ranks: int, *options: object) -> Job:
    # Fewer structures than three ranks in a batch.
    words = [
        "evaluate",
        trained.folder,
        "--fidelity",
        "spgfn2",
        "--batch-size",
        2,
        "--json",
        "-o",
        folder / "out",
        "--predictions",
        "--no-plots",
        *options,
    ]
    return launcher.start(folder / "job", words, torchrun_environments(ranks) if ranks > 1 else ({},))


@pytest.mark.slow
def test_three_ranks_have_the_results_of_one(launcher: Launcher, trained: TrainedRun, tmp_path: Path) -> None:
    results: list[dict[str, Any]] = []
    for ranks in (1, 3):
        job = evaluate(launcher, trained, tmp_path / str(ranks), ranks)
        assert job.wait() == [0] * ranks, job.stderr(0)
        results.append(json.loads((job.folder / "out-0").read_text(encoding="utf-8")))
        assert [(job.folder / f"out-{rank}").read_text() for rank in range(1, ranks)] == [""] * (ranks - 1)
    one, three = results
    # Batches of other sizes have other rounding errors in float32.
    assert three["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    for grouping, groups in one["by"].items():
        for group, values in groups.items():
            assert three["by"][grouping][group] == pytest.approx(values, rel=1e-3, abs=1e-5)
    for label, worst in one["worst"].items():
        assert [each["row"] for each in three["worst"][label][:2]] == [each["row"] for each in worst[:2]]
    for path in trained.files[1:]:
        found = [read_groups(tmp_path / ranks / "out" / "predictions" / path.name) for ranks in ("1", "3")]
        for group, arrays in found[0].items():
            for name in ("energy", "forces", "charges"):
                assert found[1][group][name] == pytest.approx(arrays[name], rel=1e-4, abs=1e-4, nan_ok=True)


def test_an_error_is_reported_once(launcher: Launcher, trained: TrainedRun, tmp_path: Path) -> None:
    job = evaluate(launcher, trained, tmp_path, 2, "--by", "nothing")
    assert job.wait() == [2, 2]
    assert job.stderr(0).count("error: --by: the structures have no nothing") == 1
    assert job.stderr(1) == ""
    assert not (tmp_path / "out").exists()


def test_an_error_of_the_first_rank_ends_all(launcher: Launcher, trained: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    job = evaluate(launcher, trained, tmp_path, 2)
    assert job.wait() == [2, 1]
    assert job.stderr(0) == f"error: {tmp_path / 'out'} already exists; remove it or choose another folder with -o\n"
    assert job.stderr(1) == ""
