"""Units: literal conversion factors, and rejected units."""

from __future__ import annotations

import pytest

from telemetry import Metric, TelemetryError, UnitError
from telemetry.units import conversion_factor, factors, with_unit


def factor(source: str, unit: str) -> float:
    return factors({"train/x": Metric(unit=unit, source_unit=source)})["train/x"]


@pytest.mark.parametrize(
    ("source", "unit", "expected"),
    [
        # 96485.33212331001 C/mol over 4184 J/kcal: CODATA 2018, exact since 2019.
        ("eV/particle", "kcal/mol", 23.060547830619),
        ("eV/particle/angstrom", "kcal/mol/Å", 23.060547830619),
        ("eV/particle", "kJ/mol", 96.48533212331),
        ("eV/particle", "eV", 1.0),
        ("eV/particle/angstrom", "eV/Å", 1.0),
        ("eV/particle", "meV", 1000.0),
        ("kcal/mol", "eV", 1 / 23.060547830619),
        ("eV", "kcal/mol", 23.060547830619),
        ("kcal/mol", "eV/particle", 1 / 23.060547830619),
        ("hartree/particle", "kcal/mol", 627.50947406),
        ("e", "e", 1.0),
        ("1", "1", 1.0),
        ("1", "percent", 100.0),
        ("1", "%", 100.0),
        ("%", "%", 1.0),
        ("GiB", "GiB", 1.0),
        ("byte", "GiB", 2.0**-30),
        ("1/s", "1/min", 60.0),
        ("degC", "degC", 1.0),
    ],
)
def test_factors_match_the_codata_constants(source: str, unit: str, expected: float) -> None:
    assert factor(source, unit) == pytest.approx(expected, rel=1e-12 if "hartree" not in source else 1e-10)


@pytest.mark.parametrize(
    ("spelling", "unit"),
    [
        ("Ha", "hartree"),
        ("Hartree", "hartree"),
        ("mHa", "millihartree"),
        ("Hartree/Bohr", "hartree/bohr"),
        ("Ha/Ang", "hartree/angstrom"),
        ("kcal/mol/Angstrom", "kcal/mol/Å"),
        ("Rydberg", "Ry"),
    ],
)
def test_spellings_common_in_chemistry_are_accepted(spelling: str, unit: str) -> None:
    assert factor(spelling, unit) == 1.0
    assert factor(unit, spelling) == 1.0


def test_a_hectare_and_a_hectoampere_are_not_taken_for_a_hartree() -> None:
    assert factor("ha", "m**2") == pytest.approx(1e4)
    assert factor("hA", "A") == pytest.approx(100)


def test_each_metric_gets_the_factor_of_its_own_units() -> None:
    energy = Metric(unit="kcal/mol", source_unit="eV/particle")
    given = factors({"train/E": energy, "val/E": energy, "train/q": Metric(unit="e", source_unit="e"), "lr": Metric()})
    assert list(given) == ["train/E", "val/E", "train/q", "lr"]
    assert given["train/E"] == given["val/E"] == pytest.approx(23.060547830619, rel=1e-12)
    assert given["train/q"] == given["lr"] == 1.0


def test_a_metric_is_published_in_its_display_unit_unless_another_is_declared() -> None:
    for unit in ("K", "kcal/mol", "Å", "percent", "1"):
        assert Metric(unit=unit) == Metric(unit=unit, source_unit=unit)
        assert factors({"train/x": Metric(unit=unit)}) == {"train/x": 1.0}


@pytest.mark.parametrize(("unit", "text"), [("kcal/mol", "E [kcal/mol]"), ("1", "E"), ("", "E")])
def test_a_unit_is_shown_in_brackets_unless_there_is_none(unit: str, text: str) -> None:
    assert with_unit("E", unit) == text


NONSENSE = [
    " ",
    "kcal/mol/",
    "[]",
    "{}",
    "(((",
    "1/0",
    "2*eV",
    "5",
    "nan",
    "furlongs and fortnights",
    "ev",
    "KCAL",
    "é",
    "\x00",
    "eV.real",
    "__import__('os')",
    "__import__('os').system('true')",
    "lambda: 0",
    "x" * 5000,
]


def test_an_empty_unit_is_rejected() -> None:
    with pytest.raises(UnitError, match="'' is not a unit"):
        factors({"train/E_rmse": Metric(unit="")})


@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: repr(text[:30]))
@pytest.mark.parametrize("place", ["unit", "source_unit"])
def test_an_invalid_unit_is_rejected_with_the_metric_and_examples(text: str, place: str) -> None:
    with pytest.raises(UnitError, match=r"is not a unit.*; use a unit such as kcal/mol, eV, Hartree$") as raised:
        factors({"train/E_rmse": Metric(**{"unit": "eV", "source_unit": "eV", place: text})})
    assert str(raised.value).startswith(f"train/E_rmse: {text!r} is not a unit")
    assert isinstance(raised.value, TelemetryError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("source", "unit"),
    [
        ("eV/particle", "Å"),
        ("1", "eV"),
        ("e", "1"),
        ("eV/particle/angstrom", "eV"),
        ("eV", "furlongs per fortnight"),
    ],
)
def test_a_unit_of_another_dimension_is_rejected(source: str, unit: str) -> None:
    with pytest.raises(UnitError) as raised:
        factor(source, unit)
    assert str(raised.value) == (f"train/x: cannot convert {source} to {unit!r}, which has another dimension")


@pytest.mark.parametrize(("source", "unit"), [("degC", "K"), ("degF", "degC"), ("dB", "1"), ("eV**300", "J**300")])
def test_a_conversion_without_a_finite_factor_is_rejected(source: str, unit: str) -> None:
    with pytest.raises(UnitError, match=r"train/x: cannot convert .* by a factor"):
        factor(source, unit)


@pytest.mark.parametrize(("source", "unit"), [("eV**-400", "J**-400"), ("Mpc**50", "fm**50"), ("dB/s", "1/s")])
def test_a_conversion_that_pint_cannot_compute_is_rejected(source: str, unit: str) -> None:
    with pytest.raises(UnitError, match=r"train/x: cannot convert .* to '.*': \w"):
        factor(source, unit)


@pytest.mark.parametrize(
    ("other", "hint"),
    [
        ("eV/particle", "; use a unit such as kcal/mol, eV, Hartree"),
        ("eV/Å/particle", "; use a unit such as kcal/mol/Å, eV/Å"),
        ("angstrom", "; use a unit such as Å, bohr"),
        ("1", ", or 1 for none"),
        ("quatloo", ", or 1 for none"),
    ],
)
def test_the_suggested_units_have_the_required_dimension(other: str, hint: str) -> None:
    with pytest.raises(UnitError, match="'quatloo' is not a unit") as raised:
        conversion_factor("data.units.energy", "quatloo", other)
    assert str(raised.value).endswith(hint)
