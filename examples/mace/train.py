"""mace_run_train with telemetry: the arguments are those of mace_run_train."""

from mace import tools
from mace.cli.run_train import main

from telemetry import Metric
from telemetry.integrations.host_run import HostRun

ENERGY = Metric(unit="kcal/mol", source_unit="eV/particle")
FORCES = Metric(unit="kcal/mol/Å", source_unit="eV/particle/Å")
# A model with several heads has names such as val/head/rmse_f.
UNITS = {
    f"val/{head}{error}_{what}": unit
    for head in ("", "*/")
    for error in ("rmse", "mae")
    for what, unit in (("e*", ENERGY), ("f", FORCES))
}
mace_logger, mace_train = tools.MetricsLogger, tools.train


class TelemetryLogger(mace_logger):
    """Record what MACE writes to its results, at the number of optimizer steps."""

    run = HostRun("runs/mace", sinks="tensorboard", metrics=UNITS, resume=True)

    def log(self, d):
        super().log(d)
        numbers = {name: value for name, value in d.items() if name not in ("mode", "epoch", "head")}
        if d["mode"] == "opt":
            self.step += 1
            self.run.log({"train": numbers}, self.step)
        else:
            self.run.log({"val": numbers if d["head"] == "Default" else {d["head"]: numbers}}, self.step)


def train(*, train_loader, start_epoch, logger, rank=0, **others):
    logger.step = logger.run.resume_step = start_epoch * len(train_loader)
    if rank:
        # Other ranks write only the first validation.
        logger.run.log = lambda values, step: None
    mace_train(train_loader=train_loader, start_epoch=start_epoch, logger=logger, rank=rank, **others)


tools.MetricsLogger, tools.train = TelemetryLogger, train
main()
TelemetryLogger.run.close()
