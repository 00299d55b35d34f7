"""For all tests of integrations: what forbids host reads stands beside the tests of training."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "train"))
