"""The one exception that a person's mistake may raise, and how command lines say it."""

import argparse
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the person who typed the command can put right, said in one sentence.

    Every command line prints it as a single line on stderr and exits with `status`.
    """

    status = 1


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Parses the command line and calls `main`; a `UserError` becomes one line on stderr and its exit status."""
    arguments = parser.parse_args()
    try:
        main(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        raise SystemExit(1) from None
