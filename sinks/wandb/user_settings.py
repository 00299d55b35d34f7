"""The user's own configuration of wandb: environment variables, settings files, and keys."""

from __future__ import annotations

import os
from typing import Any, Literal

from telemetry.sink_api import SinkRejected

Mode = Literal["online", "offline"]

_MODES: dict[str, Mode] = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}


def load_settings() -> Any:
    """Return the settings from the environment and wandb's own files."""
    # Error reports would go to a host that compute nodes cannot reach, even for offline runs.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb.setup().settings


def choose_mode(option: Mode | None, settings: Any) -> Mode:
    """Return the mode: the option, else WANDB_MODE, else the mode in wandb's files, else online if there is a key.

    Raises:
        SinkRejected: W&B is disabled.
    """
    if option is not None:
        return option
    mode = os.environ.get("WANDB_MODE") or (settings.mode if "mode" in settings.model_fields_set else "")
    if mode == "disabled":
        msg = (
            "wandb: W&B is disabled by WANDB_MODE or `wandb disabled`; leave the sink out, or set telemetry.wandb.mode"
        )
        raise SinkRejected(msg)
    return _MODES.get(mode) or ("offline" if api_key(settings.base_url) is None else "online")


def api_key(base_url: str) -> str | None:
    """Return the key for a server from WANDB_API_KEY, wandb's settings, or the netrc file written by a login."""
    import wandb

    if key := os.environ.get("WANDB_API_KEY") or wandb.setup().settings.api_key:
        return str(key)
    # wandb's own lookup distinguishes servers by port, and includes former names of W&B's own server.
    try:
        from wandb.sdk.lib.wbauth.wbnetrc import read_netrc_auth
    except ImportError:
        import requests

        login = requests.utils.get_netrc_auth(base_url)
        return login[1] if login else None
    return read_netrc_auth(host=base_url)
