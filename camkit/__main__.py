"""``python -m camkit``."""

import sys

from camkit.cli.main import main

sys.exit(main())
