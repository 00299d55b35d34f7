"""Malformed checkpoints are refused with one line that names the file and the entry; none trains with wrong state."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aimnet2mult.errors import CheckpointError, ConfigError
from aimnet2mult.models.initial_weights import load_weights
from aimnet2mult.models.weights import save_checkpoint_weights
from aimnet2mult.train.checkpoint_file import load_checkpoint
from aimnet2mult.train.checkpoint_peek import read_progress
from aimnet2mult.train.components import Components
from aimnet2mult.train.restoring import check_alike, restore_part
from support.damage import damage_bytes, damage_pickle, damage_values
from support.file_contents import read_content
from support.tiny_runs import build_tiny, newest_checkpoint, train_tiny

Change = Callable[[Any], object]
SCHEDULER = "scheduler={class: torch.optim.lr_scheduler.StepLR, kwargs: {step_size: 2}, step: epoch}"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return newest_checkpoint(train_tiny(tmp_path_factory.mktemp("original"), "trainer.epochs=1", SCHEDULER))


@pytest.fixture(scope="module")
def content(original: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = read_content(original)
    return loaded


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> Components:
    return build_tiny(tmp_path_factory.mktemp("components"), SCHEDULER)[1]


def state(components: Components) -> dict[str, Any]:
    return {
        "model": components.model,
        "optimizer": components.optimizer,
        "schedule": components.schedule,
        "sums": components.train_sums,
    }


@pytest.fixture(autouse=True)
def _same_random_state() -> Any:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])


def put(*keys: Any, value: Any) -> Change:
    """Return a function that replaces an entry."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value(content[keys[-1]]) if callable(value) else value

    return change


def drop(*keys: Any) -> Change:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


MODEL, ADAM, GROUP = ("parts", "model"), ("parts", "optimizer", "state", 0), ("parts", "optimizer", "param_groups", 0)
STEP_LR, WEIGHT = ("parts", "schedule", "state"), "mlp.0.weight"
MALFORMED: list[tuple[Change, str]] = [
    (drop("parts"), "model: it is missing"),
    (put("parts", value=[]), "model: list indices must be integers"),
    (drop("parts", "optimizer"), "optimizer: it is missing"),
    (put("parts", "model", value=[1]), "model: expected a state, found a list"),
    (put(*MODEL, WEIGHT, value=1.0), f"model: {WEIGHT} is a float; expected an array"),
    (
        put(*MODEL, WEIGHT, value=lambda a: a.double()),
        f"model: {WEIGHT} has type torch.float64; expected torch.float32",
    ),
    (put(*MODEL, WEIGHT, value=lambda a: a * torch.nan), f"model: {WEIGHT} is not finite"),
    (put(*MODEL, WEIGHT, value=lambda a: a[:3]), f"model: .*size mismatch for {WEIGHT}"),
    (drop(*MODEL, WEIGHT), f"model: .*Missing key.*{WEIGHT}"),
    (put(*ADAM, "exp_avg", value=lambda a: a[:3]), "optimizer: state of parameter 0 of group 0: "),
    (put(*ADAM, "exp_avg", value="text"), "optimizer: state of parameter 0 of group 0: "),
    (
        put(*ADAM, "exp_avg", value=lambda a: a * torch.nan),
        "optimizer: .*parameter 0 of group 0: the next step is not finite",
    ),
    (drop(*ADAM, "exp_avg_sq"), "optimizer: state of parameter 0 of group 0: KeyError"),
    (put(*GROUP, "lr", value="0.1"), "optimizer: state of parameter 0 of group 0: "),
    (put(*GROUP, "betas", value=0.9), "optimizer: state of parameter 0 of group 0: "),
    (drop(*GROUP, "eps"), "optimizer: state of parameter 0 of group 0: KeyError"),
    (put(*GROUP, "params", value=[0, 1]), "optimizer: .*doesn't match the size"),
    (put("parts", "optimizer", "param_groups", value=[]), "optimizer: .*different number of parameter groups"),
    (put(*STEP_LR, "step_size", value=0), "schedule: state.step_size is 0; expected a number like 2"),
    (put(*STEP_LR, "gamma", value="0.1"), "schedule: state.gamma is '0.1'; expected a number like 0.1"),
    (put(*STEP_LR, "base_lrs", value=["a"]), "schedule: state.base_lrs.0 is 'a'; expected a number"),
    (put(*STEP_LR, "step", value=1), "schedule: unknown entry 'step'"),
    (put(*STEP_LR, "optimizer", value=1), "schedule: unknown entry 'optimizer'"),
    (put("parts", "schedule", "class", value="CosineAnnealingLR"), "schedule: the checkpoint has scheduler Cosine"),
    (put("parts", "sums", "sums", value=lambda a: a[:1]), r"sums: the saved sums have shape \(1, .*expected"),
    (put("parts", "sums", "sums", value=3), "sums: "),
    (put("parts", "sums", "labels", value=["a"]), "sums: the saved sums are for labels"),
    (drop("random"), "random: it is missing"),
    (put("random", "python", value=(3, [1, 2], None)), "random: "),
    (put("random", "numpy", 2, value=10**9), "random: the position in NumPy's random numbers is 1000000000"),
    (put("random", "torch", value=lambda a: a[:10]), "random: "),
    (put("random", "torch", value=lambda a: a.float()), "random: "),
    (put("position", value=3), "position: "),
]


@pytest.mark.parametrize(("change", "message"), MALFORMED)
def test_a_malformed_checkpoint_is_refused_with_its_entry(
    content: dict[str, Any], components: Components, tmp_path: Path, change: Change, message: str
) -> None:
    path, changed = tmp_path / "step-00000003.pt", copy.deepcopy(content)
    changed["random"]["numpy"] = list(changed["random"]["numpy"])
    change(changed)
    torch.save(changed, path)
    with pytest.raises(CheckpointError, match=rf"^the checkpoint {path} does not fit this run: {message}") as raised:
        load_checkpoint(path, state(components))
    assert "\n" not in str(raised.value)


POSITIONS: list[tuple[Change, str]] = [
    (drop("position"), "'position' is missing"),
    (put("position", value=[]), "Expected `object`, got `array`"),
    (put("position", "iteration", value=-1), r"Expected `int` >= 0 - at `\$.iteration`"),
    (put("position", "iteration", value=3.5), r"Expected `int`, got `float` - at `\$.iteration`"),
    (put("position", "iteration", value=2**70), r"at `\$.iteration`"),
    (put("position", "epoch_length", value=0), r"Expected `int` >= 1 - at `\$.epoch_length`"),
    (put("position", "owes_validation", value="no"), r"Expected `bool`, got `str` - at `\$.owes_validation`"),
    (drop("position", "data"), "missing required field `data`"),
    (put("position", "samplers", value=[1]), r"at `\$.samplers`"),
    (put("position", "best", "value", value="low"), r"at `\$.best.value`"),
    (put("parts", "optimizer", "param_groups", value=[]), "is not a checkpoint of this trainer"),
    (drop("parts"), "'parts' is missing"),
]


@pytest.mark.parametrize(("change", "message"), POSITIONS)
def test_a_malformed_position_is_refused_before_torch_is_imported(
    content: dict[str, Any], tmp_path: Path, change: Change, message: str
) -> None:
    path, changed = tmp_path / "step-00000003.pt", copy.deepcopy(content)
    change(changed)
    torch.save(changed, path)
    with pytest.raises(CheckpointError, match=rf"^{path} is not a checkpoint of this trainer: .*{message}|{message}"):
        read_progress(path)


@pytest.mark.parametrize("whole", [[1, 2], None, torch.zeros(3), {"a": 1}, "text"])
def test_a_checkpoint_with_something_else_is_refused(components: Components, tmp_path: Path, whole: object) -> None:
    path = tmp_path / "step-00000003.pt"
    torch.save(whole, path)
    with pytest.raises(CheckpointError, match=r"step-00000003.pt"):
        read_progress(path)
    with pytest.raises(
        CheckpointError, match=r"step-00000003.pt(: it contains a \w+ instead of | does not fit this run: model: )"
    ):
        load_checkpoint(path, state(components))
    with pytest.raises(CheckpointError, match=r"step-00000003.pt: it has no entry parts.model"):
        save_checkpoint_weights(path, tmp_path, tmp_path / "w.pt")


def test_a_trial_step_changes_neither_the_optimizer_nor_the_schedule(original: Path, components: Components) -> None:
    load_checkpoint(original, state(components))
    before = copy.deepcopy([part.state_dict() for part in state(components).values()])
    restore_part(components.optimizer, components.optimizer.state_dict())
    after = [part.state_dict() for part in state(components).values()]
    assert str(before) == str(after)


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adafactor", "Rprop", "LBFGS"]
)
def test_the_state_of_any_optimizer_of_torch_is_restored(name: str) -> None:
    model = nn.Linear(3, 2)
    make: Any = getattr(torch.optim, name)
    before, after = make(model.parameters(), lr=0.1), make(model.parameters(), lr=0.1)

    def closure() -> torch.Tensor:
        before.zero_grad()
        loss: torch.Tensor = model(torch.ones(4, 3)).square().sum()
        loss.backward()
        return loss

    before.step(closure)
    restore_part(after, before.state_dict())
    assert str(after.state_dict()) == str(before.state_dict())


def test_entries_that_only_one_version_of_torch_has_are_accepted() -> None:
    check_alike({"a": 1, "new": 2}, {"a": 5.0, "old": "x"}, "state")
    check_alike({"a": [0.1], "b": None, "c": torch.ones(1)}, {"a": (1,), "b": 3, "c": 1.0}, "state")
    with pytest.raises(ValueError, match=r"state.a is nan; expected a number like 1"):
        check_alike({"a": 1}, {"a": float("nan")}, "state")
    with pytest.raises(ValueError, match=r"state.a is a list; expected a str"):
        check_alike({"a": "min"}, {"a": []}, "state")


def test_random_damage_never_ends_in_another_exception(
    original: Path, content: dict[str, Any], components: Components, tmp_path: Path
) -> None:
    path, data = tmp_path / "step-00000003.pt", original.read_bytes()
    tries: list[tuple[type[Exception], Callable[[], object]]] = [
        (CheckpointError, lambda: read_progress(path)),
        (CheckpointError, lambda: load_checkpoint(path, state(components))),
        (ConfigError, lambda: load_weights(components.model, path)),
        (CheckpointError, lambda: save_checkpoint_weights(path, tmp_path, tmp_path / "w.pt")),
    ]
    refused = [0] * len(tries)
    for seed in range(40):
        rng = random.Random(seed)
        if seed % 4 == 0:
            path.write_bytes(damage_bytes(data, rng))
        elif seed % 4 == 1:
            damage_pickle(original, path, rng)
        else:
            torch.save(damage_values(content, rng), path)
        for index, (kind, attempt) in enumerate(tries):
            try:
                attempt()
            except kind:
                refused[index] += 1
    assert all(10 < number < 40 for number in refused), refused
