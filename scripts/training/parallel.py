"""Several processes that train one product: who they are, how the model is spread over them, what they agree on.

Every process reads the whole batch, weighs all of its tokens and trains its own share of the rows; gradients are sums
over the processes. So nothing that is learned depends on their number, but for rounding. One process is the same path
without any communication. torch is imported where it is needed: a job that finds its product made needs none.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scripts.common.errors import UserError
from scripts.training import devices

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")
LOCK_PATIENCE = timedelta(days=7)
"""How long the others wait while the first waits for a lock. Who waits for a process that has ended is told at once."""
PATIENCE = timedelta(hours=1)
"""How long a process waits for others at anything else, before it gives up."""
MEETING_PATIENCE = timedelta(minutes=10)
"""How long a process waits for others to start."""
SAY_SECONDS = 10.0
"""After how long a process that waits for others says so."""


@dataclass(frozen=True)
class Group:
    """One process of those that train together; by default, alone.

    `local_rank` and `local_world` count the processes of its machine. `control` is torch's process group for what is
    agreed on while training, `writing` a second one for the thread that writes checkpoints, `orders` the one for what
    the first process tells; None for one process. Who waits at any of them says so, once for each wait.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    control: Any = None
    writing: Any = None
    orders: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reports, commits checkpoints and writes what is kept."""
        return self.rank == 0

    @property
    def device(self) -> "torch.device":
        """The GPU of this process, of those that its machine shows it; the CPU where there is none."""
        device = devices.alone()
        if device.type == "cpu" or self.world == 1:
            return device
        import torch

        return torch.device("cuda", self.local_rank % torch.cuda.device_count())  # a cluster may show each task its own

    @property
    def of_writer(self) -> "Group":
        """The same processes, for a thread of each: what it agrees on does not mix with what training does."""
        return replace(self, control=self.writing)

    def share(self, rows: int) -> slice:
        """This process's rows of a batch. Raises UserError where they cannot be divided evenly."""
        if rows % self.world:
            raise UserError(
                f"a batch of {rows} rows cannot be divided evenly among {self.world} processes; "
                f"start a number of them that divides {rows}"
            )
        size = rows // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def any(self, *wishes: bool) -> list[bool]:
        """Of each wish, whether any process has it."""
        if self.world == 1:
            return list(wishes)
        import torch
        from torch import distributed

        found = torch.tensor(wishes, dtype=torch.int32)
        with self._waiting():
            distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self.control)
        return [bool(wish) for wish in found.tolist()]

    def total(self, values: "Tensor") -> "Tensor":
        """The sum of `values` over all processes, on the CPU and the same bits in each."""
        values = values.cpu()
        if self.world > 1:
            from torch import distributed

            with self._waiting():
                distributed.all_reduce(values, group=self.control)
        return values

    def told(self, message: T) -> T:
        """The `message` of the first process."""
        if self.world == 1:
            return message
        from torch import distributed

        box = [message]
        with nullcontext() if self.is_first else self._waiting("process 0"):
            distributed.broadcast_object_list(box, src=0, group=self.orders)
        return box[0]

    def together(self, act: Callable[[], T]) -> list[T]:
        """What `act` returns in every process, by rank. Where it raises in one, all of them raise that."""
        return self._together(act, self._waiting())

    def _together(self, act: Callable[[], T], waiting: AbstractContextManager[None]) -> list[T]:
        if self.world == 1:
            return [act()]
        from torch import distributed

        outcome: tuple[T | None, Exception | None]
        try:
            outcome = (act(), None)
        except Exception as error:
            outcome = (None, error)
        outcomes: list[Any] = [None] * self.world
        with waiting:
            distributed.all_gather_object(outcomes, outcome, group=self.control)
        for _, failure in outcomes:
            if failure is not None:
                raise failure
        return [result for result, _ in outcomes]

    def in_turn(self, act: Callable[[], T]) -> T:
        """What `act` returns, which the processes of a machine call one after the other. Where it raises, all raise."""
        found: list[T] = []
        mine = self.local_rank % self.local_world
        for turns, whom in (
            (range(mine), "those that load before it"),
            (range(mine, mine + 1), ""),
            (range(mine + 1, self.local_world), "those that load after it"),
        ):
            with self._waiting(whom) if whom else nullcontext():
                for turn in turns:
                    self._together(lambda turn=turn: found.append(act()) if turn == mine else None, nullcontext())  # type: ignore[misc]
        return found[0]

    @contextmanager
    def _waiting(self, whom: str = "the other processes") -> Iterator[None]:
        """Inside it waits for other processes, and says so after SAY_SECONDS."""
        told = threading.Timer(SAY_SECONDS, _say, [f"process {self.rank} of {self.world} is waiting for {whom}"])
        told.daemon = True
        told.start()
        try:
            yield
        finally:
            told.cancel()


ALONE = Group()


@dataclass(frozen=True)
class Place:
    """What a launcher tells a process; at `host` and `port` torch's processes find one another.

    What listens there is the first process, unless the place is `hosted` by the launcher.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    host: str = ""
    port: int = 0
    hosted: bool = False


def place(environment: Mapping[str, str]) -> Place:
    """A process's place by the variables of torchrun and `accelerate launch`, or by those of a task of SLURM's srun.

    Raises UserError where a variable is missing or is no number.
    """
    try:
        if "RANK" in environment:
            world = int(environment["WORLD_SIZE"])
            local_world = int(environment.get("LOCAL_WORLD_SIZE", 1))
            rank, local_rank = int(environment["RANK"]), int(environment["LOCAL_RANK"])
            host, port = (environment["MASTER_ADDR"], int(environment["MASTER_PORT"])) if world > 1 else ("", 0)
            hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            return Place(rank, world, local_rank, local_world, host, port, hosted)
        # SLURM_NTASKS is the allocation's, of which a shell in it is a step with one task
        if "SLURM_STEP_ID" not in environment or (world := int(environment["SLURM_STEP_NUM_TASKS"])) == 1:
            return Place()
        nodes = int(environment["SLURM_STEP_NUM_NODES"])
        port = 20000 + int(environment["SLURM_JOB_ID"]) % 20000  # two jobs on a machine rarely meet
        return Place(
            int(environment["SLURM_PROCID"]),
            world,
            int(environment["SLURM_LOCALID"]),
            1 if world % nodes else world // nodes,
            environment["SLURM_LAUNCH_NODE_IPADDR"],
            port,
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the environment does not say which process this is ({error}); start several processes with torchrun, "
            "accelerate launch or srun"
        ) from None


@contextmanager
def launched() -> Iterator[Group]:
    """The processes that a launcher has started, this one among them; without a launcher it is alone.

    Where another process has ended, this one ends too: the other has said why.
    """
    mine = place(os.environ)
    if mine.world == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    alone = Group(mine.rank, mine.world, mine.local_rank, mine.local_world)
    if alone.device.type == "cuda":
        torch.cuda.set_device(alone.device)
    try:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if alone.device.type == "cuda" else "gloo",
            store=_meet(mine),
            rank=mine.rank,
            world_size=mine.world,
        )
        control, writing, orders = (
            distributed.new_group(backend="gloo", timeout=patience) for patience in (PATIENCE, PATIENCE, LOCK_PATIENCE)
        )
    except (RuntimeError, OSError) as error:
        raise UserError(f"process {mine.rank} of {mine.world} does not find the others ({error})") from error
    try:
        yield replace(alone, control=control, writing=writing, orders=orders)
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        if "timed out" in str(error).lower():
            raise UserError(
                f"process {mine.rank} of {mine.world} gives up: it has waited {PATIENCE} for the others; the same call "
                "goes on from the last checkpoint"
            ) from error
        if mine.rank == 0:
            print(f"error: another process of this job has ended ({error})", file=sys.stderr)
        raise SystemExit(1) from None
    distributed.destroy_process_group()  # not after an error: it could wait for those that go on


def _meet(mine: Place) -> Any:
    """Where all processes have said that they are there. Who waits for others says for whom.

    Raises:
        UserError: one of them has not come within MEETING_PATIENCE.
    """
    from torch import distributed

    began = time.monotonic()
    said = False

    def wait(missing: list[int]) -> None:
        nonlocal said
        waited = time.monotonic() - began
        names = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        if waited > MEETING_PATIENCE.total_seconds():
            raise UserError(
                f"process {mine.rank} of {mine.world} gives up: {names} did not come to {mine.host}:{mine.port} within "
                f"{MEETING_PATIENCE}; start all of them at the same time, by one srun, torchrun or accelerate launch"
            )
        if waited > SAY_SECONDS and not said:
            said = True
            _say(f"process {mine.rank} of {mine.world} is waiting for {names} to come to {mine.host}:{mine.port}")
        time.sleep(0.1)

    listens = mine.rank == 0 and not mine.hosted
    while not listens and not _answers(mine.host, mine.port):
        wait([0])
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        mine.host, mine.port, mine.world, listens, timeout=MEETING_PATIENCE, wait_for_workers=False
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives those that it starts again
    store.set(f"{attempt}-{mine.rank}", "")
    while missing := [rank for rank in range(mine.world) if not store.check([f"{attempt}-{rank}"])]:
        wait(missing)
    return distributed.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]


def _answers(host: str, port: int) -> bool:
    """Whether anything listens there."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def spread(load: "Callable[[], nn.Module]", group: Group, sharded: bool, precision: str) -> "nn.Module":
    """What `load` returns on the group's devices: as it is for one process, else with gradients summed over all.

    Processes of a machine load and spread one after the other: so that only one has all of a model in the machine's
    own memory, where devices have theirs.

    `sharded` spreads the parameters too (FSDP2), within a machine if there are several with several processes each
    (HSDP); without, every process has all of them (DDP), which suits a frozen base. In bf16 the weights of decoder
    layers are gathered in bf16; their masters, what is outside of layers, and gradients stay in fp32.
    """
    if group.world == 1:
        return load().to(group.device)
    if not sharded:
        return _replicated(group.in_turn(lambda: load().to(group.device)))
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    machines, rest = divmod(group.world, group.local_world)
    kind = group.device.type
    if machines > 1 and group.local_world > 1 and not rest:
        mesh = init_device_mesh(kind, (machines, group.local_world), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh(kind, (group.world,))
    # autocast decides what is computed in bf16, as in one process; a cast of inputs would round the loss's weights
    whole = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    halved = replace(whole, param_dtype=torch.bfloat16) if precision == "bf16" else whole

    def shard() -> "nn.Module":
        loaded = load()
        for layer in decoder_layers(loaded):
            fully_shard(layer, mesh=mesh, mp_policy=halved)
        fully_shard(loaded, mesh=mesh, mp_policy=whole)
        return loaded

    objective = group.in_turn(shard)
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    return objective


def _replicated(objective: "nn.Module") -> "nn.Module":
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    def summed(
        _: object,
        bucket: distributed.GradBucket,  # type: ignore[name-defined]  # it is there, but in no list of torch's
    ) -> torch.futures.Future[torch.Tensor]:
        work = distributed.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None
        done: torch.futures.Future[torch.Tensor] = work.get_future().then(lambda future: future.value()[0])
        return done

    wrapped = DistributedDataParallel(objective)
    wrapped.register_comm_hook(None, summed)
    return wrapped


def decoder_layers(model: "nn.Module") -> list[Any]:
    """The layers that are compiled, checkpointed and sharded one by one, in their order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]


def unwrapped(objective: "nn.Module") -> Any:
    """What was loaded, of what `spread` returns."""
    from torch.nn.parallel import DistributedDataParallel

    return objective.module if isinstance(objective, DistributedDataParallel) else objective


def passing(objective: "nn.Module", last: bool) -> AbstractContextManager[object]:
    """For one pass, forward and backward: only the last of a batch sends gradients over all processes.

    Of a sharded model the earlier passes send them too, as nobody has room for all of them, but not between machines.
    """
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(objective, FSDPModule):
        objective.set_requires_all_reduce(last)
    elif isinstance(objective, DistributedDataParallel) and not last:
        return objective.no_sync()
    return nullcontext()


def whole(tensor: "Tensor") -> "Tensor":
    """All of a tensor, which may be spread over the processes; all of them ask for it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, "Tensor"], group: Group) -> dict[str, "Tensor"]:
    """All of every tensor, in the first process alone, on the CPU; one after another, so that a device has room."""
    kept = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if group.is_first:
            kept[name] = full.cpu()
    return kept


def read_like(file: Path, like: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """The tensors of a safetensors file that have names in `like`, each spread over the processes as the one there.

    Raises KeyError where one is missing.
    """
    from safetensors import safe_open
    from torch.distributed.tensor import DTensor, distribute_tensor

    with safe_open(file, framework="pt") as opened:
        missing = sorted(like.keys() - set(opened.keys()))
        if missing:
            raise KeyError(missing[0])
        tensors = {}
        for name, model in like.items():
            tensor = opened.get_tensor(name)
            if isinstance(model, DTensor):  # each has read all of it and keeps its part
                tensor = distribute_tensor(
                    tensor.to(model.device), model.device_mesh, model.placements, src_data_rank=None
                )
            tensors[name] = tensor
    return tensors
