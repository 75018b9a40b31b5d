"""Puts the quick modules of this directory in the place of those that compute with models.

On PYTHONPATH of a test's processes only; STANDINS names the modules that are replaced. Rules, names, manifests
and command lines stay the real ones.
"""

import importlib.abc
import importlib.util
import os
import sys
from pathlib import Path

QUICK = {
    module: file
    for name, replaced in {
        "loop": {"scripts.training.loop": "loop.py"},
        "slow": {"scripts.training.loop": "slow.py"},
        "harness": {"scripts.evaluation.harness": "harness.py", "scripts.evaluation.judging": "judging.py"},
    }.items()
    if name in os.environ["STANDINS"].split(",")
    for module, file in replaced.items()
}


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname in QUICK:
            return importlib.util.spec_from_file_location(fullname, Path(__file__).with_name(QUICK[fullname]))
        return None


sys.meta_path.insert(0, _Finder())
