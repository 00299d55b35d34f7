"""`python -m aimnet2mult.train.calc_sae`: the same as `aimnet2mult calc-sae`."""

from aimnet2mult.cli import calc_sae, run

if __name__ == "__main__":
    run(calc_sae, "python -m aimnet2mult.train.calc_sae")
