"""``python -m aimnet2mult.train.cli``: an alias of ``aimnet2mult train`` for existing scripts."""

from aimnet2mult.cli import run, train

if __name__ == "__main__":
    run(train, "python -m aimnet2mult.train.cli")
