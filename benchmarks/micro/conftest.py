"""For all measurements of parts: the batches of the benchmarks can be imported."""

import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1])]

torch.set_num_threads(1)
