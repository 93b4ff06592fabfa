"""`python -m ftkeras`: the same as the `ftkeras` command."""

from ftkeras.cli.main import run

if __name__ == "__main__":
    run()
