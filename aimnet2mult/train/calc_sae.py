"""``python -m aimnet2mult.train.calc_sae``: an alias of ``aimnet2mult calc-sae`` for existing scripts."""

from aimnet2mult.cli import calc_sae, run

if __name__ == "__main__":
    run(calc_sae, "python -m aimnet2mult.train.calc_sae")
