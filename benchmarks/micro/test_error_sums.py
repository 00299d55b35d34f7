"""Compare the error sums of a batch with plain torch, torchmetrics and the metric of aimnet; measure their scaling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aimnet.train.metrics import RegMultiMetric
from pooled_loss import TERMS, losses
from torchmetrics import MeanSquaredError
from workload import COMPONENTS, FIDELITIES, LABELS, Batch, PlainSums, built_in, counted_components, make_batch

from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.metrics.statistics import POOLED


def sums_of(batch: Batch, labels: tuple[str, ...] = LABELS, fidelities: int = len(FIDELITIES)) -> Any:
    sums = ErrorSums(built_in(*labels), fidelities, "cpu", POOLED.quantities, loss=TERMS)
    return lambda: sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, losses(batch.loss))


@pytest.mark.benchmark(group="error sums of a batch")
def test_this_package(benchmark: Any) -> None:
    benchmark(sums_of(make_batch()))


@pytest.mark.benchmark(group="error sums of a batch")
def test_plain_torch_label_by_label(benchmark: Any) -> None:
    plain, batch = PlainSums(), make_batch()
    benchmark(plain.update, batch)


@pytest.mark.benchmark(group="error sums of a batch")
def test_torchmetrics(benchmark: Any) -> None:
    batch = make_batch()
    metrics = {(name, fidelity): MeanSquaredError(squared=False) for name in LABELS for fidelity in (0, 1)}

    @torch.no_grad()
    def update() -> None:
        real = batch.numbers > 0
        for (name, fidelity), metric in metrics.items():
            label = batch.true[name]
            counted = counted_components(label, batch.true[f"{name}_mask"] & (batch.fidelity == fidelity), real)
            metric.update(batch.pred[name][counted], label[counted])

    benchmark(update)


@pytest.mark.benchmark(group="error sums of a batch")
def test_aimnet_metric_without_masks_or_fidelities(benchmark: Any) -> None:
    batch = make_batch()
    metric = RegMultiMetric({name: {"abbr": name, "scale": 1.0, "mult": COMPONENTS[name]} for name in LABELS})
    pred = batch.pred | {"_natom": (batch.numbers > 0).sum(-1), "numbers": batch.numbers}
    benchmark(metric.update, (pred, batch.true))


@pytest.mark.benchmark(group="error sums, by structures per batch")
@pytest.mark.parametrize("size", [16, 64, 256, 1024])
def test_scaling_with_batch(benchmark: Any, size: int) -> None:
    benchmark(sums_of(make_batch(size)))


@pytest.mark.benchmark(group="error sums, by number of labels")
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_scaling_with_labels(benchmark: Any, size: int) -> None:
    labels = LABELS[:size]
    benchmark(sums_of(make_batch(labels=labels), labels))


@pytest.mark.benchmark(group="error sums, by number of fidelities")
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_scaling_with_fidelities(benchmark: Any, size: int) -> None:
    benchmark(sums_of(make_batch(fidelities=size), fidelities=size))


@pytest.mark.benchmark(group="due point")
def test_snapshot_and_reset(benchmark: Any) -> None:
    sums = ErrorSums(built_in(*LABELS), len(FIDELITIES), "cpu", POOLED.quantities, loss=TERMS)

    def due() -> None:
        sums.snapshot()
        sums.reset(Slot.WINDOW)

    benchmark(due)
