"""Which GPUs are sampled, with a fake driver."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("pynvml")

from telemetry.recording.gpu_probe import GpuProbe

UUIDS = ["GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3"]
MIG = "MIG-dddd"


class FakeError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class FakeNvml:
    """Three GPUs; device i is busy for 10·i % of the time and uses i GiB."""

    NVMLError = FakeError
    NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NO_PERMISSION, NVML_ERROR_LIBRARY_NOT_FOUND = 3, 4, 12
    NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_GPU_IS_LOST = 9, 15

    def __init__(self, init: int | None = None, lost: bool = False) -> None:
        self._init = init
        self._lost = lost

    def nvmlInit(self) -> None:  # noqa: N802 - the names of NVML
        if self._init is not None:
            raise FakeError(self._init)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, gpu: int) -> str:  # noqa: N802
        return UUIDS[gpu]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        assert uuid == MIG
        return 7

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:  # noqa: N802
        if gpu == 7:
            raise FakeError(self.NVML_ERROR_NOT_SUPPORTED)
        if self._lost:
            raise FakeError(self.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(gpu=10 * gpu)

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=gpu << 30)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        (" 1 ", [1]),
        ("", []),
        ("-1", []),
        ("0,5,1", [0]),
        ("GPU-cccc-3,0", [2, 0]),
        ("GPU-aabb", [1]),
        ("GPU-aa", []),
    ],
)
def test_gpus_are_those_that_cuda_shows_in_its_order(
    visible: str | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    probe = GpuProbe(nvml=FakeNvml())
    values = probe.read()
    assert [values[f"gpu{i}_memory"] for i in range(len(expected))] == expected
    assert [values[f"gpu{i}_utilization"] for i in range(len(expected))] == [10 * gpu for gpu in expected]
    assert values.keys() == probe.metrics.keys()


def test_what_a_part_of_a_gpu_does_not_report_is_absent() -> None:
    assert GpuProbe(MIG, FakeNvml()).read() == {"gpu0_memory": 7}


@pytest.mark.parametrize("code", [FakeNvml.NVML_ERROR_LIBRARY_NOT_FOUND, FakeNvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_there_are_no_gpus_without_a_driver(code: int) -> None:
    assert GpuProbe(nvml=FakeNvml(init=code)).read() == {}


def test_other_errors_of_the_driver_are_passed_on_to_be_reported() -> None:
    with pytest.raises(FakeError, match="999"):
        GpuProbe(nvml=FakeNvml(init=999))
    with pytest.raises(FakeError, match="15"):
        GpuProbe(nvml=FakeNvml(lost=True)).read()
