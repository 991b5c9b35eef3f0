"""``python -m zif``: the ``zif`` command, for where its script is not on the path."""

import sys

from zif.cli.main import main

sys.exit(main())
