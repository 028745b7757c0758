"""``python -m noctule`` is the command ``noctule``."""

import sys

from noctule.cli.main import main

sys.exit(main())
