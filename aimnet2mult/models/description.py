"""What a model is, apart from its weights. Does not import torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import yaml
from msgspec import Meta

from aimnet2mult.config import resume_rules
from aimnet2mult.config.merge import read_yaml
from aimnet2mult.config.sections import Count, Name
from aimnet2mult.config.user_path import is_file
from aimnet2mult.config.yaml_text import dump, parse
from aimnet2mult.data.compositions import MAX_ELEMENT
from aimnet2mult.data.reference_energies import read_sae
from aimnet2mult.models.checkpoint_folder import FOLDER
from aimnet2mult.quantities import Label
from telemetry.errors import error_text

__all__ = ["BestRecord", "Description", "describe_run", "from_plain"]

VERSION = 1
"""Version of the format in weight files and checkpoints."""

Element = Annotated[int, Meta(ge=1, le=MAX_ELEMENT)]
Energy = Annotated[float, Meta(gt=-1e12, lt=1e12)]


@dataclass(frozen=True, kw_only=True)
class Description:
    """The definition of a model, and what its inputs and outputs mean; tuples have one entry per fidelity."""

    definition: Mapping[str, Any]
    """As in ``model.yaml``."""
    labels: tuple[Label, ...]
    """What the model predicts, in which units."""
    fidelity_names: tuple[str, ...]
    fidelity_offset: int
    """Shift of the atomic numbers per fidelity."""
    use_fidelity_readouts: bool
    """Whether each fidelity has its own output heads."""
    reference_energies: tuple[Mapping[int, float], ...]
    """Energies in eV by atomic number, to be added to the predictions; empty if none were subtracted."""
    elements: tuple[frozenset[int], ...]
    """Atomic numbers in the training data."""
    absent_labels: tuple[frozenset[str], ...] = ()
    """Names of the labels that no training structure of the fidelity has; no entries if they are not known."""

    def untrained_labels(self, fidelity: int) -> frozenset[str]:
        """Return the names of the labels whose predictions for a fidelity were never compared with data.

        Forces are the gradient of the energy, so that energies are enough to train them.
        """
        absent = self.absent_labels[fidelity] if self.absent_labels else frozenset()
        return absent if "energy" in absent else absent - {"forces"}

    def mask_untrained(self, values: Mapping[str, npt.NDArray[np.float64]], fidelities: npt.NDArray[np.int64]) -> None:
        """Replace the predictions of untrained labels with NaN, in place.

        Args:
            values: Predictions (B, …) by label.
            fidelities: Index of the fidelity of each structure, (B,).
        """
        for index in np.unique(fidelities).tolist():
            for name in self.untrained_labels(index) & values.keys():
                values[name][fidelities == index] = np.nan

    def elements_of(self, fidelity: int) -> frozenset[int]:
        """Return the elements of a fidelity; an element without a reference energy occurred only without energies."""
        energies = self.reference_energies[fidelity]
        return self.elements[fidelity] & energies.keys() if energies else self.elements[fidelity]

    def to_plain(self) -> dict[str, Any]:
        """Return the description as plain values, for `from_plain`."""
        return {
            "format_version": VERSION,
            "definition": self.definition,
            "labels": [asdict(label) for label in self.labels],
            "coord_unit": "angstrom",
            "fidelity_names": list(self.fidelity_names),
            "fidelity_offset": self.fidelity_offset,
            "use_fidelity_readouts": self.use_fidelity_readouts,
            "reference_energies": [dict(energies) for energies in self.reference_energies],
            "elements": [sorted(elements) for elements in self.elements],
            "absent_labels": [sorted(names) for names in self.absent_labels],
        }


@dataclass(frozen=True, kw_only=True)
class BestRecord:
    """The validation that the weights in a ``best.pt`` are of."""

    iteration: int
    metric: str
    """The metric that was best, such as ``loss``."""
    value: float


class _Plain(msgspec.Struct):
    """The types of a description in a file, which may come from others."""

    format_version: int
    definition: dict[str, Any]
    labels: tuple[Label, ...]
    fidelity_names: Annotated[tuple[Name, ...], Meta(min_length=1)]
    fidelity_offset: Count
    use_fidelity_readouts: bool
    reference_energies: tuple[dict[Element, Energy], ...]
    elements: tuple[frozenset[Element], ...]
    absent_labels: tuple[frozenset[str], ...] = ()


def from_plain(content: Any) -> Description:
    """Return the description that `Description.to_plain` has written.

    Raises:
        ValueError: It is damaged, or in a later format; the message states why, without the path.
    """
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise ValueError(f"its format is {version}, and this version reads formats up to {VERSION}; update aimnet2mult")
    plain = msgspec.convert(content, _Plain)
    counts = {len(plain.fidelity_names), len(plain.reference_energies), len(plain.elements)}
    counts |= {len(plain.absent_labels)} - {0}
    if len(counts) > 1:
        raise ValueError("fidelity_names, reference_energies, elements and absent_labels have different lengths")
    values = msgspec.structs.asdict(plain)
    del values["format_version"]
    return Description(**{**values, "definition": _as_yaml(plain.definition)})


def _as_yaml(definition: dict[str, Any]) -> dict[str, Any]:
    """Return a definition as it would be read from ``model.yaml``, which has plain values only."""
    try:
        content: dict[str, Any] = parse(dump(definition))
    except yaml.YAMLError as error:
        raise ValueError(f"the definition contains other objects than plain values: {error_text(error)}") from error
    return content


def describe_run(run: Path) -> Description:
    """Return the description of the model in a run folder.

    The folder does not record the elements. They are taken from the reference energies; without those, all elements
    count as trained.

    Raises:
        ConfigError: The settings or the definition cannot be read, or there are links in the folder.
        DataError: The reference energies cannot be read.
    """
    resume_rules.reject_links(run, FOLDER)
    config = resume_rules.load_recorded(run / resume_rules.CONFIG_FILE)
    files = [run / resume_rules.SAE_FOLDER / f"{name}.yaml" for name in config.fidelity_names]
    energies = tuple(read_sae(file) if is_file(file) else {} for file in files)
    return Description(
        definition=read_yaml(run / resume_rules.MODEL_FILE),
        labels=config.labels,
        fidelity_names=config.fidelity_names,
        fidelity_offset=config.fidelity_offset,
        use_fidelity_readouts=config.use_fidelity_readouts,
        reference_energies=energies,
        elements=tuple(frozenset(found or range(1, MAX_ELEMENT + 1)) for found in energies),
    )
