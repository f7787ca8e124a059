"""`python -m kmaskrcnn` is the command `kmaskrcnn`."""

import sys

from kmaskrcnn.cli import main

sys.exit(main())
