"""Keys, schedulers and classes of the original trainer: its default settings and examples, as of February 2026."""

from typing import Any

__all__ = ["CLASSES", "KEYS", "OPTIONS", "SCHEDULERS"]

COMPONENT = "loss.kwargs.components.forces"
GROUP = "optimizer.param_groups.embeddings"

KEYS: dict[str, Any] = {
    "run_name": "r",
    "project_name": "p",
    "fidelity_offset": 200,
    "use_fidelity_readouts": True,
    "data.fidelity_datasets": {},
    "data.fidelity_weights": {},
    "data.val_fidelity_datasets": None,
    "data.sae.energy.files": {},
    "data.sae.energy.mode": "linreg",
    "data.val_fraction": 0.01,
    "data.separate_val": True,
    "data.ddp_load_full_dataset": False,
    "data.x": ["coord", "numbers", "charge", "mult"],
    "data.y": ["energy", "forces", "charges", "spin_charges"],
    **{
        f"data.samplers.{part}.kwargs.{name}": value
        for part in ("train", "val")
        for name, value in {
            "batch_size": 32,
            "batch_mode": "atoms",
            "shuffle": part == "train",
            "batches_per_epoch": 100,
            "sampling_strategy": "weighted" if part == "train" else "uniform",
        }.items()
    },
    **{f"data.loaders.{part}.num_workers": 0 for part in ("train", "val")},
    **{f"data.loaders.{part}.pin_memory": True for part in ("train", "val")},
    "loss.class": "aimnet2mult.train.loss.MTLoss",
    "loss.kwargs.components.energy.fn": "aimnet2mult.train.loss.energy_loss_fn",
    "loss.kwargs.components.energy.weight": 1.0,
    f"{COMPONENT}.fn": "aimnet2mult.train.loss.peratom_loss_fn",
    f"{COMPONENT}.weight": 0.2,
    f"{COMPONENT}.kwargs.key_true": "forces",
    f"{COMPONENT}.kwargs.key_pred": "forces",
    "optimizer.force_no_train": [],
    "optimizer.force_train": [],
    "optimizer.class": "torch.optim.RAdam",
    "optimizer.kwargs.lr": 0.0001,
    "optimizer.kwargs.weight_decay": 1e-8,
    "optimizer.kwargs.betas": [0.9, 0.999],
    "optimizer.kwargs.eps": 1e-8,
    f"{GROUP}.re": "afv.weight",
    f"{GROUP}.lr": 5e-5,
    f"{GROUP}.weight_decay": 0.0,
    "scheduler.class": "ignite.handlers.param_scheduler.ReduceLROnPlateauScheduler",
    "scheduler.kwargs.metric_name": "val_loss",
    "scheduler.kwargs.factor": 0.9,
    "scheduler.kwargs.patience": 3,
    "scheduler.terminate_on_low_lr": 1e-7,
    "trainer.epochs": 10,
    "checkpoint.dirname": "checkpoints",
    "checkpoint.filename_prefix": "${run_name}",
    "checkpoint.save_best": True,
    "checkpoint.kwargs.n_saved": 2,
    "checkpoint.kwargs.require_empty": False,
    "wandb.init.name": "${run_name}",
    "wandb.init.mode": "online",
    "wandb.init.entity": None,
    "wandb.init.project": "${project_name}",
    "wandb.init.notes": None,
    "wandb.watch_model.log": "all",
    "wandb.watch_model.log_freq": 1000,
    "wandb.watch_model.log_graph": True,
    "wandb.log_frequency.train": 200,
    "wandb.log_frequency.val": None,
    "log_frequency.val": 20000,
    "metrics.class": "aimnet2mult.train.metrics.RegMultiMetric",
    "metrics.kwargs.cfg.energy.abbr": "E",
    "metrics.kwargs.cfg.energy.scale": 23.06,
    "metrics.kwargs.cfg.forces.peratom": True,
    "metrics.kwargs.cfg.forces.mult": 3,
}
"""Keys of the default settings and of the examples, with a value of each."""

IGNITE = "ignite.handlers.param_scheduler."
TORCH = "torch.optim.lr_scheduler."
LINEAR = {"start_value": 1e-6, "end_value": 1e-4}
COSINE = {"start_value": 1e-4, "end_value": 1e-6}
PLATEAU = {"metric_name": "val_loss", "factor": 0.9, "patience": 2}
ONE_CYCLE = {"max_lr": 1e-4, "total_steps": None, "epochs": 200, "steps_per_epoch": 20000, "pct_start": 0.3}

SCHEDULERS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "plateau": (f"{IGNITE}ReduceLROnPlateauScheduler", {**PLATEAU, "min_delta": 1e-4, "cooldown": 0}, 1e-7),
    "linear_cyclical": (f"{IGNITE}LinearCyclicalScheduler", {**LINEAR, "cycle_size": 2000}, 0.0),
    "concat_warmup_cosine": (
        f"{IGNITE}ConcatScheduler",
        {
            "schedulers": [
                {
                    "class": f"{IGNITE}LinearCyclicalScheduler",
                    "kwargs": {**LINEAR, "cycle_size": 1000},
                    "duration": 500,
                },
                {"class": f"{IGNITE}CosineAnnealingScheduler", "kwargs": {**COSINE, "cycle_size": 10000}},
            ]
        },
        0.0,
    ),
    "cosine_annealing_ignite": (
        f"{IGNITE}CosineAnnealingScheduler",
        {**COSINE, "cycle_size": 200, "cycle_mult": 1.0, "start_value_mult": 0.9, "end_value_mult": 1.0},
        0.0,
    ),
    "cosine_annealing_ignite_warmup": (
        f"{IGNITE}CosineAnnealingScheduler",
        {**COSINE, "cycle_size": 200, "warmup_duration": 0},
        0.0,
    ),
    "cosine_annealing_pytorch": (f"{TORCH}CosineAnnealingLR", {"T_max": 100, "eta_min": 1e-7}, None),
    "cosine_warm_restarts_pytorch": (
        f"{TORCH}CosineAnnealingWarmRestarts",
        {"T_0": 10, "T_mult": 2, "eta_min": 1e-7},
        None,
    ),
    "step_lr_pytorch": (f"{TORCH}StepLR", {"step_size": 30, "gamma": 0.1}, None),
    "exponential_lr_pytorch": (f"{TORCH}ExponentialLR", {"gamma": 0.95}, None),
    "one_cycle": (
        f"{TORCH}OneCycleLR",
        {**ONE_CYCLE, "anneal_strategy": "cos", "div_factor": 25.0, "final_div_factor": 10000.0},
        None,
    ),
    "cyclic_lr": (
        f"{TORCH}CyclicLR",
        {"base_lr": 1e-6, "max_lr": 1e-4, "step_size_up": 2000, "mode": "triangular2", "gamma": 0.9999},
        None,
    ),
}
"""Class, arguments and ``terminate_on_low_lr`` of the scheduler examples."""

LOSSES = ("MTLoss", "MTAdaWLoss", "mse_loss_fn", "peratom_loss_fn", "energy_loss_fn", "dipole_loss_fn")
MODULES = ("MLP", "Embedding", "AtomicShift", "AtomicSum", "Output", "Forces", "Dipole", "Quadrupole", "SRRep")
MORE_MODULES = ("LRCoulomb", "DispParam", "D3TS", "DFTD3", "CosineCutoff", "ExpCutoff", "DSequential")

CLASSES = (
    *(f"aimnet2mult.train.loss.{name}" for name in (*LOSSES, "quadrupole_loss_fn")),
    *(f"aimnet2mult.modules.{name}" for name in (*MODULES, *MORE_MODULES)),
    "aimnet2mult.models.aimnet2.AIMNet2",
    "aimnet2mult.models.mixed_fidelity_aimnet2.MixedFidelityAIMNet2",
)
"""Classes and functions that settings and model definitions can name."""

OPTIONS = {
    "train.cli": ("--config", "--model", "--load", "--save", "--verbose"),
    "train.calc_sae": ("--samples",),
    "tools.compile_jit": (
        *("--weights", "--model", "--output", "--fidelity-level", "--fidelity-offset", "--num-fidelities"),
        *("--use-fidelity-readouts", "--sae", "--dispersion", "--dispersion-functional"),
        *("--dispersion-s8", "--dispersion-a1", "--dispersion-a2", "--dispersion-s6"),
    ),
}
"""Options of the commands, by module."""
