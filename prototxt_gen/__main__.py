"""`python -m prototxt_gen VARIANT`: write a net, its deploy net and its solver; or `list`, `audit`.

The same as `gmnet generate`; `prototxt_gen.commands.generate` has it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes long to import
    from converters.command_line import starting

    starting.begin()

import sys
from collections.abc import Sequence

from converters.command_line.program import run_program
from prototxt_gen.commands import generate


def main(argv: Sequence[str] | None = None) -> int:
    """Generate what the first argument names, or list."""
    return run_program(
        "prototxt_gen",
        generate.__doc__,
        generate.configure,
        generate.run,
        argv,
        generate.EXIT_STATUS,
    )


if __name__ == "__main__":
    sys.exit(main())
