"""The command line: `python scripts/train.py --help`."""

from lightning_recipe.cli import main

if __name__ == "__main__":
    main()
