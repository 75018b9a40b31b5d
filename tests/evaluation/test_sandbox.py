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
    assert verdict.outcome == "failed"
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
    ]
    results = sandbox.run(programs, timeout_seconds=10, memory_mb=256, workers=2)
    assert [verdict.outcome for verdict in results] == ["passed"] + ["failed"] * 8
    details = [verdict.detail for verdict in results]
    assert details[0] == ""
    assert details[1] == "AssertionError"
    assert details[2].startswith("SyntaxError: ")
    assert details[3] == "NameError: name 'f' is not defined"
    assert details[4] == "AssertionError: two and one"
    assert details[5] == "IndexError: list index out of range"
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
    assert [verdict.outcome for verdict in both] == ["passed", "failed"]


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
    assert {name: v.outcome for name, v in zip(tricks, results, strict=True)} == dict.fromkeys(tricks, "failed")


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
    assert judge(sandbox, softened + WRONG, check).outcome == "failed"


def test_a_candidate_may_bear_the_name_of_a_builtin(sandbox: Sandbox) -> None:
    program = "def sum(numbers):\n    return 42\n"
    check = "def check(candidate):\n    assert candidate([1]) == 42\n\ncheck(sum)\n"
    assert judge(sandbox, program, check).outcome == "passed"
    assert judge(sandbox, "", check).outcome == "failed"


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
    assert verdict == ProgramResult("timeout", "still running after 0.5 s")


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
    assert [verdict.outcome for verdict in results] == ["timeout", "passed", "passed"]
    assert int(said(sandbox, count)) < 16


def test_memory(sandbox: Sandbox) -> None:
    assert judge(sandbox, "x = bytearray(300 << 20)") == ProgramResult("failed", "MemoryError")
    assert judge(sandbox, "x = bytearray(300 << 20)\n" + RIGHT, memory=512).outcome == "passed"
    assert judge(sandbox, "x = []\nwhile True:\n    x.append(bytearray(1 << 20))").detail == "MemoryError"
    raised = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"
    assert judge(sandbox, raised).detail.startswith(("ValueError", "PermissionError"))


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
    assert judge(sandbox, program, seconds=1).outcome == "timeout"  # and see nobody_left_behind


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
        assert [verdict.outcome for verdict in results] == ["failed", "failed", "passed", "failed"]
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
        return sum(b"What runs inside the sandbox" in path.read_bytes() for path in lines)

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
