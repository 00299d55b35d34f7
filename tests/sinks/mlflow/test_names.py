"""The names used in MLflow, and the division of records into calls."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.mlflow.batches import (
    MAX_METRIC_BYTES_PER_CALL,
    MAX_METRICS_PER_CALL,
    MetricPoint,
    split_into_batches,
)
from sinks.mlflow.names import MetricNames, valid_name
from support.fake_mlflow import check_name
from telemetry import Alert
from telemetry.sink_api import Record, SinkRejected
from telemetry.testing.points import ODD_NAMES, resumed, scalars


class TestNames:
    @pytest.mark.parametrize("name", ["train/loss", "val/gfn1/E_rmse", "Å/r²SCAN", "a b:c-d.e", "a/...b"])
    def test_a_valid_name_is_unchanged(self, name):
        assert valid_name(name) == name

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("train/F (kcal/mol)", "train/F _kcal/mol_"),
            ("a//b", "a/_/b"),
            ("/a/", "_/a/_"),
            ("a/./..", "a/_/__"),
            ("..a/b", "__a/b"),
            ("", "_"),
            ("a\nb", "a_b"),
        ],
    )
    def test_invalid_characters_become_underscores(self, name, expected):
        assert valid_name(name) == expected

    def test_long_names_that_differ_at_the_end_stay_different(self):
        names = [valid_name("x" * 260 + end) for end in ("a", "b")]
        assert len(set(names)) == 2
        assert {len(name) for name in names} == {250}

    @given(st.text())
    def test_any_text_becomes_a_valid_name(self, name):
        check_name(valid_name(name))

    def test_two_metrics_with_the_same_mlflow_name_are_rejected(self):
        with pytest.raises(
            SinkRejected, match=r"'val/E\(x\)' and 'val/E\[x\]' would both be named 'val/E_x_' in MLflow.*rename"
        ):
            MetricNames(["train/loss", "val/E(x)", "val/E[x]"])

    @pytest.mark.parametrize("metrics", [["val/E", "val/E.inf"], ["val/E.inf", "val/E"]])
    def test_a_metric_named_like_the_infinities_of_another_is_rejected(self, metrics):
        with pytest.raises(SinkRejected, match=r"would both be named 'val/E\.inf'.*infinities"):
            MetricNames(metrics)

    def test_an_undeclared_metric_gets_a_name_unless_it_is_taken(self):
        names = MetricNames(["val/E(x)"])
        assert names.name_of("val/new") == "val/new"
        with pytest.raises(SinkRejected):
            names.name_of("val/E[x]")

    def test_renamed_metrics_are_listed_with_their_original_names(self):
        names = MetricNames(f"val/{name}" for name in ODD_NAMES)
        assert names.renamed()["val/_0_/100_/loss"] == "val/[0]/100%/loss"
        assert "val/a.b/loss" not in names.renamed()


def split(records: list[Record], last_seq: int = 0) -> list[Any]:
    return list(split_into_batches(records, MetricNames([]), last_seq))


class TestBatches:
    def test_records_are_combined_up_to_the_limits_of_a_call(self):
        records: list[Record] = [scalars(seq, loss=1.0, E=2.0, F=3.0) for seq in range(1, 1001)]
        batches = split(records)
        assert all(len(batch.points) <= MAX_METRICS_PER_CALL for batch in batches)
        assert sum(len(batch.points) for batch in batches) == 3000
        assert [batch.last_seq for batch in batches] == [326, 652, 978, 1000]

    def test_a_record_is_divided_only_if_it_alone_exceeds_the_limits(self):
        large = scalars(2, **{f"m{i}": 1.0 for i in range(MAX_METRICS_PER_CALL + 5)})
        batches = split([scalars(1), large, scalars(3)])
        assert [(len(b.points), b.last_seq) for b in batches] == [(1, 1), (MAX_METRICS_PER_CALL, 1), (6, 3)]

    def test_a_call_may_reach_each_limit_exactly(self):
        half = [f"m{number}" for number in range(MAX_METRICS_PER_CALL // 2)]
        full = [scalars(seq, **dict.fromkeys(half, 1.0)) for seq in (1, 2)]
        assert [len(batch.points) for batch in split(full)] == [MAX_METRICS_PER_CALL]
        assert [len(batch.points) for batch in split([*full, scalars(3)])] == [MAX_METRICS_PER_CALL, 1]

    @pytest.mark.parametrize(("more", "sizes"), [(0, [900]), (1, [450, 451])])
    def test_two_records_share_a_call_of_up_to_900_kilobytes(self, more, sizes):
        # As JSON, 140 characters of 6 bytes each, 38 of one byte and two quotes; with the overhead, 1,000 bytes.
        wide = [f"{number:0>32}{'Å' * 140}" for number in range(450)]
        records = [
            scalars(1, **dict.fromkeys(wide, 1.0)),
            scalars(2, **dict.fromkeys([*wide, *(["x"] * more)], 1.0)),
        ]
        assert [len(batch.points) for batch in split(records)] == sizes

    def test_long_names_lead_to_smaller_calls(self):
        wide = {f"{'Å' * 230}{i}": 1.0 for i in range(700)}
        batches = split([scalars(1, **wide), scalars(2, **wide)])
        assert len(batches) > 2
        assert all(sum(len(v.key) * 6 for v in batch.points) < MAX_METRIC_BYTES_PER_CALL for batch in batches)
        assert [v.key for b in batches for v in b.points] == [f"train/{name}" for name in wide] * 2

    def test_an_infinity_is_stored_as_nan_with_its_sign_in_another_metric(self):
        (batch,) = split([scalars(1, loss=math.inf, E=-math.inf, F=math.nan)])
        time, step = scalars(1).time, scalars(1).step
        assert str(batch.points) == str(
            [
                MetricPoint("train/loss", math.nan, time, step),
                MetricPoint("train/loss.inf", 1.0, time, step),
                MetricPoint("train/E", math.nan, time, step),
                MetricPoint("train/E.inf", -1.0, time, step),
                MetricPoint("train/F", math.nan, time, step),
            ]
        )

    def test_a_resume_and_the_newest_alert_are_tags(self):
        alerts = [Alert(seq=n, time=1, step=n, title="loss is NaN", text="" if n == 2 else "stop") for n in (2, 3)]
        (batch,) = split([resumed(1, 40, attempt=3), *alerts])
        assert batch.tags == {
            "telemetry.resumed.3": "from iteration 40",
            "telemetry.alert": "warning at iteration 3: loss is NaN: stop",
        }
        assert batch.last_seq == 3

    def test_many_resumes_are_divided_among_calls(self):
        batches = split([resumed(seq, seq, attempt=seq + 1) for seq in range(1, 50)])
        assert [len(batch.tags) for batch in batches] == [20, 20, 9]
        assert [batch.last_seq for batch in batches] == [20, 40, 49]
