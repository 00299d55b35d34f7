"""Parity plots and errors by element of validations, compared with errors computed in NumPy."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimnet2mult.config.merge import read_yaml
from aimnet2mult.config.schema import Config, load
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import Slot
from aimnet2mult.metrics.statistics import VALIDATION, statistics
from aimnet2mult.train.components import Components, build_components
from aimnet2mult.train.element_sums import ElementSums
from aimnet2mult.train.engine import build_validator
from aimnet2mult.train.observation import ObservedSums, Observer
from aimnet2mult.train.parity_sample import ParitySample
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from aimnet2mult.train.validation_media import ValidationMedia, is_plotted
from support.sample_runs import SAMPLE
from support.tiny_runs import points, train_tiny
from telemetry import NullBus, read_receipt, read_run

KCAL = 23.060547830619026
NAMES = ("low", "high")
FACTORS = {"energy": KCAL, "forces": KCAL, "charges": 1.0}
ABBREVIATIONS = {"energy": "E", "forces": "F", "charges": "q"}
Array = NDArray[Any]


class Error(NamedTuple):
    """A value of a label: its fidelity, label, prediction, and the elements and number of atoms it belongs to."""

    fidelity: int
    true: float
    pred: float
    elements: frozenset[int]
    atoms: int


def write_file(path: Path, seed: int, *, without: str = "") -> Path:
    """Write structures of three and four atoms, some of them without labels."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for atoms, rows in ((3, 14), (4, 9)):
            group = file.create_group(f"{atoms:03d}")
            group["coord"] = rng.normal(size=(rows, atoms, 3)) + 3 * np.arange(atoms)[:, None]
            group["numbers"] = rng.choice([1, 6, 8], size=(rows, atoms))
            for name, shape in (("energy", ()), ("forces", (atoms, 3)), ("charges", (atoms,))):
                if name != without:
                    labels = rng.normal(size=(rows, *shape))
                    labels[rng.random(labels.shape) < 0.2] = np.nan
                    group[name] = labels
    return path


def build(folder: Path, *overrides: str, communicator: Communicator | None = None) -> tuple[Config, Components]:
    files = [write_file(folder / f"{name}.h5", i, without="charges" * i) for i, name in enumerate(NAMES)]
    settings = [
        *(f"data.fidelity_datasets.{i}={path}" for i, path in enumerate(files)),
        *(f"data.fidelity_names.{i}={name}" for i, name in enumerate(NAMES)),
        "data.y=[energy, forces, charges]",
        "data.val_fraction=0.6",
        # Structures of three atoms are padded.
        "data.samplers.val.batch_size=6",
        "loss.class=support.tiny_model.SquaredLoss",
        "optimizer.param_groups.shifts=null",
        "trainer.epochs=2",
        "telemetry.sinks=none",
    ]
    config = load([], [*settings, *overrides])
    return config, build_components(config, read_yaml(SAMPLE / "model.yaml"), folder, communicator)


def pass_over(components: Components, communicator: Communicator, observers: Sequence[Observer]) -> None:
    assert components.val is not None
    val = components.val
    observed = ObservedSums(val.sums, val.dataset, val.sampler, communicator)
    observed.begin(observers)
    build_validator(components.model, components.loss_fn, observed, device=components.device).run(val.loader)


def errors(components: Components) -> dict[str, list[Error]]:
    """Return all values of the validation labels, with predictions of one structure at a time."""
    found: dict[str, list[Error]] = {name: [] for name in FACTORS}
    components.model.eval()
    for group in components.data.val.groups:
        keys = ["coord", "numbers", "charge", "mult", "fidelity", *FACTORS]
        arrays = group.read(np.arange(len(group)), keys)
        for row in range(len(group)):
            real = arrays["numbers"][row] != 0
            one: dict[str, Tensor] = {
                key: torch.from_numpy(arrays[key][row : row + 1]) for key in ("charge", "mult", "fidelity")
            }
            one |= {key: torch.from_numpy(arrays[key][row][real][None]) for key in ("coord", "numbers")}
            predicted = components.model(one)
            numbers, fidelity = arrays["numbers"][row][real], int(arrays["fidelity"][row])
            for name, values in found.items():
                pred = predicted[name][0].detach().double().numpy()
                true = arrays[name][row].astype(np.float64)
                true = true if name == "energy" else true[real]
                for index in np.argwhere(np.isfinite(true)):
                    of = numbers if name == "energy" else numbers[index[:1]]
                    place = tuple(index)
                    values.append(Error(fidelity, true[place], pred[place], frozenset(of.tolist()), int(real.sum())))
    return found


def in_order(pairs: Array) -> Array:
    """Return labels and predictions, (2, n), in the order of the labels."""
    ordered: Array = pairs[:, np.lexsort(pairs)]
    return ordered


class RecordingBus(NullBus):
    """A bus that records tables and images, and calls the functions for their contents."""

    def __init__(self) -> None:
        super().__init__(1)
        self.tables: dict[tuple[str, int], tuple[Sequence[str], Sequence[Sequence[object]]]] = {}
        self.images: dict[tuple[str, int], bytes] = {}

    def table(
        self, name: str, step: int, columns: Sequence[str], rows: Callable[[], Sequence[Sequence[object]]]
    ) -> None:
        self.tables[name, step] = columns, rows()

    def image(self, name: str, step: int, content: Callable[[], bytes], caption: str = "") -> None:
        self.images[name, step] = content()


def validated(config: Config, components: Components, iteration: int) -> RecordingBus:
    assert components.val is not None
    val, bus, communicator = components.val, RecordingBus(), Communicator()
    media = ValidationMedia(val, components, config, bus=bus, communicator=communicator)  # type: ignore[arg-type]
    pass_over(components, communicator, media.begin(iteration))

    def metrics() -> dict[str, float]:
        slot = val.sums.snapshot().wait()[Slot.EPOCH]
        return statistics(slot, components.labels, config.fidelity_names, VALIDATION, val.sums.layout.loss)

    media.publish(iteration, metrics)
    return bus


def test_the_table_has_the_errors_of_the_atoms_of_each_element(tmp_path: Path) -> None:
    config, components = build(tmp_path)
    step = len(components.train_loader)
    columns, rows = validated(config, components, step).tables["val/by_element", step]
    assert columns == [
        "element",
        "E_rmse [kcal/mol]",
        "E_mae [kcal/mol]",
        "E_atom_mae [kcal/mol/atom]",
        "F_rmse [kcal/mol/Å]",
        "F_mae [kcal/mol/Å]",
        "q_rmse [e]",
        "q_mae [e]",
    ]
    assert [row[0] for row in rows] == ["H", "C", "O"]
    found = errors(components)
    for element, (_, *values) in zip((1, 6, 8), rows, strict=True):
        expected = []
        for name, factor in FACTORS.items():
            of_element = [each for each in found[name] if element in each.elements]
            differences = factor * np.array([each.pred - each.true for each in of_element])
            expected += [np.sqrt(np.mean(differences**2)), np.mean(np.abs(differences))]
            if name == "energy":
                expected.append(np.mean(np.abs(differences) / [each.atoms for each in of_element]))
        assert values == pytest.approx(expected, rel=2e-5)


def test_the_points_are_the_labels_and_predictions_of_all_structures_up_to_the_limit(tmp_path: Path) -> None:
    _, components = build(tmp_path)
    assert components.val is not None
    sample = ParitySample(
        components.val.dataset,
        components.val.sampler,
        components.labels,
        device=components.device,
        communicator=Communicator(),
    )
    pass_over(components, Communicator(), [sample])
    shown, found = sample.snapshot()(), errors(components)
    for name, of_fidelities in shown.items():
        for fidelity, pairs in enumerate(of_fidelities):
            expected = np.array([[e.true, e.pred] for e in found[name] if e.fidelity == fidelity]).reshape(-1, 2).T
            assert pairs.shape == expected.shape
            np.testing.assert_allclose(in_order(pairs), in_order(expected), rtol=1e-5, atol=1e-6)
    assert shown["charges"][1].size == 0
    assert shown["forces"][0].shape[1] > 100


class InTurn(Communicator):
    """A rank of two that run one after the other; the second one receives the sums."""

    world_size = 2

    def __init__(self, rank: int, before: list[Tensor]) -> None:
        self.rank = rank
        self._before = before

    def all_reduce_sum(self, tensor: Tensor) -> None:
        if self.rank:
            tensor += self._before.pop(0)
        else:
            self._before.append(tensor.clone())


def observe(components: Components, communicator: Communicator) -> tuple[ParitySample, ElementSums]:
    assert components.val is not None
    val, device = components.val, components.device
    sample = ParitySample(
        val.dataset, val.sampler, components.labels, device=device, communicator=communicator, limit=7
    )
    elements = ElementSums(components.labels, (1, 6, 8), device, communicator)
    pass_over(components, communicator, [sample, elements])
    return sample, elements


def test_two_ranks_see_the_same_as_one_and_so_does_a_second_pass(tmp_path: Path) -> None:
    alone = observe(build(tmp_path)[1], Communicator())
    points_of_one, values_of_one = (each.snapshot()() for each in alone)
    assert points_of_one["energy"][0].shape[1] <= 7
    between: list[Tensor] = []
    for rank in range(2):
        communicator = InTurn(rank, between)
        _, components = build(tmp_path, communicator=communicator)
        sample, elements = observe(components, communicator)
        # A second pass replaces what the first one has seen.
        sample.reset()
        elements.reset()
        pass_over(components, communicator, [sample, elements])
        points_of_two, values_of_two = sample.snapshot()(), elements.snapshot()()
    for name, of_fidelities in points_of_one.items():
        for one, two in zip(of_fidelities, points_of_two[name], strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    for one, two in zip(values_of_one, values_of_two, strict=True):
        assert one == pytest.approx(two, rel=1e-5)


def test_a_plot_is_a_png_for_each_label_with_values(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config, components = build(tmp_path, "trainer.epochs=100")
    step = 100 * len(components.train_loader)
    images = validated(config, components, step).images
    assert [name for name, _ in images] == ["val/parity/E", "val/parity/F", "val/parity/q"]
    assert all(content.startswith(b"\x89PNG\r\n") for content in images.values())


@pytest.mark.parametrize("setting", ["log_frequency.plots=0", "log_frequency.plots=3"])
def test_a_validation_without_plots_publishes_nothing(tmp_path: Path, setting: str) -> None:
    config, components = build(tmp_path, "trainer.epochs=100", setting)
    bus = validated(config, components, 2 * len(components.train_loader))
    assert not bus.tables
    assert not bus.images


@pytest.mark.parametrize(
    ("wanted", "total", "expected"),
    [
        (50, 4, [1, 2, 3, 4]),
        (2, 4, [1, 2, 4]),
        (3, 10, [1, 4, 8, 10]),
        (1, 3, [1, 3]),
        (0, 3, []),
        # A run that ends before the first validation, and one that was extended.
        (50, 0, []),
    ],
)
def test_plots_are_spread_over_the_validations(wanted: int, total: int, expected: list[int]) -> None:
    assert [number for number in range(1, total + 1) if is_plotted(wanted, number, total)] == expected


def test_a_long_run_has_about_as_many_plots_as_wanted() -> None:
    assert sum(is_plotted(50, number, 10_000) for number in range(1, 10_001)) == 51


def test_plots_do_not_change_the_metrics_of_a_run(tmp_path: Path) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    with_plots = train_tiny(tmp_path / "with", "log_frequency.plots=50", "record_setup=true")
    without = train_tiny(tmp_path / "without")
    assert points(with_plots) == points(without)


def media(run: Path) -> list[tuple[str, int]]:
    return sorted((record.name, record.step) for record in read_run(run).media)


def test_a_run_that_is_resumed_has_each_plot_and_text_once(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    settings = ("log_frequency.plots=50", "record_setup=true", "checkpoint.artifacts=true", "checkpoint.best=loss")
    run = train_tiny(tmp_path, *settings, "trainer.epochs=1")
    for epochs in (2, 2):
        train(Request(resume=str(run), overrides=[f"trainer.epochs={epochs}"]))
    at_validation = ["val/by_element", "val/parity/E", "val/parity/q"]
    at_start = ["setup/code", "setup/command", "setup/data", "setup/environment"]
    at_end = ["weights/best", "weights/final"]
    expected = [(name, step) for name in (*at_validation, *at_end) for step in (3, 6)]
    assert media(run) == sorted([*expected, *((name, step) for name in at_start for step in (0, 3))])
    assert "NOT WRITTEN" not in str(read_receipt(run))
