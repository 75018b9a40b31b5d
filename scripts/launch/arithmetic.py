"""Strict arithmetic: a study's wish (`resources.strict_arithmetic`) put into the environment, before any library loads.

The study decides: what the environment said of these variables is replaced, and one line says so.
"""

import os
import sys

from scripts.store.machine import strict_variables


def make_strict() -> bool:
    """Sets the variables for what this process starts; returns whether any of them was not set so already.

    Raises:
        UserError: this machine cannot compute so.
    """
    variables = strict_variables()
    if all(os.environ.get(name) == value for name, value in variables.items()):
        return False
    if replaced := [name for name, value in variables.items() if os.environ.get(name, value) != value]:
        said = ", ".join(f"{name}={os.environ[name]} is now {variables[name]}" for name in replaced)
        print(f"The study's strict_arithmetic decides: {said}.", file=sys.stderr, flush=True)
    os.environ.update(variables)
    return True


def begin_strictly() -> None:
    """Executes this process's command again, if it was not started under strict arithmetic.

    Its libraries may be loaded; they read the variables once.

    Raises:
        UserError: this machine cannot compute so.
    """
    if make_strict():
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
