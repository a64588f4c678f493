"""`python -m ovsslib` is the command `ovss`; torchrun needs a module to start."""

from ovsslib.cli import start

if __name__ == "__main__":
    start()
