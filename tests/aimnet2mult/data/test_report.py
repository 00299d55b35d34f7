"""The table of bad structures cannot make a spreadsheet evaluate a name."""

from pathlib import Path

import numpy as np

from aimnet2mult.data.places import Segment
from aimnet2mult.data.report import Report


def test_names_that_a_spreadsheet_would_evaluate_are_neutralized() -> None:
    report = Report()
    report.add_bad(Segment(Path("=cmd.h5"), "@003", 8), "invalid charge", np.array([7]), ["charge is nan"])
    assert report.csv().splitlines() == ["file,group,row,reason", "'=cmd.h5,'@003,7,invalid charge"]
