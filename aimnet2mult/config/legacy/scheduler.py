"""Translation of the learning rate schedule."""

from aimnet2mult.config.legacy.nested import Tree
from aimnet2mult.config.legacy.rule import Rule
from aimnet2mult.config.legacy.section import SectionTranslator

__all__ = ["SchedulerTranslator"]

# torch's schedulers that count iterations.
PER_ITERATION = ("torch.optim.lr_scheduler.OneCycleLR", "torch.optim.lr_scheduler.CyclicLR")


class SchedulerTranslator(SectionTranslator):
    """Translate ``scheduler``, and choose when an ignite scheduler steps."""

    rules = (
        Rule(
            "ignite.handlers.param_scheduler.ReduceLROnPlateauScheduler",
            "translated",
            "`torch.optim.lr_scheduler.ReduceLROnPlateau`, after each validation",
        ),
        Rule(
            "ignite.handlers.*", "notice", "same class; the notice states when it steps (see [Schedulers](#schedulers))"
        ),
        Rule(
            "layers that change `scheduler.class`",
            "translated",
            "keep the `kwargs` of lower layers, as in the original, but not those of a schedule of another kind "
            "(plateau, ignite, torch), with which the original failed",
        ),
        Rule(
            "`duration` in the schedulers of a `ConcatScheduler`",
            "translated",
            "an item of `scheduler.kwargs.durations`; the original failed on its own example",
        ),
        Rule("scheduler.kwargs.mode", "translated", "follows from the metric; an error if it contradicts the metric"),
        Rule("scheduler.kwargs.min_delta", "translated", "`threshold` with `threshold_mode: abs`"),
        Rule("scheduler.kwargs.min_lr", "notice", "ignored, as ignite did; takes effect on the command line"),
        Rule("scheduler.kwargs.{trainer,verbose,save_history}", "translated", "no effect"),
    )

    def translate(self, layer: Tree) -> None:
        """Replace ignite's plateau scheduler with torch's."""
        scheduler = layer.get("scheduler")
        if not isinstance(scheduler, dict) or not isinstance(path := scheduler.get("class"), str):
            return
        if path in PER_ITERATION:
            scheduler.setdefault("step", "iteration")
        if not path.startswith("ignite."):
            return
        kwargs = scheduler.get("kwargs") or {}
        kwargs.pop("save_history", None)
        if path.endswith(".ReduceLROnPlateauScheduler"):
            scheduler["class"] = "torch.optim.lr_scheduler.ReduceLROnPlateau"
            self._translate_plateau(kwargs)
        if path.endswith(".ConcatScheduler"):
            _gather_durations(kwargs)

    def finish(self, merged: Tree) -> None:
        """Choose when ignite's schedulers step, because versions of the original trainer differ."""
        scheduler, epochs = merged["scheduler"], merged["trainer"]["epochs"]
        if not isinstance(scheduler, dict) or not str(scheduler.get("class")).startswith("ignite."):
            return
        if scheduler.get("step"):
            return
        cycle = (scheduler.get("kwargs") or {}).get("cycle_size")
        short_cycle = isinstance(cycle, int) and isinstance(epochs, int) and cycle <= epochs
        step, other = ("val", "iteration") if short_cycle else ("iteration", "val")
        scheduler["step"] = step
        names = {"val": "each validation", "iteration": "each iteration"}
        reason = "" if cycle is None else f", because its cycle_size is {cycle} and trainer.epochs is {epochs}"
        self.notes["scheduler"] = (
            f"steps after {names[step]}{reason}; versions of the original trainer differ here: set"
            f" scheduler.step={other} for a step after {names[other]}"
        )

    def _translate_plateau(self, kwargs: Tree) -> None:
        for name in ("trainer", "verbose"):
            kwargs.pop(name, None)
        if kwargs.pop("min_lr", None):
            self.notes["scheduler.kwargs.min_lr"] = "ignored, as ignite did; set it on the command line to apply it"
        if "min_delta" in kwargs:
            kwargs |= {"threshold": kwargs.pop("min_delta"), "threshold_mode": "abs"}


def _gather_durations(kwargs: Tree) -> None:
    """Move the durations of the schedulers to where ignite expects them."""
    schedulers = kwargs.get("schedulers")
    if isinstance(schedulers, list):
        given = [part.pop("duration") for part in schedulers if isinstance(part, dict) and "duration" in part]
        if given:
            kwargs.setdefault("durations", given)
