"""``python -m smacv2`` is the command ``smacv2``."""

import sys

from smacv2.cli import main

if __name__ == "__main__":
    sys.exit(main())
