"""``python -m flagai``."""

from flagai.cli import main

if __name__ == "__main__":
    main()
