"""`python -m ovsslib` is the command `ovss`; torchrun needs a module to start."""

from ovsslib.cli import main

if __name__ == "__main__":
    main()
