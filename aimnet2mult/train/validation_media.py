"""Parity plots and a table of errors by element, recorded at validations."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from aimnet2mult.config.schema import Config
from aimnet2mult.data.compositions import join_symbols
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.quantities import Label
from aimnet2mult.train.components import Components, EvaluationSet
from aimnet2mult.train.display_units import DisplayUnits
from aimnet2mult.train.element_sums import ElementSums, Values
from aimnet2mult.train.observation import Observer
from aimnet2mult.train.parity_plot import describe_errors, draw_figure
from aimnet2mult.train.parity_sample import ParitySample, PointsByLabel
from aimnet2mult.train.reporter import VALIDATION_STREAM, Bus
from telemetry.plugins.optional_imports import is_installed
from telemetry.units import with_unit

__all__ = ["ValidationMedia", "is_plotted"]

KINDS = ("rmse", "mae")
"""The errors in the table."""


def is_plotted(wanted: int, number: int, total: int) -> bool:
    """Return whether a validation has plots: the first, the last, and every n-th in between.

    Args:
        wanted: the setting ``log_frequency.plots``, the approximate number of validations with plots; 0: none.
        number: number of the validation, counted from 1.
        total: number of validations of the run.
    """
    if not wanted:
        return False
    return number in (1, total) or number % max(1, -(-total // wanted)) == 0


class ValidationMedia:
    """Parity plots and a table of errors by element of some validations.

    Plots are drawn by a thread of the bus. All ranks must call the same methods, and rank 0 publishes.

    Args:
        data: the validation data.
        components: components of the run.
        config: configuration of the run.
        bus: bus to publish to.
        communicator: communicator of the ranks that share each batch.
    """

    def __init__(
        self, data: EvaluationSet, components: Components, config: Config, *, bus: Bus, communicator: Communicator
    ) -> None:
        self._data = data
        self._components = components
        self._config = config
        self._bus = bus
        self._communicator = communicator
        available = components.val_metrics.available
        self._labels = [label for label in components.labels if f"{label.abbr}_rmse" in available]

    def notice(self) -> str:
        """Return why there are no plots although there should be; "" if there are."""
        if not self._config.log_frequency.plots or is_installed("matplotlib"):
            return ""
        return "no parity plots of validations, because matplotlib is not installed: pip install 'aimnet2mult[plot]'"

    def begin(self, iteration: int) -> Sequence[Observer]:
        """Return the observers of a validation after an iteration; none if it has no plots."""
        if not self._labels or not self._is_due(iteration):
            return ()
        self._sample.reset()
        self._elements.reset()
        return self._sample, self._elements

    def publish(self, iteration: int, metrics: Callable[[], Values]) -> None:
        """Publish what the observers of a complete validation have seen.

        Args:
            iteration: the iteration.
            metrics: function that waits for the device, and returns the metrics of the validation.
        """
        if not self._labels or not self._is_due(iteration):
            return
        points, by_element = self._sample.snapshot(), self._elements.snapshot()
        if self._communicator.rank:
            return
        columns = ["element", *(with_unit(name, self._units.unit(name)) for name in self._columns)]
        self._bus.table(f"{VALIDATION_STREAM}/by_element", iteration, columns, lambda: self._rows(by_element()))
        if is_installed("matplotlib"):
            for label in self._labels:
                self._publish_plot(iteration, label, points, metrics)

    def _publish_plot(
        self, iteration: int, label: Label, points: Callable[[], PointsByLabel], metrics: Callable[[], Values]
    ) -> None:
        caption = f"{label.text} of up to {self._sample.limit:,} validation structures of each fidelity"
        self._bus.image(
            f"{VALIDATION_STREAM}/parity/{label.abbr}",
            iteration,
            lambda: self._draw(label, points(), metrics()),
            caption,
        )

    def _is_due(self, iteration: int) -> bool:
        length, every = len(self._components.train_loader), self._config.log_frequency.val
        every = length if every is None else every
        total = self._config.trainer.epochs * length // every
        return is_plotted(self._config.log_frequency.plots, iteration // every, total)

    @cached_property
    def _sample(self) -> ParitySample:
        data, components = self._data, self._components
        return ParitySample(
            data.dataset,
            data.sampler,
            self._labels,
            device=components.device,
            communicator=self._communicator,
        )

    @cached_property
    def _elements(self) -> ElementSums:
        components = self._components
        return ElementSums(self._labels, self._present, components.device, self._communicator)

    @cached_property
    def _units(self) -> DisplayUnits:
        return DisplayUnits(self._components.labels, self._config)

    @cached_property
    def _present(self) -> list[int]:
        """The atomic numbers in the data."""
        return sorted({element for summary in self._components.data.summaries for element in summary.elements})

    @property
    def _columns(self) -> list[str]:
        """The metrics in the table."""
        names = []
        for label in self._labels:
            names += [f"{label.abbr}_{kind}" for kind in KINDS]
            names += ["E_atom_mae"] if label.name == "energy" else []
        return names

    def _rows(self, by_element: Sequence[Values]) -> list[list[Any]]:
        """Return a row for each element with any error; those of energies are of the structures that contain it."""
        rows = []
        for element, values in zip(self._present, by_element, strict=True):
            shown = self._units.convert({name: value for name, value in values.items() if name in self._columns})
            if shown:
                rows.append([join_symbols([element]), *(shown.get(name) for name in self._columns)])
        return rows

    def _draw(self, label: Label, points: PointsByLabel, metrics: Values) -> bytes:
        rmse = f"{label.abbr}_rmse"
        unit, factor = self._units.unit(rmse), self._units.factor(rmse)
        found = dict(zip(self._config.fidelity_names, points[label.name], strict=False))
        return draw_figure(
            {name: values * factor for name, values in found.items()},
            {name: describe_errors(self._of_fidelity(metrics, label, name), label, unit) for name in found},
            label,
            unit,
        )

    def _of_fidelity(self, metrics: Mapping[str, float], label: Label, fidelity: str) -> Values:
        """Return the metrics of a label for one fidelity, in display units, without its name."""
        prefix = f"{fidelity}/" if len(self._config.fidelity_names) > 1 else ""
        names = [f"{label.abbr}_{kind}" for kind in (*KINDS, "r2")]
        return self._units.convert({name: metrics[prefix + name] for name in names if prefix + name in metrics})
