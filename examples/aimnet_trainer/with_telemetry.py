"""The trainer of the package aimnet, with telemetry: `trainer.trainer` and `trainer.evaluator` of its configuration."""

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
METRICS = {f"val/{abbr}_{error}": metric for abbr, metric in ERRORS.items() for error in ("mae", "rmse")}
trainers = []


def trainer(model, optimizer, loss_fn, **kwargs):
    engine = default_trainer(model, optimizer, loss_fn, **kwargs)
    trainers.append((engine, optimizer))
    return engine


def evaluator(model, **kwargs):
    validator = default_evaluator(model, **kwargs)
    engine, optimizer = trainers.pop()
    if distributed.get_rank() == 0:
        bus = open_run("runs/aimnet", metrics=METRICS, settings=SETTINGS)
    else:
        bus = NullBus(SETTINGS.every)
    attach(engine, bus, validator=validator, optimizer=optimizer, window=True)
    # ignite would pass the engine to a handler that accepts an argument.
    engine.add_event_handler(Events.COMPLETED, lambda: bus.close())  # noqa: PLW0108
    return validator
