# PYTHON_ARGCOMPLETE_OK
"""The script `gmnet`: nothing is imported before Ctrl-C has its answer."""

from __future__ import annotations

import sys

from converters.command_line import starting


def console() -> int:
    """Run the command line; what that takes is imported here."""
    starting.begin()
    from gmnet_pt.__main__ import main

    return main()


if __name__ == "__main__":
    sys.exit(console())
