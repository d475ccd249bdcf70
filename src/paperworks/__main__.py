"""``python -m paperworks``: the same as the command ``paperworks``."""

from paperworks.cli import main

if __name__ == "__main__":
    main()
