"""Metrics are selected by full name, by name within their stream, or by pattern."""

from __future__ import annotations

import pytest

from support.written_runs import METRICS
from telemetry import MetricNotFound
from telemetry.reading.selection import select_metrics

NAMES = tuple(METRICS)


@pytest.mark.parametrize(
    ("patterns", "selected"),
    [
        ([], list(NAMES)),
        (["val/E_rmse"], ["val/E_rmse"]),
        (["E_rmse"], ["train/E_rmse", "val/E_rmse"]),
        (["val/*"], ["val/loss", "val/E_rmse", "val/gfn1/E_rmse"]),
        (["gfn1/*", "lr"], ["train/lr", "val/gfn1/E_rmse"]),
        (["*E_rmse"], ["train/E_rmse", "val/E_rmse", "val/gfn1/E_rmse"]),
    ],
)
def test_a_full_name_a_name_without_its_stream_and_a_pattern_select_metrics(
    patterns: list[str], selected: list[str]
) -> None:
    assert select_metrics(patterns, NAMES) == selected


def test_a_name_with_brackets_selects_only_the_metric_with_this_name() -> None:
    assert select_metrics(["x/T [K]"], ["x/T [K]", "x/T K"]) == ["x/T [K]"]


def test_a_pattern_without_a_match_is_an_error_with_a_similar_name_or_the_known_ones() -> None:
    with pytest.raises(MetricNotFound, match=r"no metric 'E_rms'\. Did you mean 'E_rmse'\?"):
        select_metrics(["loss", "E_rms"], NAMES)
    with pytest.raises(MetricNotFound, match=r"no metric 'qqq'; the run has train/loss, train/E_rmse"):
        select_metrics(["qqq"], NAMES)
    with pytest.raises(MetricNotFound, match="the run declares no metrics"):
        select_metrics(["x"], [])


def test_the_error_lists_only_the_first_twelve_of_many_names() -> None:
    with pytest.raises(MetricNotFound, match=r"x/00, .*x/11 and 8 more$"):
        select_metrics(["qqq"], [f"x/{number:02}" for number in range(20)])
