"""What runs inside the sandbox: one program and its check, each in a process of its own.

Never imported. `jail.py` hands this over as code on descriptor 6, with the program on 3, the check on 4 and a socket
to the outside on 5. One process judges, its child runs the program. Only the judge has the socket: it says
`started` (limits are set, nothing has run), then `passed` or `<outcome> <error>`, one packet each (`sandbox.Outcome`
says which there are). Whoever ends before that, by whatever exit status, has not passed.

The two share no memory and no descriptor but a pipe each way, and what goes over it is read as plain values and
nothing else. So a program cannot hand over an object that claims to equal everything, walk to the check's frames, or
exchange a builtin or a module that the check uses. Nor does it ever hold the check's text.

- None, bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, range, Fraction and
  Decimal arrive exactly, -0.0 and NaN too. What is derived from one (a Counter, a namedtuple, an IntEnum) arrives as
  that one. The plain types arrive as themselves.
- Anything else arrives as a `Remote`, which can be called, iterated and handed back; it equals itself alone, and has
  neither attributes nor operators.
- An error arrives as its builtin class; one of another class as an empty class of its name, derived from the builtin
  one.
- Where programs may import packages: a number of numpy arrives as the plain one of its value, an array of numbers,
  texts or times as an array.
- What a call changes in a list, dict, set or bytearray that it gets by position is changed for the caller.
- The check's free names are the program's functions and values as its text has left them. A module of the standard
  library, or a package that is there, which the program imported under its own name, is imported by the judge instead.

The two are the same user, so the judge makes itself undumpable before the program starts: then nobody in here, where
nobody has a capability, may trace it or touch its memory.

What remains, as wherever HumanEval runs: a check believes what it asks the program. HumanEval/32, 33, 38 and 50 ask
helpers that the program itself defines; other helpers may please them. A list that a check hands over and looks at
later may have been changed. An honest program fares otherwise than in the check's own interpreter only where the
check relies on `__eq__`, operators or attributes of the program's objects, on two values being one object, on the
program's variables changing under way, or on names that it does not spell out.
"""

import builtins
import marshal
import os
import resource
import select
import sys

# A program shall not find `typing` or `__future__` imported, nor wait for them: `jail.py` leaves annotations alone.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import CodeType
    from typing import Any, NoReturn

# The program may replace these in their modules, and what is held here stays.
read, write, leave, identity = os.read, os.write, os._exit, os.getpid

PROGRAM, CHECK, CONTROL, CODE = 3, 4, 5, 6
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4  # <sys/prctl.h>
NO_MEMORY = 77  # status of a program's process that has no memory left to say so
LONGEST = 1 << 40  # bytes of a message: more than any memory holds
CHANGEABLE = (list, dict, set, bytearray)
PACKAGES = "/packages"  # where those lie that a program may import


def import_and_call(module: str, name: str) -> Callable[[list[Any]], Any]:
    """The constructor of this name, imported when it is called: few programs need it."""
    return lambda items: getattr(__import__(module), name)(*items)


def array_of(items: list[Any]) -> Any:
    """An array of numpy from type, shape and bytes."""
    import numpy

    name, shape, content = items
    kind = numpy.dtype(name)
    if kind.kind not in FLAT:
        raise ValueError(f"an array of {name}")
    return numpy.frombuffer(bytearray(content), kind).reshape(shape) if content else numpy.empty(shape, kind)


# Type to its letter, what one is written as (bytes, or values in turn), and how one is made of that again.
PLAIN: dict[type, tuple[bytes, Callable[[Any], bytes | list[Any]], Callable[[Any], Any]]] = {
    type(None): (b"N", lambda value: b"", lambda text: None),
    bool: (b"B", lambda value: b"1" if value else b"", bool),
    int: (b"I", lambda value: int.__format__(value, "x").encode(), lambda text: int(text, 16)),
    float: (b"F", lambda value: float.hex(value).encode(), lambda text: float.fromhex(text.decode())),
    str: (
        b"S",
        lambda value: str.encode(value, "utf-8", "surrogatepass"),
        lambda text: text.decode("utf-8", "surrogatepass"),
    ),
    bytes: (b"Y", lambda value: b"".join((value,)), bytes),
    bytearray: (b"A", lambda value: b"".join((value,)), bytearray),
    tuple: (b"t", lambda value: [*tuple.__iter__(value)], tuple),
    list: (b"l", lambda value: [*list.__iter__(value)], list),
    set: (b"s", lambda value: [*set.__iter__(value)], set),
    frozenset: (b"z", lambda value: [*frozenset.__iter__(value)], frozenset),
    dict: (
        b"d",
        lambda value: [part for item in dict.items(value) for part in item],
        lambda items: dict(zip(items[::2], items[1::2], strict=True)),
    ),
    complex: (b"c", lambda value: [value.real, value.imag], lambda items: complex(*items)),
    range: (b"r", lambda value: [value.start, value.stop, value.step], lambda items: range(*items)),
}
# The same by the full name of a type: the program has its own copy of its module.
NUMBERS: dict[str, tuple[bytes, Callable[[Any], bytes | list[Any]], Callable[[Any], Any]]] = {
    "fractions.Fraction": (
        b"q",
        lambda value: [value.numerator, value.denominator],
        import_and_call("fractions", "Fraction"),
    ),
    "decimal.Decimal": (b"e", lambda value: [str(value)], import_and_call("decimal", "Decimal")),
    "numpy.ndarray": (b"a", lambda value: [value.dtype.str, value.shape, value.tobytes()], array_of),
}
# Numbers of numpy; its other scalars are derived from plain types.
SCALARS = frozenset(
    f"numpy.{name}"
    for name in (
        *("bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "longlong"),
        *("ulonglong", "float16", "float32", "complex64"),
    )
)
TYPES = {kind.__name__.encode(): kind for kind in PLAIN}
MAKERS = {letter: make for letter, _, make in (*PLAIN.values(), *NUMBERS.values())}
FLAT = "biufcSUmM"  # kinds of numpy's types that hold values and no objects


class Remote:
    """Stands for an object of the other process."""

    __slots__ = ("_line", "_number")

    def __init__(self, line: "Line", number: int) -> None:
        self._line, self._number = line, number

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self._line.ask("call", self._number, values, named)

    def __iter__(self) -> Any:
        return self._line.ask("iter", self._number, (), {})

    def __next__(self) -> Any:
        return self._line.ask("next", self._number, (), {})


class Line:
    """One end of the line between the judge and the program.

    A message is its length in 8 bytes, and then a request (what, number of an object, values, named values) or a
    reply (True, value, changed values by position) or (False, names of the error's classes, its arguments).

    Args:
        incoming, outgoing: descriptors of pipes.
        wait: called before every read; returns when there is something, or the end.
        lost: called when the other end is gone; must not return.
    """

    def __init__(self, incoming: int, outgoing: int, wait: Callable[[], None], lost: Callable[[], NoReturn]) -> None:
        self.incoming, self.outgoing, self.wait, self.lost = incoming, outgoing, wait, lost
        self.own: list[Any] = []  # objects of this end that the other one has heard of, by number
        self.numbers: dict[int, int] = {}  # `id` of such an object to its number
        self.others: dict[int, Remote] = {}  # number of an object of the other end to what stands for it
        self.raised: BaseException | None = None  # the last error of the other end

    def ask(self, what: str, number: int, values: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Have the other end do something, do what it asks meanwhile; return or raise what comes of it."""
        self.send((what, number, values, named))
        while (message := self.receive())[0] not in (True, False):
            self.answer(*message)
        if message[0]:
            _, value, changed = message
            for position, now in changed.items():
                change(values[position], now)
            return value
        error = rebuilt(*message[1:])
        if isinstance(error, StopIteration) and what != "next":
            error = RuntimeError("a call raised StopIteration")  # it must not end the check's `map` early
        self.raised = error
        raise error

    def answer(self, what: str, number: int, values: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Do what the other end asks, and tell it what came of it."""
        process = identity()
        before = {position: self.written(v) for position, v in enumerate(values) if type(v) in CHANGEABLE}
        try:
            thing = self.own[number]
            value = thing(*values, **named) if what == "call" else iter(thing) if what == "iter" else next(thing)
            changed = {at: values[at] for at, text in before.items() if self.written(values[at]) != text}
            text = self.written((True, value, changed))
        except BaseException as error:
            text = self.written((False, ancestry(type(error)), error.args))
        if identity() != process:  # a fork made by the program: only the first process is judged
            leave(1)
        self.send_text(text)

    def send(self, message: tuple[Any, ...]) -> None:
        self.send_text(self.written(message))

    def send_text(self, text: bytes) -> None:
        left = memoryview(len(text).to_bytes(8, "big") + text)
        try:
            while left:
                left = left[write(self.outgoing, left) :]
        except BrokenPipeError:
            self.lost()

    def receive(self) -> Any:
        size = int.from_bytes(self.take(8), "big")
        if size > LONGEST:  # something else than a message
            self.lost()
        return self.read_one(bytes(self.take(size)), 0)[0]

    def take(self, size: int) -> bytearray:
        """So many bytes."""
        text = bytearray()
        while len(text) < size:
            self.wait()
            text += read(self.incoming, min(size - len(text), 1 << 20)) or self.lost()
        return text

    def written(self, value: Any) -> bytes:
        """A value as bytes: its letter, the length of what follows (in bytes, or in values), and that."""
        parts: list[bytes] = []
        self.write_one(value, parts)
        return b"".join(parts)

    def write_one(self, value: Any, parts: list[bytes]) -> None:
        kind = type(value)
        name = f"{kind.__module__}.{kind.__name__}"
        if name in SCALARS:
            value = value.item()
            kind = type(value)
        content: bytes | list[Any]
        way = PLAIN.get(kind) or NUMBERS.get(name)
        if name == "numpy.ndarray" and value.dtype.kind not in FLAT:
            way = None
        if way is None:
            way = next((PLAIN[base] for base in PLAIN if isinstance(value, base)), None)
        if way is not None:
            letter, content_of, _ = way
            content = content_of(value)
        elif kind is Remote:
            letter, content = b"M", b"%d" % value._number
        elif kind is type and value in PLAIN:
            letter, content = b"T", value.__name__.encode()
        else:
            letter, content = b"O", b"%d" % self.number(value)
        parts.append(b"%s%d\n" % (letter, len(content)))
        if isinstance(content, bytes):
            parts.append(content)
        else:
            for item in content:
                self.write_one(item, parts)

    def number(self, value: Any) -> int:
        """That of an object of this end."""
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.own)
            self.own.append(value)
        return self.numbers[id(value)]

    def read_one(self, text: bytes, at: int) -> tuple[Any, int]:
        """The value that is written from here on, and the place behind it."""
        letter, end = text[at : at + 1], text.index(b"\n", at)
        size, at = int(text[at + 1 : end]), end + 1
        content: Any
        if letter.isupper():
            content, at = text[at : at + size], at + size
        else:
            content = []
            for _ in range(size):
                item, at = self.read_one(text, at)
                content.append(item)
        if letter == b"O":
            number = int(content)
            return self.others.setdefault(number, Remote(self, number)), at
        if letter == b"M":
            return self.own[int(content)], at
        return TYPES[content] if letter == b"T" else MAKERS[letter](content), at


def change(value: Any, now: Any) -> None:
    """Make a value of this end what the other end has made of it."""
    if isinstance(value, list | bytearray):
        value[:] = now
    else:
        value.clear()
        value.update(now)


def ancestry(kind: type[BaseException]) -> list[str]:
    """The names of an error's classes up to the first that is a builtin."""
    names = []
    for ancestor in kind.__mro__:
        names.append(ancestor.__name__)
        if ancestor.__module__ == "builtins":
            break
    return names


def rebuilt(names: Sequence[str], values: Sequence[Any]) -> BaseException:
    """An error of the other end."""
    kind: Any = vars(builtins)[names[-1]]
    if not issubclass(kind, BaseException):
        raise TypeError(f"{names[-1]} is no error")
    try:
        if len(names) > 1:
            kind = type(names[0], (kind,), {})
        error: BaseException = kind(*values)
    except Exception:
        return RuntimeError(names[0])
    return error


def free_names(code: CodeType) -> set[str]:
    """Every name that some code or a function in it spells out."""
    inner = [free_names(constant) for constant in code.co_consts if isinstance(constant, type(code))]
    return set(code.co_names).union(*inner)


def run_program(program: str, line: Line) -> NoReturn:
    """Be the process of the program: run its text when asked to, then its functions, until nobody asks any more."""
    module = type(sys)("program")
    sys.modules["program"] = sys.modules["__main__"] = module

    def start(*names: str) -> tuple[dict[str, Any], list[str]]:
        """Values by name, and which are modules."""
        exec(compile(program, "<program>", "exec", 0, True, 0), module.__dict__)
        found = {name: module.__dict__[name] for name in names if name in module.__dict__}
        modules = [name for name, value in found.items() if type(value) is type(sys) and value.__name__ == name]
        return {name: value for name, value in found.items() if name not in modules}, modules

    line.number(start)
    while True:
        line.answer(*line.receive())


def run_check(check: str, handed: Sequence[str], packages: Sequence[str], start: Remote) -> None:
    """Run the check over the program that `start` starts."""
    code = compile(check, "<check>", "exec", 0, True, 0)
    # A builtin's name means the builtin, unless the check itself hands that name over as the candidate:
    # `def all(x): return True` must not soften a check.
    names = free_names(code) - (vars(builtins).keys() - set(handed))
    found, modules = start(*sorted(names))
    scope = {name: found[name] for name in names if name in found}  # the program may have said more
    known = sys.stdlib_module_names.union(packages)
    scope |= {name: __import__(name) for name in names & known if name in modules}
    exec(code, scope | {"__name__": "check", "__builtins__": builtins})


def judge(line: Line) -> None:
    """Be the process of the check, and say on the socket how the program fared."""
    try:
        check, handed, packages = marshal.loads(everything(CHECK))
        run_check(check, handed, packages, Remote(line, 0))
        verdict = b"passed"
    except BaseException as error:
        try:
            name, said = type(error).__name__, str(error)
            detail = f"{name}: {said}" if said else name
        except BaseException:
            detail = "an error that cannot be shown"
        text = f"{kind_of(error, of_program=error is line.raised)} {' '.join(detail.split())[:200]}"
        verdict = text.encode("utf-8", "replace")
    write(CONTROL, verdict)


def kind_of(error: BaseException, *, of_program: bool) -> str:
    """The outcome where an error has ended the check."""
    if isinstance(error, MemoryError):
        return "out_of_memory"
    if isinstance(error, AssertionError) and not of_program:
        return "wrong"
    if isinstance(error, ModuleNotFoundError):
        name = str(error).partition("'")[2].partition("'")[0]  # "No module named 'numpy'"; not 'numpy.none'
        if name.isidentifier() and name not in sys.stdlib_module_names:
            return "missing_package"
    return "killed" if isinstance(error, SystemExit) and of_program else "error"


def end_of(status: os.waitid_result | None) -> str:
    """Outcome and detail where the program's process has ended (None: only its side of the line) unasked."""
    if status is None:
        return "killed broke off before its check returned"
    if status.si_code == os.CLD_EXITED:
        if status.si_status == NO_MEMORY:
            return "out_of_memory MemoryError"
        return f"killed exited with status {status.si_status} before its check returned"
    import signal  # by the judge alone, when it needs it: it takes long

    if status.si_status == signal.SIGXCPU:
        return "timed_out used up its processor time"
    return f"killed died by {signal.Signals(status.si_status).name}"


def everything(descriptor: int) -> bytes:
    """What there is to read, to its end."""
    text = b""
    while block := read(descriptor, 1 << 20):
        text += block
    os.close(descriptor)
    return text


def main() -> NoReturn:
    """Run the program on its descriptor; with it come the packages that it may import, and the limits.

    These are bytes of memory, CPU seconds, processes, bytes of a file.
    """
    program, packages, memory, seconds, processes, file_bytes = marshal.loads(everything(PROGRAM))
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
    os.environ.clear()
    if packages:
        sys.path.append(PACKAGES)
        # Each thread of a BLAS takes address space, and the jail has few threads.
        os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    os.close(CODE)
    asked, asking = os.pipe()
    told, telling = os.pipe()
    child = os.fork()
    if not child:
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        for descriptor in (null, CHECK, CONTROL, asking, told):
            os.close(descriptor)
        try:
            run_program(program, Line(asked, telling, lambda: None, lambda: leave(0)))
        except MemoryError:
            leave(NO_MEMORY)
        finally:
            leave(0)  # no exit handler of the program runs, and none of its threads is waited for
    os.close(asked)
    os.close(telling)

    # After the fork: the program's interpreter is a fresh one. `ctypes` itself takes a third of an interpreter's start.
    from _ctypes import call_function, dlopen, dlsym

    prctl = dlsym(dlopen(None, 0), "prctl")  # type: ignore[arg-type]  # of what this process has loaded
    call_function(prctl, (PR_SET_DUMPABLE, 0, 0, 0, 0))
    if call_function(prctl, (PR_GET_DUMPABLE, 0, 0, 0, 0)) != 0:
        sys.exit("the judge cannot shield its memory")
    poll = select.poll()
    poll.register(told, select.POLLIN)

    def gone() -> os.waitid_result | None:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def lost() -> NoReturn:
        rest = 100
        while not gone() and rest:  # a process that ends closes its pipes a moment before
            select.poll().poll(10)
            rest -= 1
        write(CONTROL, end_of(gone()).encode())
        leave(0)

    def wait() -> None:
        """Until there is something to read; when the program is gone, a child of it may hold the pipe open."""
        while not poll.poll(20):
            if gone() and not poll.poll(0):
                lost()

    write(CONTROL, b"started")
    judge(Line(told, asking, wait, lost))
    leave(0)
