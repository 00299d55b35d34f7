"""Record how a training was set up: code, environment, command line and data."""

import platform
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions

import torch

from aimnet2mult.config.import_path import allowed_packages
from aimnet2mult.config.schema import Config, input_files
from aimnet2mult.data.compositions import join_symbols
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.train.code_version import describe_code
from aimnet2mult.train.plan import Plan
from aimnet2mult.train.reporter import Bus
from telemetry.redaction import credentials_in, redact, redact_text

__all__ = ["record_setup"]

COLUMNS = ("fidelity", "training", "validation", "test", "elements", "labels", "files")


def record_setup(
    plan: Plan, data: MixedData, device: torch.device, bus: Bus, argv: Sequence[str] | None = None
) -> None:
    """Publish texts and a table that describe the setup, at the iteration at which the training starts.

    Only threads of the bus run git and list packages. Credentials are removed.

    Args:
        plan: the plan of the run.
        data: the data.
        device: the device of the model.
        bus: bus to publish to.
        argv: the command line, by default that of this process.
    """
    step = plan.resume_step or 0
    credentials = credentials_in(plan.settings.options)
    # Allowed packages are known in this thread only.
    packages = ("aimnet2mult", *allowed_packages())
    command = shlex.join(redact(list(sys.argv if argv is None else argv), credentials=credentials))
    bus.text("setup/command", step, f"    {command}")
    bus.text("setup/code", step, lambda: redact_text(describe_code(packages), credentials))
    bus.text("setup/environment", step, lambda: redact_text(_describe_environment(device), credentials))
    bus.table("setup/data", step, COLUMNS, lambda: list(_describe_data(plan.config, data)))


def _describe_environment(device: torch.device) -> str:
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    packages = sorted({f"{each.name}=={each.version}" for each in distributions()}, key=str.lower)
    lines = [
        f"- host: {socket.gethostname()}",
        f"- system: {platform.platform()}",
        f"- Python: {platform.python_version()}, {sys.executable}",
        f"- torch: {torch.__version__}{cuda}",
        f"- device: {device}{name}",
        "",
        *(f"    {package}" for package in packages),
    ]
    return "\n".join(lines)


def _describe_data(config: Config, data: MixedData) -> Iterator[list[str | int]]:
    """Yield a row for each fidelity: numbers of structures, elements, labels, and files with their checksums."""
    paths = input_files(config)
    for index, name in enumerate(config.fidelity_names):
        files = [
            f"{paths[key]} (CRC-32 {crc:08x})"
            for key, crc in data.checksums.items()
            if key.rpartition(".")[2] == str(index) and key in paths
        ]
        yield [
            name,
            data.train_counts[index],
            data.val_counts[index],
            data.test_counts[index],
            join_symbols(sorted(data.summaries[index].elements)),
            ", ".join(label.name for label in data.labels[index]),
            ", ".join(files),
        ]
