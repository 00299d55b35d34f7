"""Training and validation of an AIMNet2 never wait for a GPU, which torch's meta device emulates here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.metrics.statistics import POOLED
from aimnet2mult.models.build import build_model
from aimnet2mult.models.dense_masks import use_known_padding
from aimnet2mult.models.precision import use_float64
from aimnet2mult.train.averaged_weights import AveragedWeights
from aimnet2mult.train.engine import build_trainer, build_validator
from aimnet2mult.train.reporter import Reporter
from support.aimnet2_batches import DEFINITION, LABELS, make_batches, make_loss
from support.device_waits import META, DeviceWait, every_flag_is_true, no_device_waits
from telemetry import NullBus

FIDELITIES = ("a", "b")


def build(prepare: Callable[[nn.Module], None], *, readouts: bool = False) -> nn.Module:
    model = build_model(DEFINITION, labels=LABELS, n_fidelities=len(FIDELITIES), use_fidelity_readouts=readouts)
    prepare(model)
    return model.to(META)


def train(model: nn.Module, padding: int, **options: Any) -> None:
    """Train on four batches, of which only the first may read the flag, and publish points."""
    loss = make_loss()
    sums = ErrorSums(LABELS, len(FIDELITIES), META, POOLED.quantities, loss=loss.terms)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    trainer = build_trainer(model, optimizer, loss, sums, device=META, clip_norm=1.0, clip_value=1.0, **options)
    # Every iteration is due.
    bus = NullBus(1)
    Reporter(bus, train_sums=sums, labels=LABELS, fidelity_names=FIDELITIES, optimizer=optimizer, loss_fn=loss).attach(
        trainer
    )
    batches = make_batches(4, padding=padding)
    with every_flag_is_true():
        trainer.run(batches[:1])
    with no_device_waits():
        trainer.run(batches[1:])


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("options", [{}, {"micro_batches": 3}], ids=["whole batches", "parts"])
def test_a_training_step_and_its_point_wait_for_no_gpu(options: dict[str, Any], padding: int) -> None:
    model = build(use_known_padding)
    train(model, padding, average=AveragedWeights(model, 0.9), **options)


def test_separate_heads_wait_for_no_gpu() -> None:
    train(build(use_known_padding, readouts=True), 1)


def test_double_precision_waits_for_no_gpu() -> None:
    def prepare(model: nn.Module) -> None:
        use_float64(model)
        use_known_padding(model)

    train(build(prepare), 1)


def test_a_validation_waits_for_no_gpu() -> None:
    loss = make_loss()
    sums = ErrorSums(LABELS, len(FIDELITIES), META, loss=loss.terms)
    validator = build_validator(build(use_known_padding), loss, sums, device=META)
    with no_device_waits():
        validator.run(make_batches(2, padding=1))


def test_an_unchanged_aimnet2_waits_for_the_gpu() -> None:
    """Otherwise `use_known_padding` is superfluous, or this emulation detects nothing."""
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        train(build(lambda _: None), 0)


def test_a_copy_that_waits_is_detected() -> None:
    source, target = torch.ones(2), torch.ones(2, device=META)
    for copy in (lambda: source.to(META), lambda: target.copy_(source)):
        with pytest.raises(DeviceWait), no_device_waits():
            copy()
    with no_device_waits():
        target.copy_(source.to(META, non_blocking=True))
