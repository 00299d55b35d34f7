"""Parameter groups by regular expression, and schedules that step after the right events."""

import io
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.statistics import MetricInfo
from aimnet2mult.train.optimizer import Schedule, build_optimizer, build_scheduler, group_indices
from aimnet2mult.train.validation_metrics import ValidationMetrics

METRICS = ValidationMetrics(
    known={
        name: MetricInfo(text=name, better="higher" if name.endswith("_r2") else "lower")
        for name in ("loss", "E_rmse", "gfn1/E_rmse", "E_r2", "q_r2")
    },
    available=("loss", "E_rmse", "gfn1/E_rmse", "E_r2"),
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Model(nn.Module):
    """Parameters: first.weight, first.bias, shifts.weight, last.weight, last.bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.shifts = nn.Embedding(4, 1)
        self.last = nn.Linear(3, 1)


def section(**changes: Any) -> dict[str, Any]:
    base = {"class": "torch.optim.AdamW", "kwargs": {"lr": 1e-3, "weight_decay": 0.1}}
    return {**base, "force_no_train": [], "force_train": [], "param_groups": {}, **changes}


def names_in(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of each group's parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


# ---- the optimizer ---------------------------------------------------------------------------------


def test_a_parameter_joins_the_first_matching_group_or_the_default_group() -> None:
    model = Model()
    groups = {
        "shifts": {"re": r"shifts\.weight$", "weight_decay": 0.0},
        "weights": {"re": "weight", "lr": 1e-4},
    }
    optimizer = build_optimizer(model, section(param_groups=groups))
    assert names_in(optimizer, model) == [
        ["first.bias", "last.bias"],
        ["shifts.weight"],
        ["first.weight", "last.weight"],
    ]
    settings = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert settings == [(1e-3, 0.1), (1e-3, 0.0), (1e-4, 0.1)]
    assert "re" not in optimizer.param_groups[1]


def test_without_groups_all_parameters_form_one_group() -> None:
    model = Model()
    optimizer = build_optimizer(model, section())
    assert names_in(optimizer, model) == [[name for name, _ in model.named_parameters()]]


def test_expressions_match_anywhere_in_a_name() -> None:
    model = Model()
    optimizer = build_optimizer(model, section(param_groups={"bias": {"re": "bias"}}))
    assert names_in(optimizer, model)[1] == ["first.bias", "last.bias"]


def test_force_train_overrides_force_no_train() -> None:
    model = Model()
    optimizer = build_optimizer(model, section(force_no_train=["first", "last"], force_train=[r"last\.bias"]))
    assert names_in(optimizer, model) == [["shifts.weight", "last.bias"]]
    assert not model.first.weight.requires_grad
    assert model.last.bias.requires_grad


def test_a_group_of_frozen_parameters_is_omitted() -> None:
    model = Model()
    groups = {"shifts": {"re": "shifts", "weight_decay": 0.0}}
    optimizer = build_optimizer(model, section(force_no_train=["shifts"], param_groups=groups))
    assert len(optimizer.param_groups) == 1


def test_groups_that_match_all_parameters_leave_no_default_group() -> None:
    optimizer = build_optimizer(Model(), section(param_groups={"all": {"re": "", "lr": 0.5}}))
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]


def test_the_settings_of_a_group_apply_to_its_parameters() -> None:
    model = Model()
    groups = {"still": {"re": "first", "lr": 0.0}}
    optimizer = build_optimizer(
        model, section(**{"class": "torch.optim.SGD", "kwargs": {"lr": 0.5}}, param_groups=groups)
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = before[name] - (0.0 if name.startswith("first") else 0.5)
        assert torch.equal(parameter, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class": "torch.optim.Adamm"}, "optimizer.class is 'torch.optim.Adamm'; .* did you mean torch.optim.Adam"),
        (
            {"class": "torch.nn.Linear"},
            "optimizer.class is 'torch.nn.Linear': an optimizer may come from torch.optim; if",
        ),
        ({"class": "torch.optim.sgd.sgd"}, "which is not a torch.optim"),
        ({"kwargs": {"lerning_rate": 1}}, "cannot build AdamW with .*lerning_rate"),
        ({"kwargs": {"lr": -1.0}}, "cannot build AdamW with {'lr': -1.0}: Invalid learning rate"),
        ({"kwargs": {"lr": "fast"}}, "cannot build AdamW with {'lr': 'fast'}"),
        ({"param_group": {}}, "optimizer has no key 'param_group'; its keys are class, kwargs"),
        ({"force_train": ["nowhere"]}, "optimizer.force_train is 'nowhere', which matches no parameter"),
        ({"force_no_train": ["(first"]}, r"optimizer.force_no_train is '\(first', which is not a regular expression"),
        ({"force_no_train": "first"}, "expected a list of regular expressions"),
        ({"force_no_train": [""]}, "optimizer.force_no_train freezes all parameters"),
        ({"param_groups": {"a": {"lr": 1.0}}}, "optimizer.param_groups.a has no 're'"),
        ({"param_groups": {"a": {"re": "first", "params": []}}}, "optimizer.param_groups.a has 'params'"),
        ({"param_groups": {"a": {"re": "[z-a]"}}}, "optimizer.param_groups.a.re is .* not a regular expression"),
        ({"param_groups": {"a": {"re": None}}}, "optimizer.param_groups.a.re is None, which is not a regular"),
        ({"param_groups": {"a": {"re": "third"}}}, "'third', which matches no parameter of the model .first.weight"),
        ({"param_groups": {"a": {"re": "first", "weigth_decay": 0}}}, "param_groups.a has no key 'weigth_decay'"),
        (
            {"param_groups": {"a": {"re": "weight"}, "b": {"re": r"shifts\.weight"}}},
            "optimizer.param_groups.b has no parameters: earlier groups match all of them",
        ),
    ],
)
def test_an_invalid_optimizer_is_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizer(Model(), section(**changes))


def test_a_section_without_a_class_is_rejected() -> None:
    with pytest.raises(ConfigError, match="optimizer has no 'class'"):
        build_optimizer(Model(), {"kwargs": {}})


def test_groups_without_parameters_have_no_position() -> None:
    model = Model()
    groups = {"shifts": {"re": "shifts"}, "last": {"re": "last"}, "rest": {"re": "first", "lr": 1e-4}}
    optimizer = build_optimizer(model, section(param_groups=groups, force_no_train=["last"]))
    assert group_indices(model, groups) == {"shifts": 0, "rest": 1}
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-4]


# ---- the schedule ----------------------------------------------------------------------------------


def scheduled(cfg: dict[str, Any] | None) -> tuple[torch.optim.Optimizer, Schedule]:
    """Return an optimizer with lr 1 and its schedule, after the first step of the optimizer, which torch requires."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_scheduler(optimizer, cfg, metrics=METRICS)
    optimizer.step()
    return optimizer, schedule


def lr(optimizer: torch.optim.Optimizer) -> float:
    return optimizer.param_groups[0]["lr"]


def halving(step: str | None = None) -> dict[str, Any]:
    cfg = {"class": "torch.optim.lr_scheduler.ExponentialLR", "kwargs": {"gamma": 0.5}}
    return cfg if step is None else {**cfg, "step": step}


def plateau(**changes: Any) -> dict[str, Any]:
    kwargs = {"factor": 0.5, "patience": 0}
    return {"class": "torch.optim.lr_scheduler.ReduceLROnPlateau", "kwargs": kwargs, **changes}


def cosine(**changes: Any) -> dict[str, Any]:
    kwargs = {"start_value": 0.8, "end_value": 0.0, "cycle_size": 4}
    return {"class": "ignite.handlers.param_scheduler.CosineAnnealingScheduler", "kwargs": kwargs, **changes}


def report(schedule: Schedule, what: str) -> None:
    if what == "val":
        schedule.step_validation({"loss": 1.0})
    else:
        getattr(schedule, f"step_{what}")()


@pytest.mark.parametrize("event", ["iteration", "epoch", "val"])
@pytest.mark.parametrize("step", ["iteration", "epoch", "val", None])
def test_a_schedule_steps_only_after_its_own_kind_of_event(step: str | None, event: str) -> None:
    optimizer, schedule = scheduled(halving(step))
    report(schedule, event)
    assert lr(optimizer) == (0.5 if event == (step or "epoch") else 1.0)


@pytest.mark.parametrize("event", ["iteration", "epoch", "val"])
def test_without_a_schedule_the_learning_rate_is_constant(event: str) -> None:
    optimizer, schedule = scheduled(None)
    report(schedule, event)
    assert lr(optimizer) == 1.0
    assert not schedule.needs_validation


@pytest.mark.parametrize("name", ["E_rmse", "val_E_rmse", "val/E_rmse"])
def test_a_plateau_is_detected_in_the_chosen_metric(name: str) -> None:
    optimizer, schedule = scheduled(plateau(metric_name=name))
    assert schedule.needs_validation
    for loss, rmse in [(1.0, 4.0), (2.0, 3.0), (3.0, 2.0)]:
        schedule.step_validation({"loss": loss, "E_rmse": rmse})
        assert lr(optimizer) == 1.0
    schedule.step_validation({"loss": 0.0, "E_rmse": 2.5})
    assert lr(optimizer) == 0.5


@pytest.mark.parametrize("changes", [{}, {"metric_name": "loss"}, {"metric_name": "val_loss", "step": "val"}])
def test_a_plateau_is_detected_in_the_validation_loss_by_default(
    changes: dict[str, str],
) -> None:
    optimizer, schedule = scheduled(plateau(**changes))
    for loss, expected in [(1.0, 1.0), (2.0, 0.5), (math.nan, 0.25), (0.5, 0.25)]:
        schedule.step_validation({"loss": loss, "E_rmse": 1.0})
        assert lr(optimizer) == expected


def test_a_validation_without_the_metric_is_no_step() -> None:
    optimizer, schedule = scheduled(plateau(metric_name="E_rmse"))
    schedule.step_validation({"loss": 1.0, "E_rmse": 2.0})
    for _ in range(3):
        schedule.step_validation({"loss": 1.0})
    assert lr(optimizer) == 1.0
    schedule.step_validation({"loss": 1.0, "E_rmse": 3.0})
    assert lr(optimizer) == 0.5


@pytest.mark.parametrize("mode", [{}, {"mode": "max"}])
def test_a_plateau_of_r2_is_detected_while_it_does_not_rise(mode: dict[str, str]) -> None:
    optimizer, schedule = scheduled(plateau(metric_name="E_r2", kwargs={"factor": 0.5, "patience": 0} | mode))
    rates = {}
    for value in (-5.0, -4.0, 0.2, 0.9, 0.95, 0.94, 0.96, 0.96):
        schedule.step_validation({"E_r2": value})
        rates[value] = lr(optimizer)
    assert rates == {-5.0: 1.0, -4.0: 1.0, 0.2: 1.0, 0.9: 1.0, 0.95: 1.0, 0.94: 0.5, 0.96: 0.25}


def test_a_negative_r2_that_does_not_rise_is_a_plateau() -> None:
    optimizer, schedule = scheduled(plateau(metric_name="E_r2"))
    for value in (-5.0, -5.0, -5.0001):
        schedule.step_validation({"E_r2": value})
    assert lr(optimizer) == 0.25


@pytest.mark.parametrize(("metric", "rate"), [("loss", 1.0), ("E_rmse", 0.5)])
def test_the_best_loss_of_version_0_1_is_not_compared_with_later_ones(metric: str, rate: float) -> None:
    _, before = scheduled(plateau(metric_name=metric))
    before.step_validation({metric: 1.0})
    state = {key: value for key, value in before.state_dict().items() if key != "version"}
    optimizer, schedule = scheduled(plateau(metric_name=metric))
    schedule.load_state_dict(state)
    schedule.step_validation({metric: 1.1})
    assert lr(optimizer) == rate


def test_a_run_that_stepped_in_the_wrong_mode_resumes_in_the_right_one() -> None:
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    early = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, factor=0.5, patience=3)
    for value in (0.1, 0.5, 0.9):
        early.step(value)
    state = {"class": "ReduceLROnPlateau", "state": early.state_dict()}
    optimizer, schedule = scheduled(plateau(metric_name="E_r2", kwargs={"factor": 0.5, "patience": 3}))
    schedule.load_state_dict(state)
    for value in (0.91, 0.92, 0.93, 0.94, 0.95):
        schedule.step_validation({"E_r2": value})
    assert lr(optimizer) == 1.0
    for _ in range(4):
        schedule.step_validation({"E_r2": 0.94})
    assert lr(optimizer) == 0.5


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"kwargs": {}}, "scheduler has no 'class'"),
        ({"class": "torch.optim.SGD"}, "torch.optim.SGD.: a scheduler may come from torch.optim.lr_scheduler, ignite"),
        (
            {"class": "torch.optim.lr_scheduler.bisect_right"},
            "defined in _bisect: a scheduler may come from torch.optim",
        ),
        ({"class": "torch.optim.lr_scheduler.StepLRR"}, "did you mean torch.optim.lr_scheduler.StepLR"),
        ({"class": "torch.optim.lr_scheduler.StepLR"}, "cannot build StepLR with {}: .*step_size"),
        (halving("batch"), "scheduler.step is 'batch'; expected one of iteration, epoch, val"),
        (plateau(step="epoch"), "scheduler.step is 'epoch'; ReduceLROnPlateau needs val"),
        (plateau(metric_name="F_rmse"), "metric_name is 'F_rmse'; expected one of loss, E_rmse, gfn1/E_rmse, E_r2"),
        (
            plateau(metric_name="val/q_r2"),
            "scheduler.metric_name is 'val/q_r2', but the validation data have no labels for it; available: loss, E_rm",
        ),
        (
            plateau(metric_name="E_r2", kwargs={"mode": "min"}),
            "scheduler.kwargs.mode is 'min', but higher values of E_r2 are better; remove it or set max",
        ),
        (
            plateau(kwargs={"mode": "max"}),
            "scheduler.kwargs.mode is 'max', but lower values of loss are better; remove it or set min",
        ),
        ({**halving(), "metric_name": "loss"}, "ExponentialLR uses no metric"),
        (
            {"class": "ignite.handlers.ReduceLROnPlateauScheduler"},
            "ignite.handlers.ReduceLROnPlateauScheduler; use torch.optim.lr_scheduler.ReduceLROnPlateau instead",
        ),
        ({"class": "ignite.handlers.CosineAnnealingScheduler"}, "cannot build CosineAnnealingScheduler with {}: "),
        ({"class": "ignite.handlers.ConcatScheduler", "kwargs": {"durations": [1]}}, "cannot build ConcatScheduler"),
        ({**halving(), "terminate_on_low_lr": 1e-5}, "scheduler has no key 'terminate_on_low_lr'"),
    ],
)
def test_an_invalid_schedule_is_rejected(cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scheduled(cfg)


@pytest.mark.parametrize("cfg", [halving("iteration"), plateau(), cosine(), cosine(step="val")])
def test_a_schedule_continues_from_its_saved_state(cfg: dict[str, Any]) -> None:
    metrics = [3.0, 2.0, 2.5, 2.5, 1.0, 1.5]

    def run(schedule: Schedule, values: list[float]) -> None:
        for value in values:
            schedule.step_iteration()
            schedule.step_validation({"loss": value})

    whole, schedule = scheduled(cfg)
    run(schedule, metrics)
    first, schedule = scheduled(cfg)
    run(schedule, metrics[:3])
    file = io.BytesIO()
    torch.save([first.state_dict(), schedule.state_dict()], file)
    file.seek(0)
    second, resumed = scheduled(cfg)
    optimizer_state, schedule_state = torch.load(file, weights_only=True)
    second.load_state_dict(optimizer_state)
    resumed.load_state_dict(schedule_state)
    run(resumed, metrics[3:])
    assert lr(second) == lr(whole) < 1.0


@pytest.mark.parametrize(("saved", "here"), [(halving(), None), (None, halving()), (halving(), plateau())])
def test_the_state_of_another_scheduler_is_rejected(saved: Any, here: Any) -> None:
    state = scheduled(saved)[1].state_dict()
    with pytest.raises(ConfigError, match=r"the checkpoint has scheduler .*; the configuration has"):
        scheduled(here)[1].load_state_dict(state)


def test_an_ignite_schedule_starts_with_the_first_iteration_or_epoch() -> None:
    for changes, event in (({}, "iteration"), ({"step": "epoch"}, "epoch")):
        optimizer, schedule = scheduled(cosine(**changes))
        rates = [lr(optimizer)]
        for _ in range(4):
            report(schedule, event)
            rates.append(lr(optimizer))
        assert rates == pytest.approx([0.4 * (1 + math.cos(math.pi * i / 4)) for i in range(4)] + [0.8])


def test_an_ignite_schedule_of_validations_starts_with_the_first_validation() -> None:
    optimizer, schedule = scheduled(cosine(step="val"))
    rates = [lr(optimizer)]
    for _ in range(2):
        report(schedule, "iteration")
        report(schedule, "val")
        rates.append(lr(optimizer))
    assert rates == pytest.approx([1.0, 0.8, 0.4 * (1 + math.cos(math.pi / 4))])
    assert not schedule.needs_validation


def test_an_ignite_schedule_sets_the_value_of_all_groups() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    build_scheduler(optimizer, cosine(), metrics=METRICS)
    assert [group["lr"] for group in optimizer.param_groups] == [0.8, 0.8]


def test_the_state_of_no_schedule_can_be_restored() -> None:
    _, nothing = scheduled(None)
    nothing.load_state_dict(nothing.state_dict())
