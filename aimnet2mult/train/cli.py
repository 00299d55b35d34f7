"""`python -m aimnet2mult.train.cli`: the same as `aimnet2mult train`."""

from aimnet2mult.cli import run, train

if __name__ == "__main__":
    run(train, "python -m aimnet2mult.train.cli")
