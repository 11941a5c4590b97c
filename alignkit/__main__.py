"""`python -m alignkit`, and `accelerate launch -m alignkit`."""

from alignkit.cli.main import entry

if __name__ == "__main__":
    entry()
