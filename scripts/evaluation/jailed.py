"""What runs inside the sandbox: one program, then its check, in one fresh interpreter.

Never imported. `jail.py` hands this text to `python -c`, with the job on descriptor 0 and a socket to the
outside on descriptor 1. Messages go out over that socket, one packet each: `started` (limits are set),
`body` (the program's text has run to its end; the outside answers with a secret token), and then either
`passed <token>` or `failed <error>`. Whoever ends before that, by whatever exit status, has not passed.
"""

import builtins
import marshal
import os
import resource
import sys


def main() -> None:
    """Run the job on descriptor 0.

    It is (program, check, builtins' names that the check hands over, bytes of memory, CPU seconds, processes,
    bytes of a file).
    """
    text = b""
    while block := os.read(0, 1 << 20):
        text += block
    program, check, names, memory, seconds, processes, file_bytes = marshal.loads(text)
    # Set here, inside the namespaces: a limit on processes counts those of this user namespace alone.
    for limit, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_NPROC, processes, processes),
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(limit, (soft, hard))
    control = os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    os.environ.clear()
    # The program may replace any of these in their modules; what is held here it cannot replace by name.
    read, write, leave, identity = os.read, os.write, os._exit, os.getpid
    build, run, kind, words = compile, exec, type, str
    trace, profile, pristine = sys.settrace, sys.setprofile, dict(vars(builtins))
    process = identity()
    module = type(sys)("program")
    sys.modules["program"] = sys.modules["__main__"] = module
    write(control, b"started")
    try:
        run(build(program, "<program>", "exec", 0, True, 0), module.__dict__)
        if identity() != process:  # a fork made by the program: only the first process is judged
            leave(1)
        write(control, b"body")
        token = read(control, 64)
        trace(None)
        profile(None)
        # The check sees the program's names, but a builtin's name means the builtin there, unless the check
        # itself hands that name over as the candidate: `def all(x): return True` must not soften a check.
        scope = {name: value for name, value in module.__dict__.items() if name not in pristine or name in names}
        scope["__name__"], scope["__builtins__"] = "check", pristine
        run(build(check, "<check>", "exec", 0, True, 0), scope)
        if identity() != process:
            leave(1)
        write(control, b"passed " + token)
    except BaseException as error:
        try:
            name, said = kind(error).__name__, words(error)
            detail = f"{name}: {said}" if said else name
        except BaseException:
            detail = "an error that cannot be shown"
        write(control, b"failed " + " ".join(detail.split())[:200].encode("utf-8", "replace"))
    finally:
        leave(0)  # no exit handler of the program runs, and none of its threads is waited for


if __name__ == "__main__":
    main()
