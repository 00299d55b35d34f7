"""What a delivery process and the process that starts it agree on."""

from __future__ import annotations

from typing import Any

import msgspec

from telemetry.settings import Settings

EXIT_FAILED = 70
"""Exit code of a delivery process that left records undelivered: start it again."""
EXIT_HUNG = 75
"""Exit code of a delivery process whose hook did not return: start it again."""
EXIT_REFUSED = 78
"""Exit code of a delivery process whose sink rejected the run: starting it again would not help."""


class Job(msgspec.Struct, kw_only=True):
    """What to deliver: one line of JSON on the standard input of the delivery process.

    Any later bytes on its standard input wake it up: the journal has new records.
    """

    folder: str
    sink: str
    options: dict[str, Any]
    settings: Settings
