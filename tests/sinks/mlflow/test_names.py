"""The names that the MLflow sink makes, and what goes into one call."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.mlflow.batches import BYTES, METRICS, Value, batches
from sinks.mlflow.names import Names, key
from support.fake_mlflow import _check_name
from telemetry import Alert
from telemetry.sink_api import Record, SinkRejected
from telemetry.testing.points import ODD_NAMES, resumed, scalars


class TestNames:
    @pytest.mark.parametrize("name", ["train/loss", "val/gfn1/E_rmse", "Å/r²SCAN", "a b:c-d.e", "a/...b"])
    def test_a_name_that_mlflow_takes_stays(self, name):
        assert key(name) == name

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
    def test_what_mlflow_refuses_becomes_an_underscore(self, name, expected):
        assert key(name) == expected

    def test_long_names_that_differ_at_their_end_stay_apart(self):
        names = [key("x" * 260 + end) for end in ("a", "b")]
        assert len(set(names)) == 2
        assert {len(name) for name in names} == {250}

    @given(st.text())
    def test_whatever_the_name_mlflow_takes_what_becomes_of_it(self, name):
        _check_name(key(name))

    def test_two_metrics_that_would_be_one_are_refused_by_their_names(self):
        with pytest.raises(
            SinkRejected, match=r"'val/E\(x\)' and 'val/E\[x\]' would both be 'val/E_x_' in MLflow.*rename"
        ):
            Names(["train/loss", "val/E(x)", "val/E[x]"])

    @pytest.mark.parametrize("metrics", [["val/E", "val/E.inf"], ["val/E.inf", "val/E"]])
    def test_a_metric_called_as_anothers_infinities_is_refused(self, metrics):
        with pytest.raises(SinkRejected, match=r"would both be 'val/E\.inf'.*infinities"):
            Names(metrics)

    def test_a_metric_that_was_not_declared_is_named_too_unless_its_name_is_taken(self):
        names = Names(["val/E(x)"])
        assert names.name("val/new") == "val/new"
        with pytest.raises(SinkRejected):
            names.name("val/E[x]")

    def test_changed_names_lead_back(self):
        names = Names(f"val/{name}" for name in ODD_NAMES)
        assert names.changed()["val/_0_/100_/loss"] == "val/[0]/100%/loss"
        assert "val/a.b/loss" not in names.changed()


def cut(records: list[Record], last: int = 0) -> list[Any]:
    return list(batches(records, Names([]), last))


class TestBatches:
    def test_records_go_together_up_to_what_a_call_takes(self):
        records: list[Record] = [scalars(seq, loss=1.0, E=2.0, F=3.0) for seq in range(1, 1001)]
        made = cut(records)
        assert all(len(batch.values) <= METRICS for batch in made)
        assert sum(len(batch.values) for batch in made) == 3000
        assert [batch.last for batch in made] == [326, 652, 978, 1000]

    def test_a_record_is_split_only_if_it_alone_is_too_much(self):
        large = scalars(2, **{f"m{i}": 1.0 for i in range(METRICS + 5)})
        made = cut([scalars(1), large, scalars(3)])
        assert [(len(b.values), b.last) for b in made] == [(1, 1), (METRICS, 1), (6, 3)]

    def test_long_names_make_smaller_calls(self):
        wide = {f"{'Å' * 230}{i}": 1.0 for i in range(700)}
        made = cut([scalars(1, **wide), scalars(2, **wide)])
        assert len(made) > 2
        assert all(sum(len(v.key) * 6 for v in batch.values) < BYTES for batch in made)
        assert [v.key for b in made for v in b.values] == [f"train/{name}" for name in wide] * 2

    def test_an_infinity_is_no_number_and_its_sign_is_beside_it(self):
        (batch,) = cut([scalars(1, loss=math.inf, E=-math.inf, F=math.nan)])
        time, step = scalars(1).time, scalars(1).step
        assert str(batch.values) == str(
            [
                Value("train/loss", math.nan, time, step),
                Value("train/loss.inf", 1.0, time, step),
                Value("train/E", math.nan, time, step),
                Value("train/E.inf", -1.0, time, step),
                Value("train/F", math.nan, time, step),
            ]
        )

    def test_a_resume_and_the_newest_alert_are_tags(self):
        alerts = [Alert(seq=n, time=1, step=n, title="loss is NaN", text="" if n == 2 else "stop") for n in (2, 3)]
        (batch,) = cut([resumed(1, 40, attempt=3), *alerts])
        assert batch.tags == {
            "telemetry.resumed.3": "from iteration 40",
            "telemetry.alert": "warning at iteration 3: loss is NaN: stop",
        }
        assert batch.last == 3

    def test_many_resumes_are_spread_over_calls(self):
        made = cut([resumed(seq, seq, attempt=seq + 1) for seq in range(1, 50)])
        assert [len(batch.tags) for batch in made] == [20, 20, 9]
        assert [batch.last for batch in made] == [20, 40, 49]
