"""The supervisor of the sandbox: starts one jail a program, times it, ends it, and says how it went.

Never imported: `sandbox.py` starts it with a bare interpreter (`python -I -S`), because forking is cheap from
a small process and wrong from one that holds torch and its threads, and because privileges are given up here,
before anything that is not trusted is near. As root it becomes `nobody` first. It reads one request (a line
with the length, then JSON) on stdin and writes one JSON line for each judged program: [number, outcome,
detail]; or one line {"error": ...} when a jail cannot be started. It ends, with all that it started, when
stdin closes or its parent dies.

Both kinds of jail end up the same: own user, mount, pid, network, ipc, uts and cgroup namespaces, a read-only
root that holds the interpreter and system libraries only, a small private /tmp, no /proc, no capability, no
new privileges, no further user namespaces, and an init process whose end is the end of everything inside.
"""

import __future__

import contextlib
import ctypes
import fcntl
import json
import marshal
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# <sched.h>, <sys/mount.h>, <sys/prctl.h>
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 1 << 10, 1 << 11, 1 << 21
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
# statvfs(3) flag -> mount(2) flag: a remount must keep what the mount already has
KEPT = (
    (os.ST_NOSUID, MS_NOSUID),
    (os.ST_NODEV, MS_NODEV),
    (os.ST_NOEXEC, MS_NOEXEC),
    (os.ST_NOATIME, MS_NOATIME),
    (os.ST_NODIRATIME, MS_NODIRATIME),
    (os.ST_RELATIME, MS_RELATIME),
)

INNER_ID = 65534  # user and group inside the jail; outside, it is whoever runs the supervisor
PROCESSES = 17  # processes and threads in one jail, its three or four own ones included
FILE_BYTES = 1 << 20  # of one file
DISK_BYTES = 16 << 20  # of /tmp
# What the judge may say, beside `passed`.
JUDGED = ("wrong", "error", "missing_package", "timed_out", "out_of_memory", "killed")
UNSEEN_END = "ended before its check returned"
SHOT = (UNSEEN_END, "died by SIGKILL")  # what the judge, or its end, says of a process that the kernel may have taken
START_SECONDS = 60.0  # for a jail to be ready; the program's own time starts after that
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
OPTIONS = ("-s", "-P", "-S", "-B")  # not -I: a fixed hash seed makes a program's verdict the same every time
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
# `jailed.py`, compiled once for all jails: that takes as long as half the start of an interpreter.
START = "import marshal, os; jailed = {}; exec(marshal.loads(os.read(6, 1 << 20)), jailed); jailed['main']()"

Request = dict[str, Any]

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """Call a function of libc that returns 0; raise OSError where it does not."""
    texts = [os.fsencode(a) if isinstance(a, str) else a for a in arguments]
    longs = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in texts]
    if getattr(libc, name)(*longs) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    call("mount", source, target, kind, flags, data)


def mount_points(under: str) -> list[str]:
    """`under`, and every mount point below it, as the kernel lists them."""
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            point = line.split()[4]
            for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                point = point.replace(code, character)
            if point.startswith(under + "/"):
                points.append(point)
    return [under, *points]


def give_up_root(request: Request) -> None:
    """Become `nobody`, and keep interpreter and packages in sight: they may lie in a home that only root may enter.

    Each directory that closes the way (`request["hidden"]`) is covered, in a mount namespace of this process,
    by an empty one in which the directories of these (`request["kept"]`) alone appear, at their usual paths.
    """
    if request["hidden"]:
        call("unshare", CLONE_NEWNS)
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        kept = {path: os.open(path, os.O_PATH) for path in request["kept"]}
        for directory in request["hidden"]:
            mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
        for path, descriptor in kept.items():
            os.makedirs(path, exist_ok=True)
            mount(f"/proc/self/fd/{descriptor}", path, None, MS_BIND | MS_REC)
            os.close(descriptor)
    try:
        os.setgroups([])
        os.setresgid(INNER_ID, INNER_ID, INNER_ID)
        os.setresuid(INNER_ID, INNER_ID, INNER_ID)
    except OSError as error:
        raise OSError(error.errno, "root cannot become an ordinary user here") from error
    call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self, with the id maps, still belongs to root


def bubblewrap(request: Request) -> NoReturn:
    """Become bubblewrap, which becomes the jail."""
    command = [request["bubblewrap"], "--unshare-all", "--unshare-user", "--disable-userns"]
    command += ["--uid", str(INNER_ID), "--gid", str(INNER_ID), "--hostname", "sandbox", "--cap-drop", "ALL"]
    command += ["--die-with-parent", "--new-session", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--perms", "1777", "--size", str(DISK_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    for path, source in request["shown"].items():
        link = os.path.islink(source)
        command += ["--symlink", os.readlink(source), path] if link else ["--ro-bind", source, path]
    for path in DEVICES:
        command += ["--dev-bind", path, path]
    command += ["--remount-ro", "/", "--", *request["command"]]
    os.execv(command[0], command)


def namespaces(request: Request) -> NoReturn:
    """Become the keeper of a jail made of the same namespaces by the system calls themselves."""
    user, group = os.getuid(), os.getgid()
    everything = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP
    call("unshare", CLONE_NEWUSER | everything)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INNER_ID} {user} 1"),
        ("gid_map", f"{INNER_ID} {group} 1"),
    ):
        Path("/proc/self", name).write_text(text)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    call("sethostname", b"sandbox", 7)
    build_root(request["shown"])
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    alive, held = os.pipe()  # `held` stays open as long as this keeper lives
    init = os.fork()
    if init:
        os.closerange(0, held)
        _, status = os.waitpid(init, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.close(held)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.set_blocking(alive, False)
    try:
        os.read(alive, 1)
        os._exit(1)  # the keeper died before its death could be a signal
    except BlockingIOError:
        os.setsid()
    program = os.fork()
    if not program:
        # Executing as a user that is not 0 in here drops every capability, and no_new_privs keeps them away.
        os.execve(request["command"][0], request["command"], ENVIRONMENT)
    os.closerange(0, 1 << 16)
    while True:
        ended, status = os.wait()
        if ended == program:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def build_root(shown: dict[str, str]) -> None:
    """Make a read-only root with `shown` (by its path there), the devices and /tmp in it, and enter it."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    links = {path: os.readlink(source) for path, source in shown.items() if os.path.islink(source)}
    solid = {path: source for path, source in shown.items() if path not in links}
    points = {path: [path + p[len(source) :] for p in mount_points(source)] for path, source in solid.items()}
    # Opened first: mounting the new root over /tmp may hide them.
    sources = {
        path: os.open(source, os.O_PATH) for path, source in [*solid.items(), *((path, path) for path in DEVICES)]
    }
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.chdir("/tmp")
    os.mkdir("./tmp")
    mount("tmpfs", "./tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={DISK_BYTES},mode=1777")
    for path, descriptor in sources.items():
        os.makedirs("." + os.path.dirname(path), exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            os.makedirs("." + path, exist_ok=True)
        else:
            Path("." + path).touch()
        mount(f"/proc/self/fd/{descriptor}", "." + path, None, MS_BIND | MS_REC)
        os.close(descriptor)
        for point in points.get(path, []):
            has = os.statvfs("." + point).f_flag
            kept = sum(flag for bit, flag in KEPT if has & bit)
            mount(None, "." + point, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | kept)
    for path, target in links.items():
        os.symlink(target, "." + path)
    mount(None, ".", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    call("pivot_root", ".", ".")
    call("umount2", ".", MNT_DETACH)
    os.chdir("/tmp")


JAILS: dict[str, Callable[[Request], NoReturn]] = {"bubblewrap": bubblewrap, "namespaces": namespaces}


@dataclass
class Jail:
    """One running jail."""

    number: int
    process: int
    control: socket.socket
    errors: int
    deadline: float
    oom_kills: int
    started: bool = False

    @classmethod
    def start(cls, request: Request, number: int) -> "Jail":
        """Fork a jail for the program with this number."""
        program, check, names = request["programs"][number]
        seconds = int(request["timeout_seconds"]) + 2  # a backstop: the clock outside is first
        limits = (request["memory_mb"] << 20, seconds, PROCESSES, FILE_BYTES)
        packages = request["packages"]
        jobs = [memory_file(job) for job in ((program, packages, *limits), (check, names, packages))]
        code = memory_file(request["code"])
        inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        readable, writable = os.pipe()
        supervisor = os.getpid()
        process = os.fork()
        if not process:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != supervisor:
                    os._exit(1)
                null = os.open("/dev/null", os.O_RDONLY)
                # First out of the way of their places. Those from 3 up an init does not keep, which a program may
                # take over: it must not find the socket there.
                sources = (null, writable, writable, *jobs, inside.fileno(), code)
                for target, source in enumerate([fcntl.fcntl(source, fcntl.F_DUPFD, 16) for source in sources]):
                    os.dup2(source, target)
                os.closerange(len(sources), 1 << 16)
                JAILS[request["backend"]](request)
            except BaseException as error:
                os.write(2, str(error).encode("utf-8", "replace"))
            finally:
                os._exit(70)
        for descriptor in (*jobs, code, writable):
            os.close(descriptor)
        inside.close()
        for descriptor in (outside.fileno(), readable):
            os.set_blocking(descriptor, False)
        return cls(number, process, outside, readable, time.monotonic() + START_SECONDS, oom_kills())

    def listen(self, timeout_seconds: float) -> tuple[str, str] | None:
        """Take one message from inside; the verdict if it brings one."""
        try:
            message = self.control.recv(4096)
        except BlockingIOError:
            return None
        except OSError:
            message = b""
        if message == b"started" and not self.started:
            self.started = True
            self.deadline = time.monotonic() + timeout_seconds
            return None
        if message == b"passed" and self.started:
            return "passed", ""
        kind, _, detail = message.decode("utf-8", "replace").partition(" ")
        if kind not in JUDGED:
            kind, detail = "killed", UNSEEN_END
        if kind == "killed" and detail in SHOT and oom_kills() > self.oom_kills:
            kind, detail = "out_of_memory", "the machine ran out of memory"
        return kind, detail[:200]

    def complaint(self) -> str:
        """What a jail that did not start has said on stderr."""
        try:
            said = os.read(self.errors, 4096).decode("utf-8", "replace").strip().splitlines()
        except BlockingIOError:
            said = []
        return said[-1][:300] if said else "it ended without a word"

    def end(self) -> None:
        """Kill the jail's keeper."""
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        self.control.close()
        os.close(self.errors)


def oom_kills() -> int:
    """How many processes of this machine the kernel has killed because memory ran out, since it started."""
    with open("/proc/vmstat", encoding="ascii") as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def memory_file(content: Any) -> int:
    """A descriptor from which this can be read once."""
    descriptor = os.memfd_create("job")
    os.write(descriptor, marshal.dumps(content))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def say(message: object) -> None:
    """One line of JSON on stdout."""
    os.write(1, json.dumps(message).encode() + b"\n")


def end_orphans(running: list[Jail]) -> int:
    """Kill every child that is no running jail's keeper; the number of those that are not dead yet.

    A keeper's death is the signal for the init inside to die, but a program may have taken over bubblewrap's
    init (same user, so it can trace it) and made it deaf. Orphans become children of this process, so whoever
    is here and is no keeper has lost one.
    """
    me = os.getpid()
    children = map(int, Path(f"/proc/{me}/task/{me}/children").read_text().split())
    orphans = set(children) - {jail.process for jail in running}
    for orphan in orphans:
        os.kill(orphan, signal.SIGKILL)
    return sum(os.waitpid(orphan, os.WNOHANG)[0] == 0 for orphan in orphans)


def supervise(request: Request) -> None:
    """Judge every program of the request, `workers` at a time."""
    waiting = list(range(len(request["programs"])))[::-1]
    again: set[int] = set()
    running: list[Jail] = []
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)

    def finish(jail: Jail) -> None:
        selector.unregister(jail.control)
        running.remove(jail)
        jail.end()
        end_orphans(running)

    try:
        while waiting or running:
            while waiting and len(running) < request["workers"]:
                jail = Jail.start(request, waiting.pop())
                running.append(jail)
                selector.register(jail.control, selectors.EVENT_READ, jail)
            wait = min(jail.deadline for jail in running) - time.monotonic()
            heard = [key.data for key, _ in selector.select(max(0.0, wait))]
            if None in heard:  # the caller is gone
                return
            for jail in list(running):
                verdict = jail.listen(request["timeout_seconds"]) if jail in heard else None
                if verdict is None and time.monotonic() >= jail.deadline:
                    verdict = ("timed_out", f"still running after {request['timeout_seconds']:g} s")
                if verdict is None:
                    continue
                if jail.started:
                    say([jail.number, *verdict])
                elif jail.number in again:
                    say({"error": jail.complaint()})
                    return
                else:  # nothing of the program has run: the machine may be short of processes for a moment
                    again.add(jail.number)
                    waiting.append(jail.number)
                finish(jail)
    finally:
        for jail in list(running):
            finish(jail)
        until = time.monotonic() + 10
        while end_orphans([]) and time.monotonic() < until:
            time.sleep(0.001)


def stop(*_: object) -> NoReturn:
    """End in order: `finally` clauses run."""
    raise SystemExit(1)


def main() -> None:
    """Read the request, give up every privilege, judge."""
    caller = os.getppid()
    os.umask(0o022)
    os.chdir("/")
    size = b""
    while not size.endswith(b"\n"):
        size += os.read(0, 1) or stop()
    text = b""
    while len(text) < int(size):
        text += os.read(0, int(size) - len(text)) or stop()
    request = json.loads(text)
    inner = Path(__file__).with_name("jailed.py")
    later = __future__.annotations.compiler_flag
    request["code"] = compile(inner.read_text(encoding="utf-8"), inner.name, "exec", later)
    request["command"] = [request["python"], *OPTIONS, "-c", START]
    try:
        if os.geteuid() == 0:
            give_up_root(request)
        # Where memory runs out, the kernel shall take what runs in here before anything else.
        Path("/proc/self/oom_score_adj").write_text("1000")
        signal.signal(signal.SIGTERM, stop)
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        call("prctl", PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except OSError as error:
        say({"error": str(error)})
        return
    if os.getppid() != caller:
        return
    with contextlib.suppress(BrokenPipeError):  # the caller no longer listens
        supervise(request)


if __name__ == "__main__":
    main()
