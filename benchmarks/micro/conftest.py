"""Add the benchmark modules to the path, and use one thread."""

import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1])]

torch.set_num_threads(1)
