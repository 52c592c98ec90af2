"""`python -m grao` is the `grao` command."""

import sys

from grao.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
