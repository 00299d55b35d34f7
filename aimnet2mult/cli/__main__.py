"""``python -m aimnet2mult.cli``: equivalent to ``aimnet2mult``."""

from aimnet2mult.cli import main

if __name__ == "__main__":
    main()
