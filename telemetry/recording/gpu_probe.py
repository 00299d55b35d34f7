"""Utilization and memory of the GPUs that this process may use, from NVML."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pynvml

from telemetry.metrics import Metric

_GIB = 1 << 30


class GpuProbe:
    """Read NVIDIA GPUs through their management library (NVML), which does not initialize CUDA.

    GPUs are numbered as CUDA numbers them within this process: those in ``CUDA_VISIBLE_DEVICES`` in this order, by
    default all. What a GPU does not report, such as the utilization of a MIG device, is absent.

    Attributes:
        metrics: declarations of the values.
    """

    def __init__(self, visible: str | None = None, nvml: Any = None) -> None:
        """Find the GPUs.

        Args:
            visible: value of ``CUDA_VISIBLE_DEVICES``, by default that of the environment.
            nvml: the module of NVML, by default ``pynvml``.

        Raises:
            pynvml.NVMLError: there is a driver, but it does not respond.
        """
        self._nvml = pynvml if nvml is None else nvml
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
        self._gpus = list(_visible(self._nvml, chosen)) if _has_driver(self._nvml) else []
        self.metrics: Mapping[str, Metric] = {
            name: metric for index in range(len(self._gpus)) for name, metric in _declare(index).items()
        }

    def read(self) -> dict[str, float]:
        """Return the current utilization and memory of each GPU.

        Raises:
            pynvml.NVMLError: a GPU does not respond.
        """
        nvml, values = self._nvml, {}
        for index, gpu in enumerate(self._gpus):
            with self._unless_unsupported():
                values[f"gpu{index}_utilization"] = float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
            with self._unless_unsupported():
                values[f"gpu{index}_memory"] = nvml.nvmlDeviceGetMemoryInfo(gpu).used / _GIB
        return values

    @contextmanager
    def _unless_unsupported(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            if error.value not in (self._nvml.NVML_ERROR_NOT_SUPPORTED, self._nvml.NVML_ERROR_NO_PERMISSION):
                raise


def _declare(index: int) -> dict[str, Metric]:
    return {
        f"gpu{index}_utilization": Metric(unit="%", label=f"share of the time in which GPU {index} is busy"),
        f"gpu{index}_memory": Metric(unit="GiB", label=f"memory of GPU {index} in use, by all processes"),
    }


def _has_driver(nvml: Any) -> bool:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value not in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED):
            raise
        return False
    return True


def _visible(nvml: Any, chosen: str | None) -> Iterator[Any]:
    """Yield the devices that ``CUDA_VISIBLE_DEVICES`` selects; like CUDA, ignore an unknown one and all after it."""
    gpus = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    if chosen is None:
        yield from gpus
        return
    for entry in map(str.strip, chosen.split(",")):
        if entry.startswith("MIG-"):
            found = [nvml.nvmlDeviceGetHandleByUUID(entry)]
        elif entry.startswith("GPU-"):
            # CUDA accepts the beginning of a UUID.
            found = [gpu for gpu in gpus if nvml.nvmlDeviceGetUUID(gpu).startswith(entry)]
        else:
            found = [gpu for index, gpu in enumerate(gpus) if entry == str(index)]
        if len(found) != 1:
            return
        yield found[0]
