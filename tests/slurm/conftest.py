"""A real SLURM cluster on this machine, for as long as the tests run, and a house whose jobs it gets."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT, House
from tests.forks import interruptible

HERE = Path(__file__).resolve().parent
COMMAND = [str(Path(sys.executable).with_name("snakemake"))]
PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"  # where the daemons are
PROGRAMS = ["slurmctld", "slurmd", "sbatch", "srun", "munged"]


@dataclass(frozen=True)
class Cluster:
    """Two nodes, c1 and c2, each with 8 CPUs and 8 GPUs that are not there."""

    root: Path

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.root / 'bin'}{os.pathsep}{PATH}", "SLURM_CONF": str(self.root / "etc" / "slurm.conf")}

    def __call__(self, *command: str) -> str:
        """What a command of SLURM prints."""
        environment = {**os.environ, **self.environment()}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def lose(self, node: str) -> None:
        """A node loses its power, and what ran there with it; then it comes back.

        The controller would see it in a minute (SlurmdTimeout), and is told at once.
        """
        daemon = self.root / "pid" / f"slurmd-{node}.pid"
        os.kill(int(daemon.read_text()), signal.SIGKILL)
        for process in self._of_jobs(node):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self("scontrol", "update", f"nodename={node}", "state=down", "reason=no power")
        self("slurmd", "-N", node)

    def stop(self) -> None:
        """The controller goes away; jobs go on, and nobody is answered."""
        process = psutil.Process(int((self.root / "pid" / "slurmctld.pid").read_text()))
        self("scontrol", "shutdown", "slurmctld")
        process.wait(60)

    def go_on(self) -> None:
        """The controller is back, with what it knew."""
        self("slurmctld")

    def _of_jobs(self, node: str) -> list[psutil.Process]:
        """The processes that watch the steps on a node, and those of the steps."""
        here = {"SLURMD_NODENAME": node, "SLURM_CONF": self.environment()["SLURM_CONF"]}
        found = []
        for watcher in psutil.process_iter():
            with suppress(psutil.NoSuchProcess):
                if watcher.name() == "slurmstepd":
                    steps = watcher.children(recursive=True)
                    if any(here.items() <= step.environ().items() for step in steps):
                        found += [watcher, *steps]
        return found

    def jobs(self, directory: Path, *states: str) -> dict[str, str]:
        """Number of each job submitted in a directory, those that ended too, to its rule and wildcards."""
        said = self("squeue", "--noheader", f"--states={','.join(states) or 'all'}", "--format=%i|%Z|%k")
        rows = [line.split("|", 2) for line in said.splitlines()]
        return {number: comment for number, where, comment in rows if where == str(directory)}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing := [program for program in PROGRAMS if not shutil.which(program, path=PATH)]:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say(f"SLURM is not on this machine ({', '.join(missing)}); .ci/run says which packages it takes")
    root = tmp_path_factory.mktemp("cluster")
    subprocess.run([HERE / "up.sh", root, str(_ports(3))], check=True)
    yield Cluster(root)
    subprocess.run([HERE / "down.sh", root], check=True)


def _ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    for first in range(42000 + os.getpid() % 10000, 60000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise OSError("no free ports")


@dataclass
class ClusterHouse(House):
    """A house whose jobs a cluster gets, by the profile as it is shipped."""

    cluster: Cluster | None = None
    programs: Path | None = None
    """A directory with programs that stand before SLURM's own."""

    @property
    def forks(self) -> bool:
        return False  # the cluster signals the processes of a job

    def environment(self) -> dict[str, str]:
        assert self.cluster
        site = {"ACCOUNT": "none", "PARTITION": "gpu", "GPU_TYPE": "h100", "POLL_SECONDS": "1"}
        said = {f"FORGETTING_{name}": value for name, value in site.items()}
        environment = super().environment() | self.cluster.environment() | said | {"OMP_NUM_THREADS": "1"}
        if self.programs:
            environment["PATH"] = f"{self.programs}{os.pathsep}{environment['PATH']}"
        return environment

    def command(self, *targets: str) -> list[str]:
        fig2 = [] if any("/" in target for target in targets) or "--unlock" in targets else ["results/figures/fig2.pdf"]
        options = [target for target in targets if "=" in target]
        others = [target for target in targets if "=" not in target]
        config = ["--config", f"study={self.study}", f"store={self.store_root}", *options]
        return [sys.executable, str(HERE / "head.py"), *fig2, *others, "--profile", "slurm", *config]

    def snakemake(self, *arguments: str, ok: bool = True) -> str:
        return self.python(*self.command(*arguments)[1:], ok=ok)

    def locally(self) -> House:
        """The same house, its jobs run by Snakemake itself."""
        return House(self.root, self.store_root, self.study, self.standins)


@pytest.fixture
def settle(prepared: House, cluster: Cluster, tmp_path: Path) -> Callable[[str], ClusterHouse]:
    """Copies the house that has its data and base model to the cluster; the argument names its quick modules."""

    def make(standins: str) -> ClusterHouse:
        house = prepared.copy(tmp_path)
        (house.root / "slurm").symlink_to("profiles/slurm")
        return ClusterHouse(house.root, study=house.study, standins=standins, cluster=cluster)

    return make


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has of this checkout, without results."""
    from tests.conftest import copy_checkout

    root = copy_checkout(ROOT, tmp_path_factory.mktemp("checkout") / "house")
    (root / "slurm").symlink_to(os.readlink(ROOT / "slurm"))
    return root


class Head:
    """A Snakemake that runs in the background, and what it says."""

    def __init__(self, house: ClusterHouse, *arguments: str) -> None:
        self.house = house
        self.log = house.root / "head.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                house.command(*arguments),
                cwd=house.root,
                env=house.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=interruptible,
            )

    def wait(self, status: int = 0, seconds: float = 400) -> str:
        """Waits for its end, and returns all that was said in this house."""
        try:
            assert self.process.wait(seconds) == status, self.said
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running:\n{self.said}")
        return self.said

    @property
    def said(self) -> str:
        return self.log.read_text()

    def until(self, true: Callable[[], object], what: str, seconds: float = 400) -> None:
        """Waits until something is true that this head is to bring about."""
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"it ended before: {what}\n{self.said}"
            assert time.monotonic() < end, f"waited in vain: {what}\n{self.said}"
            time.sleep(0.5)


@pytest.fixture
def start() -> Iterator[Callable[..., Head]]:
    """Starts heads; those that a test leaves running are interrupted, which cancels their jobs."""
    heads: list[Head] = []

    def begin(house: ClusterHouse, *arguments: str) -> Head:
        heads.append(Head(house, *arguments))
        return heads[-1]

    yield begin
    for head in heads:
        if head.process.poll() is None:
            head.process.send_signal(signal.SIGINT)
            try:
                head.process.wait(60)
            except subprocess.TimeoutExpired:
                head.process.kill()


def trainers(root: Path) -> dict[int, str]:
    """Process ids of the trainers that work in a directory, to the name of their parent's program."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if words and words[0].endswith("python") and "scripts.training.train" in words:
                parent = process.parent()
                if parent and process.cwd() == str(root):
                    found[process.pid] = parent.name()
    return found


def held(root: Path) -> dict[Path, str]:
    """The files of the attempts that wait, to the fingerprints of what they train. Who deletes a file frees one."""
    living = trainers(root)
    found = {path: path.name.split(".") for path in (root / "held").iterdir()}
    return {path: fingerprint for path, (fingerprint, process) in found.items() if int(process) in living}


def files(house: House) -> dict[str, Any]:
    """Of each leg and run, the hashes of its weights."""
    return {key: manifest["files"] for place in ("legs", "runs") for key, manifest in house.manifests(place).items()}


def snakemake(root: Path, line: str, **variables: str) -> tuple[int, str]:
    """Runs a line as a person types it, in a shell that knows nothing of this project; its status, and what it said."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FORGETTING_", "SLURM"))}
    environment.pop("PYTHONPATH", None)
    assert line.startswith("snakemake ")
    done = subprocess.run(
        [*COMMAND, *line.split()[1:]],
        cwd=root,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
