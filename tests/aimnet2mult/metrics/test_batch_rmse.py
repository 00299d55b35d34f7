"""The RMSE of the last batch is a mapping that is computed whenever it is read."""

import pytest

from aimnet2mult.metrics.batch_rmse import BatchRmse
from aimnet2mult.quantities import LABELS


def test_values_are_those_at_the_time_of_reading() -> None:
    values = {"energy": 1.0}
    rmse = BatchRmse(lambda: values, ())
    assert dict(rmse) == {"energy": 1.0}
    values |= {"energy": 2.0, "forces": 3.0}
    assert (len(rmse), list(rmse), repr(rmse)) == (2, ["energy", "forces"], "{'energy': 2.0, 'forces': 3.0}")


def test_labels_are_known_by_name_and_abbreviation() -> None:
    rmse = BatchRmse(lambda: {"spin_charges": 1.0}, tuple(LABELS.values()))
    assert rmse["spin_charges"] == rmse["s"] == 1.0
    assert "E" not in rmse
    with pytest.raises(KeyError, match="energy"):
        rmse["E"]
