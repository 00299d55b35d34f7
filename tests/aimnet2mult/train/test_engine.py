"""Training and validation steps read nothing from the device, keep no tensors, and equal a plain loop."""

import copy
import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.metrics.statistics import VALIDATION, statistics
from aimnet2mult.train.engine import build_trainer, build_validator, total_iterations
from aimnet2mult.train.guarded_step import MaskedStep, ReadStep
from aimnet2mult.train.loss import MTLoss
from support.host_reads import no_host_reads
from support.labels import built_in
from support.tiny_model import SquaredLoss, TinyModel, batches

CPU = torch.device("cpu")
LABELS = ("energy", "forces", "charges")


class Recording:
    """Error sums that record the arguments of each update."""

    labels = ()

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def update(
        self,
        pred: Mapping[str, Tensor],
        true: Mapping[str, Tensor],
        numbers: Tensor,
        fidelity: Tensor,
        loss: Mapping[str, Tensor] | None = None,
        *,
        applied: Tensor | None = None,
    ) -> None:
        loss = {} if loss is None else loss
        self.calls.append({"pred": pred, "applied": applied, **loss})

    def batch_rmse(self) -> dict[str, float]:
        raise NotImplementedError

    def find_finite(self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        return torch.ones(len(numbers), dtype=torch.bool)


def trainer_of(model: nn.Module, **options: Any) -> tuple[Engine, torch.optim.Optimizer, ErrorSums]:
    sums = ErrorSums(built_in(*LABELS), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return build_trainer(model, optimizer, SquaredLoss(), sums, device=CPU, **options), optimizer, sums


@pytest.mark.parametrize("options", [{}, {"clip_value": 0.4}, {"clip_norm": 0.1}], ids=str)
def test_a_training_step_reads_nothing_from_a_gpu(options: dict[str, Any]) -> None:
    trainer, _, _ = trainer_of(TinyModel(), make_step=lambda optimizer, _: MaskedStep(optimizer), **options)
    data = batches(4)
    # Reads the flag.
    trainer.run(data[:1])
    with no_host_reads():
        trainer.run(data[1:])


def test_a_validation_step_reads_nothing_from_the_device() -> None:
    validator = build_validator(TinyModel(), SquaredLoss(), ErrorSums(built_in(*LABELS), 2), device=CPU)
    data = batches(3)
    with no_host_reads():
        validator.run(data)


def test_a_step_keeps_no_tensors_alive() -> None:
    model = TinyModel()
    graph_nodes: list[weakref.ref[Tensor]] = []

    class Spy(SquaredLoss):
        def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
            graph_nodes.extend(weakref.ref(value) for value in (*y_pred.values(), *y_true.values()))
            losses = super().__call__(y_pred, y_true)
            graph_nodes.extend(weakref.ref(value) for value in losses.values())
            return losses

    trainer = build_trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        Spy(),
        ErrorSums(built_in(*LABELS), 2),
        device=CPU,
    )

    @trainer.on(Events.ITERATION_COMPLETED)
    def _look(engine: Engine) -> None:
        assert engine.state.batch is None
        assert engine.state.output is None
        assert not engine.state.grad_norm.requires_grad
        gc.collect()
        # The data loop still holds the tensors of the batch, but no computed ones.
        alive = [tensor for ref in graph_nodes if (tensor := ref()) is not None]
        assert all(tensor.grad_fn is None for tensor in alive)

    trainer.run(iter(batches(2)), epoch_length=2)
    assert graph_nodes


def test_sums_keep_no_graph() -> None:
    model = TinyModel()
    sums = ErrorSums(built_in(*LABELS), 2)
    build_trainer(model, torch.optim.SGD(model.parameters()), SquaredLoss(), sums, device=CPU).run(batches(1))
    assert not torch.from_numpy(sums.snapshot().wait()).requires_grad


def plain_loop(model: nn.Module, clip: Callable[[nn.Module], object]) -> list[float]:
    """Train without an engine, and return the loss of each batch."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    for x, y in batches(4):
        optimizer.zero_grad()
        loss = SquaredLoss()(model(dict(x)), y)["loss"]
        loss.backward()
        clip(model)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({}, lambda _: None),
        ({"clip_value": 0.01}, lambda m: torch.nn.utils.clip_grad_value_(m.parameters(), 0.01)),
        ({"clip_norm": 0.05}, lambda m: torch.nn.utils.clip_grad_norm_(m.parameters(), 0.05)),
    ],
    ids=["free", "value", "norm"],
)
def test_training_equals_a_plain_loop(options: dict[str, Any], clip: Callable[[nn.Module], object]) -> None:
    torch.manual_seed(0)
    model = TinyModel()
    other = copy.deepcopy(model)
    trainer, _, sums = trainer_of(model, **options)
    trainer.run(batches(4))
    losses = plain_loop(other, clip)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    epoch = statistics(sums.snapshot().wait()[Slot.EPOCH], built_in(*LABELS), ("low", "high"), VALIDATION)
    assert epoch["loss"] == pytest.approx(sum(losses) / 4)


def test_the_gradient_norm_is_computed_before_clipping() -> None:
    torch.manual_seed(0)
    model = TinyModel()
    other = copy.deepcopy(model)
    trainer, _, _ = trainer_of(model, clip_value=1e-6)
    norms: list[float] = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def _keep(engine: Engine) -> None:
        norms.append(engine.state.grad_norm.item())

    trainer.run(batches(3))
    before: list[float] = []

    def clip(plain: nn.Module) -> None:
        before.append(torch.stack([p.grad.norm() for p in plain.parameters()]).norm().item())
        torch.nn.utils.clip_grad_value_(plain.parameters(), 1e-6)

    plain_loop(other, clip)
    assert norms == pytest.approx(before[:3])


def test_frozen_parameters_do_not_change() -> None:
    model = TinyModel()
    model.embedding.requires_grad_(False)
    before = copy.deepcopy(model.embedding.weight)
    trainer, _, _ = trainer_of(model, clip_norm=1.0)
    trainer.run(batches(2))
    assert torch.equal(model.embedding.weight, before)


def test_validation_disables_dropout_and_changes_neither_mode_nor_weights() -> None:
    model = TinyModel(dropout=0.9)
    before = copy.deepcopy(model.state_dict())
    recordings = []
    for mode in (True, False):
        model.train(mode)
        sums = Recording()
        build_validator(model, SquaredLoss(), sums, device=CPU).run(batches(2))
        assert model.training is mode
        recordings.append(sums.calls)
    for one, two in zip(*recordings, strict=True):
        assert torch.equal(one["pred"]["energy"], two["pred"]["energy"])
        assert torch.equal(one["loss"], two["loss"])
        assert not one["loss"].requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_an_interrupted_validation_restores_the_training_mode() -> None:
    model = TinyModel()
    validator = build_validator(model, SquaredLoss(), ErrorSums(built_in(*LABELS), 2), device=CPU)
    validator.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda engine: engine.terminate())
    model.train()
    validator.run(batches(3))
    assert validator.state.iteration == 1
    assert model.training


def test_training_switches_the_model_to_training_mode() -> None:
    model = TinyModel().eval()
    trainer, _, _ = trainer_of(model)
    trainer.run(batches(1))
    assert model.training


class SecondRank(Communicator):
    """One of two ranks, which do not communicate."""

    rank, world_size = 1, 2

    def __init__(self) -> None:
        self.wrapped: list[nn.Module] = []

    def wrap(self, model: nn.Module) -> nn.Module:
        self.wrapped.append(model)
        return model


@pytest.mark.parametrize("kind", ["sums and counts", "total only"])
def test_a_wrapped_model_is_trained_with_the_same_loss_and_sums(kind: str) -> None:
    charges = {"fn": "aimnet2mult.train.loss.peratom_loss_fn", "kwargs": {"key_true": "charges", "key_pred": "charges"}}
    energy = {"fn": "aimnet2mult.train.loss.energy_loss_fn", "weight": 1.0}
    loss_fn = MTLoss({"energy": energy, "charges": {**charges, "weight": 0.5}})
    whole = kind == "total only"
    communicator, results = SecondRank(), []
    for ranks in (None, communicator):
        torch.manual_seed(1)
        model, sums = TinyModel(), ErrorSums(built_in(*LABELS), 2, loss=loss_fn.terms)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss: Any = (lambda *args: dict(loss_fn(*args))) if whole else loss_fn
        build_trainer(model, optimizer, loss, sums, device=CPU, communicator=ranks).run(batches(3))
        results.append([*model.parameters(), sums.state_dict()["sums"]])
    assert len(communicator.wrapped) == 1
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_the_last_iteration_is_epochs_times_epoch_length() -> None:
    trainer, _, _ = trainer_of(TinyModel())
    trainer.run(batches(3), max_epochs=2)
    assert total_iterations(trainer) == trainer.state.iteration == 6


def test_the_rmse_of_each_batch_is_available_to_users_handlers() -> None:
    model = TinyModel()
    trainer, _, _ = trainer_of(model)
    data, outputs = batches(3), []
    model.register_forward_hook(lambda _, __, out: outputs.append({key: out[key].detach().double() for key in LABELS}))
    found: list[dict[str, float]] = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def _look(engine: Engine) -> None:
        # The keys of the original trainer, and those of the metrics.
        rmse = engine.state.batch_rmse
        assert (rmse["E"], rmse["F"], rmse["q"]) == (rmse["energy"], rmse["forces"], rmse["charges"])
        assert "spin_charges" not in rmse
        assert "s" not in rmse
        found.append(dict(rmse))

    trainer.run(data)
    for (x, y), out, values in zip(data, outputs, found, strict=True):
        assert list(values) == list(LABELS)
        real = (x["numbers"] != 0).numpy()
        for name, value in values.items():
            error = out[name].numpy() - y[name].double().numpy()
            chosen = error if name == "energy" else error[real]
            assert value == pytest.approx(np.sqrt(np.mean(chosen**2)), rel=1e-9)


def test_the_rmse_of_a_batch_costs_no_host_read_unless_it_is_read() -> None:
    trainer, _, _ = trainer_of(TinyModel(), make_step=lambda optimizer, _: lambda _: optimizer.step())
    with no_host_reads():
        trainer.run(batches(2))
    assert trainer.state.batch_rmse["E"] > 0


class LossOf(SquaredLoss):
    """A loss multiplied by a factor whose value and gradient can be chosen separately."""

    def __init__(self, factor: Callable[[Tensor], Tensor]) -> None:
        self._factor = factor

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": self._factor(super().__call__(y_pred, y_true)["loss"])}


BAD_FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "loss and gradient": lambda loss: loss * torch.nan,
    "loss overflows, but not its gradient": lambda loss: loss + torch.inf,
    # The derivative of the square root at 0 is infinite.
    "gradient of a finite loss": lambda loss: loss + (0 * loss).sqrt(),
    "norm overflows": lambda loss: 1e30 * loss,
}


@pytest.mark.parametrize("kind", [ReadStep, MaskedStep])
@pytest.mark.parametrize("options", [{}, {"clip_value": 0.4}, {"clip_norm": 1.0}], ids=str)
@pytest.mark.parametrize("factor", BAD_FACTORS.values(), ids=BAD_FACTORS)
def test_a_step_that_is_not_finite_is_not_applied(
    factor: Callable[[Tensor], Tensor], options: dict[str, Any], kind: Any
) -> None:
    model, sums = TinyModel(), Recording()
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=0.1)
    given: dict[str, Any] = {"device": CPU, "make_step": lambda one, _: kind(one), **options}
    build_trainer(model, optimizer, SquaredLoss(), sums, **given).run(batches(2))
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()["state"]])
    trainer = build_trainer(model, optimizer, LossOf(factor), sums, **given)
    trainer.run(batches(1))
    torch.testing.assert_close([model.state_dict(), optimizer.state_dict()["state"]], before, rtol=0, atol=0)
    assert [bool(call["applied"]) for call in sums.calls] == [True, True, False]
    assert not trainer.state.applied


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (lambda loss: loss, "an object of type Tensor"),
        (lambda _: None, "an object of type NoneType"),
        (lambda loss: {"total": loss}, "a dictionary with 'total'"),
        (lambda _: {"loss": 0.5}, "'loss' 0.5"),
        (lambda loss: {"loss": loss[None]}, r"'loss' of shape \(1,\)"),
        (lambda loss: {"loss": loss.detach()}, "'loss' without a gradient"),
    ],
)
def test_a_loss_function_with_another_result_is_an_error_of_the_user(
    result: Callable[[Tensor], Any], found: str
) -> None:
    model = TinyModel()
    loss = SquaredLoss()

    def custom(y_pred: Any, y_true: Any) -> Any:
        return result(loss(y_pred, y_true)["loss"])

    trainer = build_trainer(model, torch.optim.SGD(model.parameters()), custom, Recording(), device=CPU)
    with pytest.raises(ConfigError, match=rf"loss\.class: the loss function returned {found}; expected a dictionary"):
        trainer.run(batches(1))
