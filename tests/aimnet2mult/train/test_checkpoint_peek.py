"""How far a checkpoint is can be read without torch, and without running code of the file."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from aimnet2mult.errors import CheckpointError
from aimnet2mult.models.checkpoint_folder import find_newest
from aimnet2mult.train.checkpoint_peek import read_progress
from support.file_contents import read_content
from support.tiny_runs import newest_checkpoint, train_tiny

GOLDEN_RUNS = Path(__file__).parents[2] / "data/golden-runs"


def test_the_progress_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    path = newest_checkpoint(train_tiny(tmp_path, "trainer.epochs=2"))
    progress = read_progress(path)
    position = read_content(path)["position"]
    assert (progress.iteration, progress.epoch_length, progress.epoch) == (6, 3, 2)
    assert (progress.samplers, progress.owes_validation) == (position["samplers"], False)
    assert progress.lowest_lr == 0.1


def test_torch_is_not_imported(tmp_path: Path) -> None:
    path = newest_checkpoint(train_tiny(tmp_path, "trainer.epochs=1"))
    code = (
        "import sys; from pathlib import Path; from aimnet2mult.train.checkpoint_peek import read_progress; "
        "print(read_progress(Path(sys.argv[1])).iteration, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "3 False\n"


def test_checkpoints_of_earlier_versions_have_no_settings_of_the_sampler() -> None:
    (run,) = GOLDEN_RUNS.glob("v1/trained-*")
    path = find_newest(run)
    assert path is not None
    assert read_progress(path).samplers is None


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "no archive", "another archive"])
def test_any_other_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "step-00000001.pt"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"cos\nsystem\n(S'touch ran'\ntR.")
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-00000001.pt is not a checkpoint of this trainer"):
        read_progress(path)
    assert not Path("ran").exists()
