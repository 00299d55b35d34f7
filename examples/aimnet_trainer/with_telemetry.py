"""The trainer of the package aimnet, with telemetry: `trainer.trainer` and `trainer.evaluator` of its configuration."""

import time

from aimnet.train.utils import default_evaluator, default_trainer
from ignite import distributed
from ignite.engine import Events

from telemetry import Metric, NullBus, Settings, open_run
from telemetry.integrations.ignite import attach

SETTINGS = Settings(every=20, sinks=("tensorboard",))
ERRORS = {
    "E": Metric(unit="kcal/mol", source_unit="eV/particle"),
    "F": Metric(unit="kcal/mol/Å", source_unit="eV/particle/Å"),
    "q": Metric(unit="e", source_unit="e"),
}
LOSSES = ("train/loss", "train_window/loss", "val/loss", "val/energy_loss", "val/forces_loss", "val/charges_loss")
METRICS = {
    **{name: Metric() for name in ("train/lr", *LOSSES)},
    **{f"val/{abbr}_{error}": metric for abbr, metric in ERRORS.items() for error in ("mae", "rmse")},
    **{f"val/{abbr}_r2": Metric() for abbr in ERRORS},
}
trainers = []


def trainer(model, optimizer, loss_fn, **kwargs):
    engine = default_trainer(model, optimizer, loss_fn, **kwargs)
    trainers.append((engine, optimizer))
    return engine


def evaluator(model, **kwargs):
    validator = default_evaluator(model, **kwargs)
    engine, optimizer = trainers.pop()
    if distributed.get_rank() == 0:
        bus = open_run(time.strftime("runs/aimnet-%Y%m%d-%H%M%S"), metrics=METRICS, settings=SETTINGS)
    else:
        bus = NullBus(SETTINGS.every)
    attach(engine, bus, validator=validator, optimizer=optimizer, window=True)
    # ignite would pass the engine to a handler that accepts an argument.
    engine.add_event_handler(Events.COMPLETED, lambda: bus.close())  # noqa: PLW0108
    return validator
