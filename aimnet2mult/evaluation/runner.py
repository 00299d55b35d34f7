"""Evaluate in the ranks of a job: signals, the meeting of the ranks, and exit codes."""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aimnet2mult.config.import_path import allow_packages
from aimnet2mult.distributed.rank_info import RankInfo, find_rank_info
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.errors import USER_ERRORS, RankLost
from aimnet2mult.evaluation.request import Request
from aimnet2mult.train.startup import EXIT_RANK_LOST, dismissing_others, load_libraries, open_store, stopping_at_once

if TYPE_CHECKING:
    from aimnet2mult.evaluation.results import Result
    from aimnet2mult.quantities import Label

__all__ = ["run"]

EXIT_USER_ERROR = 2
"""Exit code of ranks other than the first after an error of the user, which the first one reports."""


def run(request: Request, show: "Callable[[Result, tuple[Label, ...]], object]", say: Callable[[str], None]) -> int:
    """Evaluate a model, and return the exit code.

    Any signal ends the process at once, and no incomplete file is left.

    Args:
        request: The request.
        show: Called on rank 0 with the results and the labels.
        say: Called with each warning on rank 0.

    Raises:
        ConfigError: The request, a setting or the model is invalid.
        DataError: The data are unusable.
        ModelError: The model cannot be built.
        RankLost: Another rank has failed.
    """
    info = find_rank_info(os.environ)
    if info.world_size > 1:
        # Lost connections are reported in one line instead.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with allow_packages(request.allow_packages), StopSignal() as stop:
        if info.rank:
            return _run_other_rank(request, info, stop)
        store = open_store(info, stop)
        with dismissing_others(store, info, stop), stopping_at_once(stop, info, store):
            _evaluate(request, info, stop, store=store, show=show, say=say)
    return 0


def _run_other_rank(request: Request, info: RankInfo, stop: StopSignal) -> int:
    logging.getLogger("aimnet2mult").setLevel(logging.ERROR)
    try:
        with stopping_at_once(stop, info):
            _evaluate(request, info, stop, store=None, show=lambda *_: None, say=lambda _: None)
    except USER_ERRORS:
        return EXIT_USER_ERROR
    except RankLost as lost:
        if not lost.reported:
            raise
        return EXIT_RANK_LOST
    return 0


def _evaluate(
    request: Request,
    info: RankInfo,
    stop: StopSignal,
    *,
    store: Any,
    show: "Callable[[Result, tuple[Label, ...]], object]",
    say: Callable[[str], None],
) -> None:
    load_libraries()
    from aimnet2mult.distributed.process_group import process_group
    from aimnet2mult.evaluation.evaluate import evaluate

    with process_group(info, stop, say=say, store=store) as communicator:
        result, setup = evaluate(request, communicator, lambda line: say(f"warning: {line}"))
        show(result, setup.saved.labels)
