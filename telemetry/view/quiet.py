"""Keep messages of Bokeh that need no action off the terminal."""

from __future__ import annotations

import logging
import warnings

from bokeh.util.warnings import BokehUserWarning


def silence_bokeh() -> None:
    """Hide warnings in this process: of closed tabs, and of integers beyond 2**53, which the browser rounds."""
    logging.getLogger("bokeh").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=BokehUserWarning)
