"""Parameters of the D3(BJ) dispersion correction. Does not import torch."""

import math
from collections.abc import Mapping
from contextlib import suppress

from aimnet2mult.errors import ConfigError

__all__ = ["read_d3"]

REQUIRED = ("s8", "a1", "a2")


def read_d3(text: str) -> dict[str, float]:
    """Return the parameters s6, s8, a1 and a2 (bohr) of a functional, or those given as ``s8=…,a1=…,a2=…[,s6=…]``.

    The parameters of functionals are those of the package dftd3 (s-dftd3) for rational damping without three-body term.

    Raises:
        ConfigError: The functional is unknown, the package is missing, or a parameter is missing or no number.
    """
    if "=" in text:
        return _parse(text)
    try:
        from dftd3.parameters import get_damping_param
    except ImportError as error:
        raise ConfigError("--d3 FUNCTIONAL requires: pip install 'aimnet2mult[dispersion]'") from error
    try:
        found: Mapping[str, float] = get_damping_param(text.lower(), defaults=["bj"])
    except KeyError as error:
        raise ConfigError(
            f"--d3 {text}: there are no D3(BJ) parameters of a functional {text!r}; give s8=…,a1=…,a2=…"
        ) from error
    return {key: float(found[key]) for key in ("s6", *REQUIRED)}


def _parse(text: str) -> dict[str, float]:
    values = {"s6": 1.0}
    for part in text.split(","):
        key, _, value = part.partition("=")
        number = math.nan
        with suppress(ValueError):
            number = float(value)
        if key.strip() not in ("s6", *REQUIRED) or not math.isfinite(number):
            raise ConfigError(f"--d3: {part.strip()!r} is none of s8=NUMBER, a1=NUMBER, a2=NUMBER and s6=NUMBER")
        values[key.strip()] = number
    if missing := [key for key in REQUIRED if key not in values]:
        raise ConfigError(f"--d3 {text}: {', '.join(missing)} missing; expected s8=…,a1=…,a2=…")
    return values
