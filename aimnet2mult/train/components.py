"""Build the components of a training run from its configuration."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from aimnet2mult.config.resume_rules import SAE_FOLDER, SPLIT_FILE
from aimnet2mult.config.schema import Config
from aimnet2mult.data.data_files import OpenStores, open_file_rows
from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.loading import load_data
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.data.places import counted
from aimnet2mult.data.reference_energies import Sae, sae_to_yaml
from aimnet2mult.data.report import SkippedRows
from aimnet2mult.data.sampler import MixedFidelitySampler
from aimnet2mult.data.sizes import size_text
from aimnet2mult.data.split import write_split
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.metrics.layout import NO_TERMS
from aimnet2mult.metrics.statistics import POOLED
from aimnet2mult.models.description import Description
from aimnet2mult.quantities import Label
from aimnet2mult.train.averaged_weights import AveragedWeights
from aimnet2mult.train.data_record import check_data, find_split_file, record_data
from aimnet2mult.train.engine import LossFunction
from aimnet2mult.train.learner import build_learner, scheduler_section
from aimnet2mult.train.load_check import check_start, prepare_start
from aimnet2mult.train.loaders import Loader, build_loader, evaluation_sampler, training_sampler
from aimnet2mult.train.loss import MTLoss
from aimnet2mult.train.optimizer import Schedule, build_scheduler
from aimnet2mult.train.random_state import seed_generators
from aimnet2mult.train.validation_metrics import ValidationMetrics, find_validation_metrics
from telemetry.run_folder.atomic_write import atomic_write
from telemetry.run_folder.permissions import make_folder

__all__ = [
    "Components",
    "EvaluationSet",
    "build_components",
    "record_inputs",
]


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """A data set that is evaluated with fixed weights."""

    dataset: DataSet
    sampler: MixedFidelitySampler
    """Sampler of the batches, which always have the same order."""
    loader: Loader
    sums: ErrorSums


@dataclass(frozen=True, kw_only=True)
class Components:
    """The model, the data, and everything else that training needs."""

    labels: tuple[Label, ...]
    device: torch.device
    data: MixedData
    sampler: MixedFidelitySampler
    train_loader: Loader
    val: EvaluationSet | None
    """The validation data, if there are any."""
    test: EvaluationSet | None
    """The test data, if there are any."""
    train_eval: EvaluationSet | None
    """All training data, if they are to be evaluated with fixed weights."""
    model: nn.Module
    description: Description
    """What the model is, for files of weights."""
    loss_fn: LossFunction
    optimizer: Optimizer
    schedule: Schedule
    train_sums: ErrorSums
    val_metrics: ValidationMetrics
    average: AveragedWeights | None = None
    """The moving average of the weights, if there is one."""
    loaded: tuple[str, ...] = ()
    """Summary of the weights that were loaded from a file, as lines; empty if they are random."""

    def evaluation_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights to evaluate and save: the average, if there is one.

        Do not train in it, nor write a checkpoint.
        """
        return nullcontext() if self.average is None else self.average.applied()

    def describe(self, fidelity_names: Sequence[str]) -> list[str]:
        """Return a summary of data and model, as lines."""
        lines = []
        for index, (name, labels) in enumerate(zip(fidelity_names, self.data.labels, strict=True)):
            structures = ", ".join(
                counted(counts[index], f"{part} structure")
                for part, counts in (
                    ("training", self.data.train_counts),
                    ("validation", self.data.val_counts),
                    ("test", self.data.test_counts),
                )
                if any(counts)
            )
            lines.append(f"{name}: {structures}; {', '.join(label.name for label in labels)}")
            summary = self.data.summaries[index].text
            lines += [f"{name}: {summary}"] if summary else []
        if not self.data.in_memory:
            lines.append(f"data: {size_text(self.data.size)}, read batch by batch (data.in_memory_gb)")
        parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        iterations = counted(len(self.train_loader), "iteration")
        lines.append(f"{parameters:,} trainable parameters on {self.device}, {iterations} per epoch")
        return [*lines, *self.loaded]


def build_components(
    config: Config,
    definition: Mapping[str, Any],
    folder: Path,
    communicator: Communicator | None = None,
    skipped: SkippedRows | None = None,
    *,
    contents: Mapping[str, FileContent] | None = None,
    open_stores: OpenStores = open_file_rows,
    in_memory_gb: float | None = None,
    model_file: Path | None = None,
    weights: Path | None = None,
) -> Components:
    """Build all components; initial weights and the order of the data depend only on the seed.

    Does not communicate with other ranks.

    Args:
        config: the configuration of the run.
        definition: the definition of the model.
        folder: the run folder; reference energies and the split in it take precedence over all others.
        communicator: communicator whose rank determines the share of each batch that the loaders return; by default,
            they return whole batches.
        skipped: structures to leave out, if the data have been checked; by default, they are checked here.
        contents: what the checks found in the data files, by path; otherwise, the files are read once more.
        open_stores: function that opens the groups of a file.
        in_memory_gb: size of the data up to which they are read into memory; by default, the setting.
        model_file: file that contains the definition, for error messages.
        weights: file of initial weights; by default, they are random.

    Raises:
        ConfigError: a setting is invalid or does not fit the others; this and ModelError are raised before the data
            are read.
        DataError: the data are unusable.
        ModelError: the model cannot be built.
    """
    communicator = communicator or Communicator()
    _prepare_process(config)
    names = config.fidelity_names
    labels = config.labels
    learner = build_learner(config, definition, communicator, model_file=model_file, weights=weights)
    device, loss_fn = learner.device, learner.loss_fn
    terms = loss_fn.terms if isinstance(loss_fn, MTLoss) else NO_TERMS
    kept = {} if learner.loaded is None else prepare_start(learner.loaded, config, skipped)
    data = _load_data(config, folder, skipped, contents, kept, open_stores=open_stores, in_memory_gb=in_memory_gb)
    loaded: tuple[str, ...] = ()
    if learner.loaded is not None:
        loaded = check_start(learner.loaded, config, learner.model, definition, data, first_rank=not communicator.rank)
    build = partial(build_loader, config, labels=labels, communicator=communicator, pin_memory=device.type == "cuda")
    sampler = training_sampler(config, data)

    def evaluated(dataset: DataSet) -> EvaluationSet | None:
        if not len(dataset):
            return None
        order = evaluation_sampler(config, dataset)
        sums = ErrorSums(labels, len(names), device, loss=terms, communicator=communicator)
        return EvaluationSet(dataset=dataset, sampler=order, loader=build("val", dataset, order), sums=sums)

    val_metrics = find_validation_metrics(data, labels, names, terms.names)
    return Components(
        labels=labels,
        device=device,
        data=data,
        sampler=sampler,
        train_loader=build("train", data.train, sampler),
        val=evaluated(data.val),
        test=evaluated(data.test),
        train_eval=None if config.trainer.evaluate_train_every is None else evaluated(data.train),
        model=learner.model,
        description=_describe_model(config, definition, data),
        loss_fn=loss_fn,
        optimizer=learner.optimizer,
        schedule=build_scheduler(learner.optimizer, scheduler_section(config), metrics=val_metrics),
        average=None if config.trainer.ema_decay is None else AveragedWeights(learner.model, config.trainer.ema_decay),
        loaded=loaded,
        train_sums=ErrorSums(labels, len(names), device, POOLED.quantities, loss=terms, communicator=communicator),
        val_metrics=val_metrics,
    )


def record_inputs(components: Components, fidelity_names: Sequence[str], folder: Path) -> None:
    """Write the reference energies, the split and the checksums of the data to the run folder, for a resume.

    Raises:
        OSError: a file cannot be written.
    """
    record_data(components.data.checksums, folder)
    write_split(folder / SPLIT_FILE, components.data.splits)
    saved = folder / SAE_FOLDER
    make_folder(saved)
    for name, sae in zip(fidelity_names, components.data.saes, strict=True):
        if sae:
            atomic_write(saved / f"{name}.yaml", sae_to_yaml(sae).encode())


def _describe_model(config: Config, definition: Mapping[str, Any], data: MixedData) -> Description:
    return Description(
        definition=definition,
        labels=config.labels,
        fidelity_names=config.fidelity_names,
        fidelity_offset=config.fidelity_offset,
        use_fidelity_readouts=config.use_fidelity_readouts,
        reference_energies=data.saes,
        elements=data.elements,
        absent_labels=tuple(
            frozenset(label.name for label in config.labels if label not in present) for present in data.labels
        ),
    )


def _prepare_process(config: Config) -> None:
    seed_generators(config.seed)
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def _load_data(
    config: Config,
    folder: Path,
    skipped: SkippedRows | None,
    contents: Mapping[str, FileContent] | None,
    kept: Mapping[int, Sae],
    *,
    open_stores: OpenStores,
    in_memory_gb: float | None,
) -> MixedData:
    names, saved = config.fidelity_names, folder / SAE_FOLDER
    sae_files: dict[int, Path | Sae] = {
        **kept,
        **{index: Path(path) for index, path in config.data.sae.energy.files.items()},
    }
    sae_files |= {i: saved / f"{name}.yaml" for i, name in enumerate(names) if (saved / f"{name}.yaml").is_file()}
    return load_data(
        [Path(config.data.fidelity_datasets[index]) for index in range(len(names))],
        labels=config.labels,
        val_fraction=config.data.val_fraction,
        test_fraction=config.data.test_fraction,
        split_file=find_split_file(config, folder),
        seed=config.seed,
        batch_size=config.data.samplers.train.batch_size,
        batch_mode=config.data.samplers.train.batch_mode,
        sae_files=sae_files,
        val_files={index: Path(path) for index, path in config.data.val_fidelity_datasets.items()},
        test_files={index: Path(path) for index, path in config.data.test_fidelity_datasets.items()},
        file_format=FileFormat.from_config(config),
        skipped=skipped,
        contents=contents,
        in_memory_gb=config.data.in_memory_gb if in_memory_gb is None else in_memory_gb,
        open_stores=open_stores,
        check_checksums=lambda checksums: check_data(checksums, config, folder),
    )
