"""The sandbox against programs that do what they must not, over every backend that works on this machine."""

import ctypes
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.common.errors import UserError
from scripts.evaluation import sandbox as module
from scripts.evaluation.sandbox import ProgramResult, Sandbox, backends

ROOT = Path(__file__).parents[2]
CHECK = "def check(candidate):\n    assert candidate(2) == 3\n    assert candidate(5) == 6\n\ncheck(f)\n"
RIGHT = "def f(x):\n    return x + 1\n"
WRONG = "def f(x):\n    return x\n"


def living_children() -> set[int]:
    """Processes whose parent is this one and that are not yet dead; the dead ones are laid to rest."""
    children = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) != os.getpid():
            continue
        if state == "Z":
            os.waitpid(int(entry.name), os.WNOHANG)
        else:
            children.add(int(entry.name))
    return children


@pytest.fixture(autouse=True)
def nobody_left_behind() -> Iterator[None]:
    """Whatever a test starts and loses becomes a child of this process, where it is found out."""
    adopt = ctypes.CDLL(None).prctl
    adopt(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    before = living_children()
    yield
    left = living_children() - before
    adopt(36, 0, 0, 0, 0)
    assert not left


@pytest.fixture(scope="module", params=["bubblewrap", "namespaces"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    candidate = Sandbox(request.param)
    defect = candidate._defect() or ""
    assert "the probe saw" not in defect  # it runs but does not hold: that is a fault, not an absence
    if defect:
        pytest.skip(f"{request.param} does not work on this machine: {defect}")
    return candidate


def judge(sandbox: Sandbox, program: str, check: str = CHECK, seconds: float = 10, memory: int = 256) -> ProgramResult:
    return sandbox.run([(program, check)], timeout_seconds=seconds, memory_mb=memory)[0]


def said(sandbox: Sandbox, program: str, **limits: float) -> str:
    """The message of the error that the program's function `f` raises, or what it returns, as text."""
    verdict = judge(sandbox, program, "raise RuntimeError(f())", **limits)
    assert verdict.outcome == "error"
    assert verdict.detail.startswith("RuntimeError"), verdict
    return verdict.detail.removeprefix("RuntimeError").removeprefix(": ")


def test_a_backend_works_here() -> None:
    assert Sandbox.find() == backends()[0]


# -- results -----------------------------------------------------------------------------------------------


def test_right_and_wrong(sandbox: Sandbox) -> None:
    programs = [
        (RIGHT, CHECK),
        (WRONG, CHECK),
        ("def f(x:\n", CHECK),
        ("", CHECK),
        (RIGHT, "assert f(2) == 4, 'two and one'"),
        ("def f(x):\n    return [][x]\n", CHECK),
        ("f = '\udcff'", CHECK),
        ("\0", CHECK),
        ("(" * 5000, CHECK),
        ("def f(x):\n    assert x < 3, 'mine'\n    return x + 1\n", CHECK),
        (RIGHT, "try:\n    f('x')\nexcept TypeError:\n    assert False\n"),
        (RIGHT, "assert f(2) +"),
        (RIGHT, "f(2).real.none"),
    ]
    results = sandbox.run(programs, timeout_seconds=10, memory_mb=256, workers=2)
    kinds = ["passed", "wrong", "error", "error", "wrong", "error", "error", "error", "error"]
    assert [verdict.outcome for verdict in results] == [*kinds, "error", "wrong", "error", "error"]
    details = [verdict.detail for verdict in results]
    assert details[0] == ""
    assert details[1] == "AssertionError"
    assert details[2].startswith("SyntaxError: ")
    assert details[3] == "NameError: name 'f' is not defined"
    assert details[4] == "AssertionError: two and one"
    assert details[5] == "IndexError: list index out of range"
    assert details[9] == "AssertionError: mine"
    assert max(map(len, details)) <= 200


def test_what_a_program_may_do(sandbox: Sandbox) -> None:
    program = (
        "import collections, dataclasses, math, re, heapq, itertools, json, random, tempfile, threading, typing\n"
        "@dataclasses.dataclass\nclass Point:\n    x: 'int'\n"
        "if __name__ == '__main__':\n    raise ValueError('not as a script')\n"
        "def f(x):\n"
        "    print('working')\n"
        "    with tempfile.TemporaryFile() as file:\n        file.write(b'x' * 1000)\n"
        "    worker = threading.Thread(target=print)\n    worker.start()\n    worker.join()\n"
        "    return Point(helper(x)).x\n"
        "def helper(x):\n    return x + 1\n"
    )
    assert judge(sandbox, program, CHECK + "assert helper(1) == 2").outcome == "passed"


def test_order_and_each_pair_once(sandbox: Sandbox) -> None:
    # Later ones end first; a program that is run twice would show two times.
    programs = [
        (f"import time\ntime.sleep({(7 - i) / 20})", f"raise ValueError({i}, time.time_ns())") for i in range(8)
    ]
    results = sandbox.run([*programs, *programs[::-1]], timeout_seconds=10, memory_mb=256, workers=4)
    assert [verdict.detail.partition(",")[0] for verdict in results[:8]] == [f"ValueError: ({i}" for i in range(8)]
    assert results[8:] == results[:8][::-1]
    assert len(set(results)) == 8
    # One program under two checks is two pairs.
    both = sandbox.run([(RIGHT, CHECK), (RIGHT, "assert f(1) == 1")], timeout_seconds=10, memory_mb=256)
    assert [verdict.outcome for verdict in both] == ["passed", "wrong"]


def test_the_same_program_fares_the_same_every_time(sandbox: Sandbox) -> None:
    program = "def f():\n    return list({str(i) for i in range(20)}), hash('a')\n"
    assert said(sandbox, program) == said(sandbox, program + "# again")


def test_no_programs(sandbox: Sandbox) -> None:
    assert sandbox.run([], timeout_seconds=1, memory_mb=64) == []


@pytest.mark.parametrize("wrong", [{"timeout_seconds": 0}, {"memory_mb": 0}, {"workers": 0}])
def test_limits_must_be_positive(wrong: dict[str, int]) -> None:
    limits = {"timeout_seconds": 1, "memory_mb": 64, "workers": 1, **wrong}
    with pytest.raises(ValueError, match="positive"):
        Sandbox("namespaces").run([(RIGHT, CHECK)], **limits)


# -- passing without being right ----------------------------------------------------------------------------

EARLY = {
    "exit": "import sys\nsys.exit(0)",
    "exit at once": "import os\nos._exit(0)",
    "raise SystemExit": "raise SystemExit",
    "raise SystemExit(0) in the candidate": "def f(x):\n    raise SystemExit(0)",
    "exit in the candidate": "import os\ndef f(x):\n    os._exit(0)",
    "exit handler": WRONG + "import atexit, os\natexit.register(os._exit, 0)",
    "exit handler, then exit": "import atexit, os, sys\natexit.register(print, 'passed')\nsys.exit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "def f(x):\n    raise GeneratorExit",
    "an error that cannot be shown": (
        "class E(Exception):\n    def __str__(self):\n        raise SystemExit(0)\ndef f(x):\n    raise E"
    ),
    "killed by itself": "import os\nos.kill(os.getpid(), 9)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "no stack left": (
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6):\n    x = [x]\nrepr(x)\n" + WRONG
    ),
    "another program in its place": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', ''])",
    "in a thread": "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()\nwhile True:\n    pass",
    "in a signal handler": (
        "import signal, sys\nsignal.signal(signal.SIGALRM, lambda *_: sys.exit(0))\nsignal.setitimer(0, 0.05)\n"
        "while True:\n    pass"
    ),
    "a child that goes on": "import os\nif os.fork():\n    os._exit(0)\n" + RIGHT,
    "a child that goes on in the check": (
        "import os\ndef f(x):\n    if os.fork():\n        os._exit(0)\n    return x + 1"
    ),
}
PRETENCE = {
    "the expected text printed": "print(3)\nprint(6)\nprint('passed')\nprint('OK')" + "\n" + WRONG,
    "another check": WRONG + "def check(candidate):\n    pass\n",
    "another AssertionError": (
        WRONG + "import builtins\nclass AssertionError(Exception):\n    def __new__(cls, *_):\n        return None\n"
        "builtins.AssertionError = AssertionError\n"
    ),
    "other system calls": (WRONG + "import os\nos.write = os.read = os._exit = os.getpid = lambda *_: b'passed'\n"),
    "another compile and exec": (
        WRONG + "import builtins\nbuiltins.exec = builtins.compile = builtins.print = lambda *_: None\n"
        "exec = compile = builtins.exec\n"
    ),
    "another main": WRONG + "import sys\nimport __main__\n__main__.run = __main__.check = print\n",
    "a candidate exchanged by a tracer": (
        WRONG + "import sys\n"
        "def exchange(frame, event, value):\n"
        "    if frame.f_code.co_name == 'check':\n"
        "        frame.f_locals['candidate'] = {2: 3, 5: 6}.get\n"
        "sys.settrace(exchange)\n"
    ),
}
for word in ("started", "body", "passed", "passed ", "passed " + "0" * 32, ""):
    shout = (
        "import os\n"
        "def shout():\n"
        "    for descriptor in range(64):\n"
        f"        try:\n            os.write(descriptor, {word.encode()!r})\n"
        "        except OSError:\n            pass\n"
    )
    PRETENCE[f"{word!r} on every descriptor"] = shout + "shout()\n" + WRONG
    PRETENCE[f"{word!r} on every descriptor, from the candidate"] = shout + "def f(x):\n    shout()\n    return x\n"


def test_ending_early_or_pretending_does_not_pass(sandbox: Sandbox) -> None:
    tricks = EARLY | PRETENCE
    programs = [(program, CHECK) for program in tricks.values()]
    results = sandbox.run(programs, timeout_seconds=10, memory_mb=256, workers=2)
    # Who answers wrongly is wrong; who shouts on the line to the judge has ended it; who leaves without an answer is
    # killed, unless what ends it is an error or goes to ground in an exit handler that never runs.
    expected = dict.fromkeys(EARLY, "killed") | dict.fromkeys(PRETENCE, "wrong")
    expected |= {name: "killed" for name in PRETENCE if "descriptor" in name and not name.startswith("''")}
    expected |= dict.fromkeys(("KeyboardInterrupt", "GeneratorExit", "an error that cannot be shown"), "error")
    expected["exit handler"] = "wrong"
    assert {name: v.outcome for name, v in zip(tricks, results, strict=True)} == expected


def test_how_a_program_ended_is_said(sandbox: Sandbox) -> None:
    endings = {
        "import os\nos.kill(os.getpid(), 9)": "died by SIGKILL",
        "import ctypes\nctypes.string_at(0)": "died by SIGSEGV",
        "import os\ndef f(x):\n    os._exit(3)": "exited with status 3 before its check returned",
        "import os, time\nos.closerange(3, 64)\ntime.sleep(60)": "broke off before its check returned",
        "import sys\nsys.exit('enough')": "SystemExit: enough",
    }
    results = sandbox.run([(program, CHECK) for program in endings], timeout_seconds=20, memory_mb=256, workers=2)
    assert results == [ProgramResult("killed", detail) for detail in endings.values()]


EQUAL = (
    "    def __eq__(self, other):\n        return True\n"
    "    def __ne__(self, other):\n        return False\n"
    "    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __instancecheck__ = __eq__\n"
    "    __abs__ = __sub__ = __rsub__ = __getattr__ = __getitem__ = lambda self, *_: self\n"
    "    __hash__ = lambda self: hash(3)\n"
)
AWARDS = {
    "what must be said is asked for": (
        "import os, stat\n"
        "for descriptor in range(64):\n"
        "    try:\n"
        "        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):\n"
        "            os.write(descriptor, b'body')\n"
        "            os.write(descriptor, b'passed ' + os.read(descriptor, 64))\n"
        "    except OSError:\n        pass\n"
    )
    + WRONG,
    "a frame has what must be said": (
        "import os, sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        known = {**frame.f_globals, **frame.f_locals}\n"
        "        for descriptor in (known.get('control'), known.get('CONTROL')):\n"
        "            try:\n"
        "                os.write(descriptor, b'passed' + (b' ' + known['token'] if 'token' in known else b''))\n"
        "            except (OSError, TypeError):\n                pass\n"
        "        frame = frame.f_back\n"
    ),
    "a frame's check is exchanged": (
        "import ctypes, sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for known in (frame.f_globals, frame.f_locals):\n"
        "            if 'check' in known:\n                known['candidate'] = {2: 3, 5: 6}.get\n"
        "        if frame.f_code.co_name == 'check':\n"
        "            frame.f_locals['candidate'] = {2: 3, 5: 6}.get\n"
        "            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), 0)\n"
        "            return 3\n"
        "        frame = frame.f_back\n"
    ),
    "an object that equals everything": f"class Equal:\n{EQUAL}def f(x):\n    return Equal()\n",
    "a number that equals everything": f"class Equal(int):\n{EQUAL}def f(x):\n    return Equal()\n",
    "an end of the check's loop": "def f(x):\n    raise StopIteration\n",
    "another module": "import math\nmath.isclose = math.fabs = lambda *_: 0\n" + WRONG,
    "another module in its place": (
        "import sys\nclass Mild:\n    isclose = fabs = __getattr__ = lambda *_: 0\nsys.modules['math'] = Mild()\n"
    )
    + WRONG,
    "another builtin": "import builtins\nbuiltins.abs = builtins.len = builtins.all = lambda _: 1\n" + WRONG,
    "another import": (
        "import builtins\nclass Mild:\n    isclose = fabs = lambda *_: 0\nbuiltins.__import__ = lambda *_: Mild\n"
    )
    + WRONG,
}
CHECKS = {
    "equality": CHECK,
    "membership": "def check(candidate):\n    assert candidate(2) in [3]\n\ncheck(f)\n",
    "arithmetic": "import math\ndef check(candidate):\n    assert math.fabs(candidate(2) - 3) < 1e-6\n\ncheck(f)\n",
    "in turn": "def check(candidate):\n    assert all(map(lambda x: candidate(x) == x + 1, range(5)))\n\ncheck(f)\n",
}


def test_no_program_awards_itself_a_point(sandbox: Sandbox) -> None:
    tried = {(trick, way): (AWARDS[trick], CHECKS[way]) for trick in AWARDS for way in CHECKS}
    results = sandbox.run([*tried.values()], timeout_seconds=10, memory_mb=256, workers=2)
    assert {how for how, verdict in zip(tried, results, strict=True) if verdict.outcome == "passed"} == set()


PTRACE = (
    "import ctypes, os\n"
    "libc = ctypes.CDLL(None)\n"
    "libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]\n"
)


def test_the_judge_cannot_be_reached(sandbox: Sandbox) -> None:
    """By whoever knows its number, which is that of the program's parent."""
    program = PTRACE + (
        "def f():\n"
        "    judge, place, done = os.getppid(), ctypes.create_string_buffer(8), []\n"
        "    class Piece(ctypes.Structure):\n"
        "        _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]\n"
        "    piece = ctypes.byref(Piece(ctypes.addressof(place), 8))\n"
        "    for name, way in {\n"
        "        'attach': lambda: libc.ptrace(16, judge, None, None),\n"
        "        'seize': lambda: libc.ptrace(0x4206, judge, None, None),\n"
        "        'read': lambda: libc.process_vm_readv(judge, piece, 1, piece, 1, 0),\n"
        "        'write': lambda: libc.process_vm_writev(judge, piece, 1, piece, 1, 0),\n"
        "        'take a descriptor': lambda: libc.syscall(438, libc.syscall(434, judge, 0), 5, 0),\n"
        "    }.items():\n"
        "        if way() >= 0:\n            done.append(name)\n"
        "    return judge > 1, done\n"
    )
    assert said(sandbox, program) == "(True, [])"


def test_a_program_never_holds_its_check(sandbox: Sandbox) -> None:
    program = (
        "import gc, os, sys\n"
        "def f():\n"
        "    frames, found = [], set()\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n        frames += [frame.f_locals, frame.f_globals]\n        frame = frame.f_back\n"
        "    for one in [*frames, *gc.get_objects()]:\n"
        "        for value in gc.get_referents(one):\n"
        "            if isinstance(value, (str, bytes)):\n"
        "                text = value if isinstance(value, str) else value.decode('latin-1')\n"
        "                if ''.join(['kapre', 'kar']) in text:\n                    found.add(text)\n"
        "    for descriptor in range(64):\n"
        "        try:\n            found.add(os.pread(descriptor, 1000, 0))\n"
        "        except OSError:\n            pass\n"
        "    return found - {b''}\n"
    )
    assert judge(sandbox, program, "raise RuntimeError(f()) # kaprekar").detail == "RuntimeError: set()"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="speaks to the registers of x86-64")
def test_init_has_nothing_to_say(sandbox: Sandbox) -> None:
    """A program that makes its init write to every descriptor, if it can, has not passed."""
    program = (
        PTRACE + "registers = (ctypes.c_ulonglong * 27)()\n"
        "def call(number, *values):\n"
        "    libc.ptrace(12, 1, None, registers)\n"  # GETREGS
        "    registers[15] = 0xFFFFFFFFFFFFFFFF\n"  # orig_rax: do not restart the call that it was in
        "    registers[10] = number\n"
        "    registers[14], registers[13], registers[12] = values\n"
        "    registers[16] = instruction\n"
        "    libc.ptrace(13, 1, None, registers)\n"  # SETREGS
        "    libc.ptrace(9, 1, None, None)\n"  # SINGLESTEP
        "    os.waitpid(1, 0x40000000)\n"
        "def f(x):\n"
        "    global instruction\n"
        "    if libc.ptrace(16, 1, None, None) == 0:\n"  # ATTACH
        "        os.waitpid(1, 0x40000000)\n"
        "        libc.ptrace(12, 1, None, registers)\n"
        "        instruction, place = registers[16] - 2, registers[19] - 512\n"  # rip, rsp
        "        libc.ptrace(5, 1, place, int.from_bytes(b'passed\\0\\0', 'little'))\n"  # POKEDATA
        "        for descriptor in range(16):\n"
        "            call(1, descriptor, place, 6)\n"
        "        libc.ptrace(17, 1, None, None)\n"  # DETACH
        "    return x\n"
    )
    assert judge(sandbox, program).outcome in {"wrong", "killed"}  # an init that it has broken takes the jail with it


def test_what_is_no_message_is_none(sandbox: Sandbox) -> None:
    """A program may write to the judge what it likes: it passes by right values alone."""

    def reply(*parts: bytes) -> bytes:
        text = b"t%d\n" % len(parts) + b"".join(parts)
        return len(text).to_bytes(8, "big") + text

    good, bad, nothing = b"B1\n1", b"B0\n", b"d0\n"
    replies = {
        "an empty one": reply(),
        "a value alone": reply(b"I1\n3"),
        "no length": b"passed",
        "a letter that means nothing": reply(good, b"X1\n3", nothing),
        "an object that there is not": reply(good, b"M1\n9", nothing),
        "a type that is no plain one": reply(good, b"T4\neval", nothing),
        "an error that is none": reply(bad, b"t1\nS4\neval", b"t1\nS1\n3"),
        "a change of what cannot change": reply(good, b"I1\n0", b"d2\nI1\n0I1\n3"),
        "another's object called": reply(b"S4\ncall", b"I1\n0", b"t0\n", nothing),
        "a value that is cut off": reply(good, b"S9\n3", nothing),
        "too deep": reply(good, b"l1\n" * 5000 + b"l0\n", nothing),
        "a wrong value": reply(good, b"I1\n4", nothing),
    }
    program = (
        "import os, stat\n"
        "def f(x):\n"
        "    for descriptor in range(3, 64):\n"
        "        try:\n            os.write(descriptor, {!r})\n"
        "        except OSError:\n            pass\n"
        "    os._exit(0)\n"
    )
    right = program.format(reply(good, b"I1\n3", nothing))
    programs = [(program.format(text), "assert f(2) == 3") for text in replies.values()]
    results = sandbox.run([*programs, (right, "assert f(2) == 3")], timeout_seconds=10, memory_mb=256, workers=2)
    outcomes = {name: verdict.outcome for name, verdict in zip([*replies, "right"], results, strict=True)}
    assert "passed" not in [outcomes[name] for name in replies]
    assert outcomes["right"] == "passed"
    assert outcomes["a wrong value"] == "wrong"


def test_only_what_a_check_asks_for_is_in_its_scope(sandbox: Sandbox) -> None:
    """A program that itself says what its names are cannot say what a builtin is."""
    word = {name: b"S%d\n%s" % (len(name), name.encode()) for name in ("f", "all", "__builtins__")}
    whole, true = b"T3\nint", b"T4\nbool"
    every = b"d2\n" + word["all"] + true
    scopes = (
        b"d4\n" + word["f"] + whole + word["all"] + true,
        b"d4\n" + word["f"] + whole + word["__builtins__"] + every,
        b"d2\n" + word["f"] + whole,
    )
    program = (
        "import os, time\nfor descriptor in range(3, 64):\n    try:\n        os.write(descriptor, {!r})\n"
        "    except OSError:\n        pass\ntime.sleep(60)\n"
    )
    texts = [b"t3\nB1\n1" + b"t2\n" + scope + b"l0\n" + b"d0\n" for scope in scopes]
    programs = [program.format(len(text).to_bytes(8, "big") + text) for text in texts]
    check = "assert (f('3'), __builtins__ is not None) == (3, True)\n"  # what is said has been believed
    results = sandbox.run([(text, check) for text in programs], timeout_seconds=10, memory_mb=256)
    assert results == [ProgramResult("passed", "")] * 3
    check += "assert all([f('2') == 3])\n"
    results = sandbox.run([(text, check) for text in programs], timeout_seconds=10, memory_mb=256)
    assert results == [ProgramResult("wrong", "AssertionError")] * 3


# -- what goes between a program and its check ----------------------------------------------------------------

VALUES = (
    "None, True, False, 0, -1, 10**5000, -(2**64), 0.1, -0.0, 5e-324, 1e308, float('inf'), -float('inf'), 1j, -0.0j,\n"
    "'', 'a\\n\\0', '\\udcff\\U0001f600', b'', b'\\xff\\n', bytearray(b'ab'), (), (1,), [], [[], ()], [1, 1.0, True],\n"
    "{}, {'b': 1, 'a': [2]}, {(1, 'x'): {}}, set(), {1, 2}, frozenset({3}), {frozenset()}, range(0, 9, 2), int, dict,\n"
    "fractions.Fraction(1, 3), decimal.Decimal('1.10'), decimal.Decimal('NaN'), [None] * 1000\n"
)


def test_plain_values_arrive_as_they_are(sandbox: Sandbox) -> None:
    """There and back: each is compared with the one that the check writes down itself."""
    program = f"import decimal, fractions\ndef values():\n    return [{VALUES}]\ndef same(value):\n    return value\n"
    check = (
        "import decimal, fractions, sys\nsys.set_int_max_str_digits(0)\n"
        f"for got, value in zip(values(), [{VALUES}], strict=True):\n"
        "    for one in (got, same(value), same([value])[0]):\n"
        "        assert type(one) is type(value), (one, value)\n"
        "        assert repr(one) == repr(value), (one, value)\n"
        "nan = same(float('nan'))\n"
        "assert type(nan) is float and nan != nan\n"
    )
    assert judge(sandbox, program, check) == ProgramResult("passed", "")


def test_derived_values_arrive_as_plain_ones(sandbox: Sandbox) -> None:
    program = (
        "import collections, enum\n"
        "class Colour(enum.IntEnum):\n    RED = 1\n"
        "class Text(str):\n    pass\n"
        "def values():\n"
        "    tally = collections.Counter('aab')\n"
        "    table = collections.defaultdict(list)\n"
        "    table['x'].append(1)\n"
        "    point = collections.namedtuple('Point', 'x y')(1, 2)\n"
        "    return tally, table, point, Colour.RED, Text('word'), collections.OrderedDict(a=1)\n"
    )
    check = "assert values() == ({'a': 2, 'b': 1}, {'x': [1]}, (1, 2), 1, 'word', {'a': 1})"
    assert judge(sandbox, program, check) == ProgramResult("passed", "")


def test_objects_can_be_called_iterated_and_handed_back(sandbox: Sandbox) -> None:
    program = (
        "class Node:\n    def __init__(self, value, *, next=None):\n        self.value, self.next = value, next\n"
        "def total(node):\n    return node.value + total(node.next) if node else 0\n"
        "def count(n):\n    for i in range(n):\n        yield [i]\n"
        "def adder(n):\n    return lambda x: x + n\n"
        "def apply(function, values):\n    return [function(value) for value in values]\n"
        "def caught(function):\n    try:\n        function()\n    except KeyError as error:\n"
        "        return error.args\n"
        "def itself():\n    return Node\n"
    )
    check = (
        "node = Node(1, next=Node(2))\n"
        "assert total(node) == 3\n"
        "assert node != Node(1) and node == node and itself() is Node\n"
        "assert list(count(3)) == [[0], [1], [2]] and next(count(1)) == [0]\n"
        "assert adder(2)(3) == 5\n"
        "assert apply(lambda x: -x, [1, 2]) == [-1, -2] and apply(adder(1), iter((1, 2))) == [2, 3]\n"
        "assert caught(lambda: {}['gone']) == ('gone',)\n"
    )
    assert judge(sandbox, program, check) == ProgramResult("passed", "")


def test_errors_arrive_by_their_classes(sandbox: Sandbox) -> None:
    program = (
        "import json\n"
        "class Own(LookupError):\n    def __init__(self, a, b):\n        super().__init__(b)\n"
        "def f(kind):\n"
        "    if kind == 'own':\n        raise Own(1, 2)\n"
        "    if kind == 'json':\n        json.loads('[')\n"
        "    if kind == 'unicode':\n        b'\\xff'.decode()\n"
        "    if kind == 'file':\n        open('/none')\n"
        "    if kind == 'deep':\n        f(kind)\n"
        "    if kind == 'exit':\n        raise SystemExit(3)\n"
        "    return {}[kind]\n"
    )
    check = (
        "kinds = {'own': LookupError, 'json': ValueError, 'unicode': UnicodeDecodeError, 'file': FileNotFoundError,\n"
        "         'deep': RecursionError, 'exit': SystemExit, 'x': KeyError}\n"
        "for kind, error in kinds.items():\n"
        "    try:\n        f(kind)\n"
        "    except error as raised:\n"
        "        kinds[kind] = type(raised).__name__, raised.args\n"
        "assert kinds['own'] == ('Own', (2,)) and kinds['x'] == ('KeyError', ('x',)) and kinds['exit'][1] == (3,)\n"
        "f('own')\n"
    )
    assert judge(sandbox, program, check) == ProgramResult("error", "Own: 2")


def test_what_a_call_changes_is_changed_for_the_check(sandbox: Sandbox) -> None:
    program = (
        "def f(a, b, c, d, e):\n"
        "    a.sort()\n    a[0].append(0)\n    b['new'] = 1\n    c.clear()\n    d += b'!'\n    return e, len(a)\n"
    )
    check = (
        "a, b, c, d, e = [[2], [1]], {'old': 0}, {1}, bytearray(b'x'), [3]\n"
        "same = a, b, c, d\n"
        "assert f(a, b, c, d, e) == ([3], 2)\n"
        "assert same == ([[1, 0], [2]], {'old': 0, 'new': 1}, set(), bytearray(b'x!'))\n"
        "assert e == [3]\n"
    )
    assert judge(sandbox, program, check) == ProgramResult("passed", "")


def test_a_check_may_use_what_the_program_has(sandbox: Sandbox) -> None:
    """Modules are the check's own, under whatever builtins and modules the program has."""
    program = "import math\nlimit = [1]\nmath.pi = 3\ndef helper():\n    limit.append(2)\n    return limit\n"
    check = "assert limit == [1] and helper() == [1, 2]\nassert math.pi > 3.14\n"
    assert judge(sandbox, program, check) == ProgramResult("passed", "")


@pytest.mark.parametrize(
    "softened",
    [
        "def all(_):\n    return True\n",
        "import builtins\nbuiltins.all = lambda _: True\n",
        "__builtins__['all'] = lambda _: True\n",
        "vars(__builtins__)['all'] = lambda _: True\n",
        "import sys\nsys.modules['builtins'].all = lambda _: True\n",
    ],
)
def test_a_check_keeps_its_builtins(sandbox: Sandbox, softened: str) -> None:
    check = "def check(candidate):\n    assert all([candidate(2) == 3])\n\ncheck(f)\n"
    kind = "error" if softened.startswith("vars") else "wrong"  # what it calls is a dict in here
    assert judge(sandbox, softened + WRONG, check).outcome == kind


def test_a_candidate_may_bear_the_name_of_a_builtin(sandbox: Sandbox) -> None:
    program = "def sum(numbers):\n    return 42\n"
    check = "def check(candidate):\n    assert candidate([1]) == 42\n\ncheck(sum)\n"
    assert judge(sandbox, program, check).outcome == "passed"
    assert judge(sandbox, "", check).outcome == "wrong"


# -- limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "while True:\n    pass",
        "import time\ntime.sleep(60)",
        "import signal, time\nfor n in range(1, 32):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n"
        "    except OSError:\n        pass\ntime.sleep(60)",
        "def f(x):\n    while True:\n        try:\n            f(x)\n        except BaseException:\n            pass",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\ntime.sleep(60)",
    ],
)
def test_endless(sandbox: Sandbox, program: str) -> None:
    verdict = judge(sandbox, program, seconds=0.5)
    assert verdict == ProgramResult("timed_out", "still running after 0.5 s")


def test_a_passing_program_may_leave_threads_and_children(sandbox: Sandbox) -> None:
    program = RIGHT + (
        "import os, threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
        "if os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n"
    )
    assert judge(sandbox, program, seconds=20).outcome == "passed"


def test_fork_bomb(sandbox: Sandbox) -> None:
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    count = (
        "import os, time\ndef f():\n    made = 0\n    try:\n        while made < 1000:\n"
        "            if os.fork() == 0:\n                time.sleep(60)\n            made += 1\n"
        "    except OSError:\n        return made\n"
    )
    results = sandbox.run(
        [(bomb, CHECK), (RIGHT, CHECK), (RIGHT + "import os\nos.fork() or os._exit(0)", CHECK)],
        timeout_seconds=5,  # of which those that pass, beside the bomb, need a small part
        memory_mb=256,
        workers=3,
    )
    assert [verdict.outcome for verdict in results] == ["timed_out", "passed", "passed"]
    assert int(said(sandbox, count)) < 16


def test_memory(sandbox: Sandbox) -> None:
    assert judge(sandbox, "x = bytearray(300 << 20)") == ProgramResult("out_of_memory", "MemoryError")
    assert judge(sandbox, "x = bytearray(300 << 20)\n" + RIGHT, memory=512).outcome == "passed"
    for item in ("bytearray(1 << 20)", "[]"):  # of the second kind there is no room left to say so
        program = f"x = []\nwhile True:\n    x.append({item})"
        assert judge(sandbox, program) == ProgramResult("out_of_memory", "MemoryError")
    raised = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"
    assert judge(sandbox, raised).detail.startswith(("ValueError", "PermissionError"))


def test_killed_because_the_machine_has_no_memory_left(sandbox: Sandbox, memory_of_the_machine: Path) -> None:
    """The kernel's own kill is known from the program's."""
    fills = "x = bytearray(400 << 20)\nfor place in range(0, len(x), 4096):\n    x[place] = 1\n"
    kills_itself = "import os\nos.kill(os.getpid(), 9)\n"
    ask = (
        f"from scripts.evaluation.sandbox import Sandbox\nprograms = {[fills + RIGHT, kills_itself, RIGHT]!r}\n"
        f"verdicts = Sandbox({sandbox.backend!r}).run([(program, {CHECK!r}) for program in programs], "
        "timeout_seconds=60, memory_mb=1024)\nprint([verdict.outcome for verdict in verdicts])"
    )
    enter = f'echo $$ > {memory_of_the_machine}/cgroup.procs && exec "$@"'
    command = ["sh", "-c", enter, "sh", sys.executable, "-c", ask]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert eval(said) == ["out_of_memory", "killed", "passed"]


@pytest.fixture
def memory_of_the_machine() -> Iterator[Path]:
    """A group of processes that have 150 MiB together, as a small machine or a SLURM job has."""
    for place, knob in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup", place, f"sandbox-test-{os.getpid()}")
        try:
            group.mkdir()
            (group / knob).write_text("150M")
        except OSError:
            if group.exists():
                group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("makes no control groups here")


def test_disk(sandbox: Sandbox) -> None:
    program = (
        "import os\n"
        "def f():\n"
        "    total, largest = 0, 0\n"
        "    for place in ('/tmp', '/', '/dev', '/usr', '/dev/shm', '/var/tmp', '/run'):\n"
        "        for number in range(1000):\n"
        "            try:\n"
        "                with open(f'{place}/{number}', 'wb', 0) as file:\n"
        "                    size = 0\n"
        "                    while (done := file.write(bytes(1 << 16))):\n                        size += done\n"
        "            except OSError as error:\n"
        "                try:\n                    size = os.path.getsize(f'{place}/{number}')\n"
        "                except OSError:\n                    size = 0\n"
        "            total, largest = total + size, max(largest, size)\n"
        "    return (largest, total)\n"
    )
    largest, total = map(int, said(sandbox, program).strip("()").split(", "))
    assert largest == 1 << 20
    assert 8 << 20 < total <= 16 << 20


# -- the host -----------------------------------------------------------------------------------------------


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory of the host that file permissions open to every user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)


def test_the_host_cannot_be_written(sandbox: Sandbox, open_directory: Path) -> None:
    kept = open_directory / "kept"
    kept.write_text("as it was")
    kept.chmod(0o666)
    library = os.path.dirname(os.__file__)
    program = (
        "import os, shutil\n"
        "def f():\n"
        "    done = []\n"
        f"    for path in ({str(kept)!r}, {str(open_directory / 'new')!r}, {library + '/os.py'!r},\n"
        f"                 {library + '/new.py'!r}, '/usr/new', '/etc/new', '/new', {str(ROOT / 'new')!r}):\n"
        "        for write in (lambda: open(path, 'w').write('gone'), lambda: os.remove(path),\n"
        "                      lambda: os.chmod(path, 0o777), lambda: os.rename(path, path + '2'),\n"
        "                      lambda: os.utime(path), lambda: os.mkdir(path)):\n"
        "            try:\n                write()\n                done.append(path)\n"
        "            except OSError:\n                pass\n"
        "    return done\n"
    )
    assert said(sandbox, program) == "[]"
    assert kept.read_text() == "as it was"
    assert list(open_directory.iterdir()) == [kept]
    # Under the jail's own /tmp it may make what it likes, and nothing of it is seen outside.
    made = f"import os\nos.makedirs({str(open_directory)!r}, exist_ok=True)\nopen({str(kept)!r}, 'w').write('gone')\n"
    assert judge(sandbox, made + RIGHT).outcome == "passed"
    assert kept.read_text() == "as it was"


def test_the_host_cannot_be_read(sandbox: Sandbox, open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = open_directory / "secret"
    secret.write_text("of the host")
    secret.chmod(0o666)
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    assert said(sandbox, f"import os\ndef f():\n    return os.path.exists({str(secret)!r})") == "False"
    assert said(sandbox, "import os\ndef f():\n    return dict(os.environ)") == "{}"
    listed = "import os\ndef f():\n    return os.listdir('/')"
    known = {"usr", "lib", "lib32", "lib64", "libx32", "etc", "dev", "tmp"}
    top = {Path(place).parts[1] for place in (sys.base_prefix, os.path.realpath(sys.base_prefix))}
    assert set(eval(said(sandbox, listed))) <= known | top
    for place, inside in {
        "/dev": {"null", "zero", "urandom", "random"},
        "/etc": {"ld.so.cache"},
        "/tmp": set(),
    }.items():
        got = set(eval(said(sandbox, f"import os\ndef f():\n    return os.listdir({place!r})")))
        assert got <= inside | set(Path(sys.base_prefix).parts), place
    for path in ("/proc/1/environ", "/etc/passwd", "/etc/hostname", "/sys", "/root/.ssh", str(ROOT / "README.md")):
        assert said(sandbox, f"import os\ndef f():\n    return os.path.exists({path!r})") == "False"
    assert said(sandbox, "import socket\ndef f():\n    return socket.gethostname()") == "sandbox"


def test_no_network(sandbox: Sandbox) -> None:
    name = f"\0sandbox-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as local:
        local.bind(name)
        local.listen()
        program = (
            "import socket\n"
            "def f():\n"
            "    reached = []\n"
            f"    for family, address in ((socket.AF_INET, {listener.getsockname()!r}),\n"
            f"                            (socket.AF_INET, ('198.51.100.1', 80)), (socket.AF_UNIX, {name!r})):\n"
            "        with socket.socket(family) as client:\n"
            "            client.settimeout(1)\n"
            "            try:\n                client.connect(address)\n"
            "                reached.append(address)\n"
            "            except OSError:\n                pass\n"
            "    return reached\n"
        )
        assert said(sandbox, program) == "[]"
        for server in (listener, local):
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                server.accept()


def test_no_privileges(sandbox: Sandbox) -> None:
    program = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "def f():\n"
        "    done = []\n"
        "    for name in ('setuid(0)', 'setgid(0)', 'setgroups([])', 'chroot(\"/\")', 'nice(-5)'):\n"
        "        try:\n            eval('os.' + name)\n            done.append(name)\n"
        "        except OSError:\n            pass\n"
        "    for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):\n"
        "        if libc.unshare(flag) == 0:\n            done.append(hex(flag))\n"
        "    if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0:\n        done.append('mount')\n"
        "    if libc.umount2(b'/usr', 2) == 0:\n        done.append('umount')\n"
        "    if libc.mount(None, b'/', None, 32 | 4096, None) == 0:\n        done.append('remount')\n"
        "    if libc.prctl(39, 0, 0, 0, 0) != 1:\n        done.append('new privileges')\n"
        "    return done, os.getuid(), os.getgid(), set(os.getgroups()) <= {65534}\n"
    )
    assert said(sandbox, program) == "([], 65534, 65534, True)"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="speaks to the registers of x86-64")
def test_taking_over_init_does_not_outlive_the_jail(sandbox: Sandbox) -> None:
    """A program that makes its init deaf to the death of its keeper, if it can, ends in time all the same."""
    program = (
        "import ctypes, os, time\n"
        "ptrace = ctypes.CDLL(None).ptrace\n"
        "ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]\n"
        "registers = (ctypes.c_ulonglong * 27)()\n"
        "if ptrace(16, 1, None, None) == 0:\n"  # ATTACH
        "    os.waitpid(1, 0x40000000)\n"
        "    ptrace(12, 1, None, registers)\n"  # GETREGS
        "    registers[15] = 0xFFFFFFFFFFFFFFFF\n"  # orig_rax: do not restart the call that it was in
        "    registers[10], registers[14], registers[13] = 157, 1, 0\n"  # prctl(PR_SET_PDEATHSIG, 0)
        "    registers[16] -= 2\n"  # rip: at the syscall instruction again
        "    ptrace(13, 1, None, registers)\n"  # SETREGS
        "    ptrace(9, 1, None, None)\n"  # SINGLESTEP
        "    os.waitpid(1, 0x40000000)\n"
        "time.sleep(60)\n"
    )
    assert judge(sandbox, program, seconds=1).outcome == "timed_out"  # and see nobody_left_behind


def test_it_kills_nobody_outside(sandbox: Sandbox) -> None:
    """Neither what runs beside it as the same user, nor the judgement of the programs after it."""
    user = 65534 if os.getuid() == 0 else os.getuid()
    bystander = subprocess.Popen(["sleep", "60"], user=user if os.getuid() == 0 else None)
    try:
        kill = (
            "import os, signal\n"
            f"for target in (-1, 0, 1, os.getppid(), -os.getpgrp(), *range(2, 400), {bystander.pid}):\n"
            "    if target != os.getpid():\n"
            "        for number in (9, 15, 2):\n"
            "            try:\n                os.kill(target, number)\n"
            "            except OSError:\n                pass\n"
        )
        programs = [(kill, CHECK), (kill + WRONG, CHECK), (RIGHT, CHECK), (WRONG, CHECK)]
        results = sandbox.run(programs, timeout_seconds=10, memory_mb=256)
        assert [verdict.outcome for verdict in results] == ["killed", "killed", "passed", "wrong"]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


# -- the caller ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_caller_dies(sandbox: Sandbox, how: signal.Signals) -> None:
    """Whatever ends the process that asked, the jails end too."""
    ask = (
        # whoever starts the tests in the background has them ignore SIGINT, and children inherit that
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from scripts.evaluation.sandbox import Sandbox\n"
        f"Sandbox({sandbox.backend!r}).run([(f'import time; time.sleep({{i}})', '') for i in (500, 600)], "
        "timeout_seconds=600, memory_mb=256, workers=2)\n"
    )
    before = living_children()
    caller = subprocess.Popen([sys.executable, "-c", ask], cwd=ROOT, stderr=subprocess.DEVNULL)

    def programs() -> int:
        lines = [path for path in Path("/proc").glob("[0-9]*/cmdline") if descends(path.parent, caller.pid)]
        return sum(b"jailed['main']()" in path.read_bytes() for path in lines)

    deadline = time.monotonic() + 60
    while programs() < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    caller.send_signal(how)
    assert caller.wait() != 0
    while living_children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living_children() == before


def descends(process: Path, ancestor: int) -> bool:
    """Whether this entry of /proc is a descendant of `ancestor`."""
    try:
        while process.name not in ("0", "1"):
            if int(process.name) == ancestor:
                return True
            process = process.with_name((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        pass
    return False


# -- finding a backend --------------------------------------------------------------------------------------


def test_a_bubblewrap_that_does_not_work_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("bwrap").write_text("#!/bin/sh\necho 'bwrap: not today' >&2\nexit 1\n")
    tmp_path.joinpath("bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Sandbox("bubblewrap") not in backends()
    with pytest.raises(UserError, match="could not run a program"):
        Sandbox("bubblewrap").run([(RIGHT, CHECK)], timeout_seconds=1, memory_mb=256)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert Sandbox("bubblewrap") not in backends()


def test_a_bubblewrap_that_isolates_nothing_is_not_taken(open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = open_directory / "bwrap"
    fake.write_text('#!/bin/bash\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{open_directory}:{os.environ['PATH']}")
    assert Sandbox("bubblewrap") not in backends()
    assert "of the host" in str(Sandbox("bubblewrap")._defect())


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JAIL", Path("/nonexistent/jail.py"))
    assert backends() == []
    with pytest.raises(UserError, match="install bubblewrap") as error:
        Sandbox.find()
    assert "\n" not in str(error.value)
