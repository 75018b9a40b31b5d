"""The command line; see the package."""

import argparse
import signal
import sys
from pathlib import Path

import benchmarks.gpu
from benchmarks.gpu.runner import PARTS, lacking, missing, run_parts
from scripts.common.errors import UserError, run
from scripts.common.files import ROOT


def main(arguments: argparse.Namespace) -> None:
    if arguments.list:
        for part in PARTS:
            lacks = missing(part.needs)
            print(f"{part.name:9}{part.seconds:4} s  {part.what}" + (f" ({lacking(lacks)})" if lacks else ""))
        return
    if arguments.device == "cpu" and not arguments.tiny:
        raise UserError("--device cpu: takes --tiny as well; a CPU would take days for the model of 7B parameters")
    if arguments.minutes <= 0:
        raise UserError(f"--minutes: must be above 0, not {arguments.minutes:g}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the part that runs
    parts = [part for part in PARTS if part.name in arguments.parts]
    if not run_parts(parts, arguments.minutes, arguments.device, arguments.tiny, arguments.out / "gpu.jsonl"):
        raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=benchmarks.gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="for all parts together (default: 5)")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--list", action="store_true", help="say what each part does, takes and needs, and run none")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR", help="where gpu.jsonl lies"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of four narrow layers in place of Llama-2-7B")
    run(main, parser)
