"""`python -m fastsaddle`, the same as the command `fastsaddle`."""

import sys

from fastsaddle.cli import main

if __name__ == "__main__":
    sys.exit(main())
