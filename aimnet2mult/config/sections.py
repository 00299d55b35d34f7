"""The sections of the settings: which keys they have, and the type of each value."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta

from aimnet2mult.config.type_check import Section
from aimnet2mult.quantities import Label

__all__ = [
    "ADAPTIVE_LOSS",
    "OWN_LOSS",
    "Checkpoint",
    "Count",
    "Data",
    "DeclaredLabel",
    "LabelLoss",
    "LogFrequency",
    "Loss",
    "Name",
    "Optimizer",
    "Options",
    "Scheduler",
    "Trainer",
]

MAX_FLOAT = sys.float_info.max
"""Upper bound that excludes infinity."""
OWN_LOSS = "aimnet2mult.train.loss.MTLoss"
ADAPTIVE_LOSS = "aimnet2mult.train.adaptive_loss.MTAdaWLoss"
Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0, le=MAX_FLOAT)]
Name = Annotated[str, Meta(pattern=r"\A\w[\w.-]*\Z")]
Options = dict[str, Any]


class LabelLoss(Section, frozen=True):
    """The component of the loss that a declared label gets unless ``loss.kwargs.components`` has one of its name."""

    weight: Annotated[float, Meta(ge=0, le=MAX_FLOAT)] = 1.0
    fn: str | None = None


class DeclaredLabel(Section, frozen=True):
    """A label that the user declares."""

    shape: Literal["per_atom", "per_structure"]
    unit: str
    abbr: Annotated[str, Meta(min_length=1, max_length=20)]
    components: Annotated[int, Meta(ge=1, le=1000)] = 1
    metric_unit: str | None = None
    text: str | None = None
    loss: LabelLoss = LabelLoss()

    def to_label(self, name: str) -> Label:
        """Return the label of this name."""
        return Label(
            name=name,
            abbr=self.abbr,
            per_atom=self.shape == "per_atom",
            components=self.components,
            source_unit=self.unit,
            unit=self.metric_unit or self.unit,
            text=self.text or name.replace("_", " "),
        )


class EnergyReference(Section, frozen=True):
    files: dict[Natural, str]


class References(Section, frozen=True):
    energy: EnergyReference


class TrainSampler(Section, frozen=True):
    batch_size: Count
    batch_mode: Literal["atoms", "molecules"]
    batches_per_epoch: Count | None


class ValSampler(Section, frozen=True):
    batch_size: Count
    batch_mode: Literal["atoms", "molecules"]


class Samplers(Section, frozen=True):
    train: TrainSampler
    val: ValSampler


class Loaders(Section, frozen=True):
    train: Options
    val: Options


class Data(Section, frozen=True):
    """The data sets: files, units, split, batches."""

    fidelity_datasets: dict[Natural, str]
    val_fidelity_datasets: dict[Natural, str]
    test_fidelity_datasets: dict[Natural, str]
    fidelity_weights: dict[Natural, Annotated[float, Meta(ge=0, le=MAX_FLOAT)]]
    weights_of: Literal["fidelity", "structure"]
    fidelity_names: dict[Natural, Name]
    sae: References
    keys: dict[str, str]
    units: dict[str, str]
    allow_external: bool
    min_distance: Annotated[float, Meta(ge=0, le=MAX_FLOAT)]
    on_bad_structure: Literal["error", "skip"]
    y: list[str]
    on_missing_label: Literal["error", "drop"]
    val_fraction: Annotated[float, Meta(ge=0, lt=1)]
    test_fraction: Annotated[float, Meta(ge=0, lt=1)]
    split_file: str | None
    in_memory_gb: Annotated[float, Meta(ge=0, le=MAX_FLOAT)]
    cache: str
    stage: str | None
    samplers: Samplers
    loaders: Loaders


class Loss(Section, frozen=True, rename={"cls": "class"}):
    """The loss: a class and its arguments."""

    cls: str
    kwargs: Options

    @property
    def arguments(self) -> Options:
        """Arguments of the class: ``kwargs`` without the components that are null."""
        components = self.kwargs.get("components")
        if not isinstance(components, dict):
            return self.kwargs
        return {**self.kwargs, "components": {name: part for name, part in components.items() if part is not None}}

    @property
    def components(self) -> list[str]:
        """Names of the components, if there are any, as for `MTLoss`."""
        components = self.arguments.get("components")
        return [str(name) for name in components] if isinstance(components, dict) else []

    @property
    def changes_weights(self) -> bool:
        """Whether weights of components change during the training."""
        components = self.kwargs.get("components")
        parts = components.values() if isinstance(components, dict) else ()
        scheduled = any(isinstance(part, dict) and isinstance(part.get("weight"), list) for part in parts)
        return self.cls == ADAPTIVE_LOSS or scheduled

    @property
    def functions(self) -> dict[str, str]:
        """Paths of the functions of the components by key."""
        components = self.arguments.get("components")
        items = components.items() if isinstance(components, dict) else ()
        given = {name: part["fn"] for name, part in items if isinstance(part, dict) and isinstance(part.get("fn"), str)}
        return {f"loss.kwargs.components.{name}.fn": path for name, path in given.items()}


class Optimizer(Section, frozen=True, rename={"cls": "class"}):
    """The optimizer, and which parameters it trains."""

    cls: str
    kwargs: Options
    force_no_train: list[str]
    force_train: list[str]
    param_groups: dict[str, Options | None]


class Scheduler(Section, frozen=True, rename={"cls": "class"}):
    """The schedule of the learning rates."""

    cls: str
    kwargs: Options = {}  # noqa: RUF012 - msgspec copies it
    step: Literal["iteration", "epoch", "val"] | None = None
    metric_name: str | None = None

    @property
    def classes(self) -> dict[str, object]:
        """Paths of its class and of those of nested schedulers, by key."""
        return {"scheduler.class": self.cls, **dict(_nested_classes(self.kwargs, "scheduler.kwargs"))}


def _nested_classes(node: object, key: str) -> Iterator[tuple[str, object]]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _nested_classes(item, f"{key}[{index}]")
    elif isinstance(node, dict):
        for name, value in node.items():
            if name == "class":
                yield f"{key}.class", value
            else:
                yield from _nested_classes(value, f"{key}.{name}")


class EarlyStopping(Section, frozen=True):
    metric: str | None
    patience: Count
    min_delta: Annotated[float, Meta(ge=0, le=MAX_FLOAT)]


class Trainer(Section, frozen=True):
    """How long to train, and how steps are computed."""

    epochs: Count
    clip_grad_value: PositiveFloat | None
    clip_grad_norm: PositiveFloat | None
    stop_below_lr: PositiveFloat | None
    on_bad_step: Literal["skip", "stop"]
    max_bad_steps: Count
    micro_batches: Count
    ema_decay: Annotated[float, Meta(gt=0, lt=1)] | None
    early_stopping: EarlyStopping
    evaluate_train_every: Count | None
    time_limit: str | None
    precision: Literal["float32", "float64", "bfloat16"]
    tf32: bool


class Checkpoint(Section, frozen=True):
    """Which checkpoints are written and kept."""

    keep: Count
    best: str | None
    every_iterations: Count | None
    every_minutes: PositiveFloat | None
    artifacts: bool


class LogFrequency(Section, frozen=True):
    """How often to validate, to record plots of validations, and to print progress."""

    val: Count | None
    plots: Natural
    progress: PositiveFloat
