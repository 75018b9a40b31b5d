"""What the command lines of the stages share: the launch that they belong to, and products by name."""

import argparse
import itertools
import math
import os
import signal
import sys
import threading
import time
from typing import Any

from scripts.launch import chosen
from scripts.launch.arithmetic import begin_strictly
from scripts.launch.launch import Launch, frozen_launch, launch_by_hand
from scripts.plan.product import Product
from scripts.store.store import Build


def product_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser for commands that make products of the store."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    parser.add_argument("product", help="key of a product, with or without its fingerprint")
    launch_options(parser)
    return parser


def launch_options(parser: argparse.ArgumentParser) -> None:
    """`--study` and `--store`, for commands typed by hand."""
    parser.add_argument("--study", help="name of a study (default: that of config/config.yaml)")
    parser.add_argument("--store", help="the store's directory (default: that of config/config.yaml)")


def current_launch(arguments: argparse.Namespace) -> Launch:
    """The launch this job belongs to; typed by hand, the launch of the study as its files are now.

    To be called first: where the study's arithmetic is strict and the process's is not, the process begins anew.
    """
    by_hand = arguments.study is not None or arguments.store is not None
    frozen = None if by_hand else frozen_launch()
    launch = frozen or launch_by_hand(arguments.study, arguments.store)
    chosen.belong_to(launch.name, launch.store_root)
    if launch.strict_arithmetic:
        begin_strictly()
    if frozen:
        end_with(frozen.head)
    return launch


def find(launch: Launch, name: str) -> Product:
    """The product called `name` in the study; or, for a full key of another study, in the store's manifests.

    Raises:
        UserError: there is no such product.
    """
    manifest = launch.store.read(name) if name not in launch.grid.products else None
    if manifest is None:
        return launch.grid.find(name)
    return Product.of(name, manifest["spec"], manifest["inputs"])


def make(launch: Launch, product: Product, build: Build, until: float = math.inf) -> dict[str, Any]:
    """Makes what is missing of a product; see `Store.make`."""
    launch.store.require_writable()
    return launch.store.make(product, build, launch.code_of(product), until)


def end_with(head: int) -> None:
    """Ends this process when one of the processes between it and the launch's head ends.

    A head that is killed takes its local jobs along. Jobs that a cluster started have no such ancestor and
    live on. The job is first asked to end (SIGTERM, so that it can save), then made to.
    """
    chain = [os.getpid()]
    while chain[-1] != head:
        parent = _parent(chain[-1])
        if parent is None or parent <= 1:
            return
        chain.append(parent)

    def watch() -> None:
        links = list(itertools.pairwise(chain))
        while all(_parent(child) == parent for child, parent in links):
            time.sleep(0.5)
        print("error: the process that started this job is gone; ending", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _parent(pid: int) -> int | None:
    if pid == os.getpid():
        return os.getppid()
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None
