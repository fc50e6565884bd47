"""Several services' own `migrate` commands, one after the other in one process.

Importing SQLAlchemy and Alembic takes longer than migrating does: as four processes this was a
third of a stack's start.

Usage: python -m paypost.stack.migrations PACKAGE …
"""

import runpy
import sys


def main() -> None:
    """Run `python -m PACKAGE migrate` of each; the first that fails ends it, with its status."""
    for package in sys.argv[1:]:
        sys.argv = [package, "migrate"]
        try:
            runpy.run_module(package, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code:
                raise


if __name__ == "__main__":
    main()
