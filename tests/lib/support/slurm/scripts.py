"""The batch scripts shown on the page about SLURM."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[4] / "docs" / "how-to" / "slurm.md"


def batch_script(heading: str) -> str:
    """Return the first script below a heading of the page."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    script = re.search(r"^```bash\n(#!/bin/bash\n.*?)^```$", section.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    assert script, f"no batch script below the heading {heading!r} of {PAGE}"
    return script[1]


def without_gpus(script: str) -> str:
    """Remove the requests for GPUs, which the nodes of the tests do not have."""
    return re.sub(r"^#SBATCH --gpus.*\n", "", script, flags=re.MULTILINE)
