"""``python -m aimnet2mult.tools.compile_jit``: exports a model for existing scripts."""

from aimnet2mult.cli import run
from aimnet2mult.cli.compile_jit import compile_jit

if __name__ == "__main__":
    run(compile_jit, "python -m aimnet2mult.tools.compile_jit")
