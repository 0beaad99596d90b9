"""`launcher.init()` and the Context that training scripts hold.

Owns the public face: where this rank stands, the argument checks, the request to stop, and the end
at exit. The same script runs alone, under this launcher, torchrun, mpirun and srun. Knows nothing
of the library below, which stands in dist.py and is loaded by init().
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Any, TypeVar

from launcher.contract.files import joined_file
from launcher.errors import UsageError
from launcher.starters.detect import detect, restart_count
from launcher.worker.pace import Pacer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from launcher.ranks import Place
    from launcher.worker.dist import Device, Module, Tensor, TorchGroup

    Value = TypeVar("Value", Tensor, float)

T = TypeVar("T")

BACKENDS = ("auto", "nccl", "gloo", "mpi", "horovod")
_OPS = ("mean", "sum", "min", "max")

# Backends that take no timeout, and what to do without.
_WITHOUT_TIMEOUT = {
    "horovod": "Horovod; set HOROVOD_GLOO_TIMEOUT_SECONDS",
    "mpi": "MPI, which waits without end; leave it out",
}

_current: Context | None = None


def init(backend: str = "auto", timeout_s: float | None = None) -> Context:
    """Join the run that this process belongs to and return its Context; alone, that is rank 0 of 1.

    backend: "nccl" (GPUs), "gloo" (CPU), "horovod", "mpi" (CPU, where torch was built with MPI and
        mpirun started the ranks), or "auto": the one given by `python -m launcher --backend`, else
        nccl where torch sees a GPU, else gloo.
    timeout_s: seconds for which a collective may wait for the other ranks; without it, torch's
        default. Not with Horovod and MPI, which have no such argument.

    Waits until all ranks have called it. With nccl, the rank's own GPU becomes torch's current
    device. A second call returns the same Context. A process group that the script has initialised
    before is used, and left to the script to destroy; one that this function makes is destroyed at
    exit.

    Raises UsageError for a bad argument, or for environment variables that contradict each other;
    LauncherError when torch, a GPU or the other ranks are missing.
    """
    global _current
    backend = _agree_on_backend(backend, os.environ.get("LAUNCHER_BACKEND") or "auto")
    if timeout_s is not None and not timeout_s > 0:
        raise UsageError(f"timeout_s={timeout_s!r} must be more than 0 seconds.")
    if _current is not None:
        if backend not in ("auto", _current.backend):
            raise UsageError(
                f"init(backend={backend!r}) after an init() that chose {_current.backend!r}."
            )
        return _current
    place = detect(os.environ)
    _current = Context(place, _make_group(place, backend, timeout_s))
    _note_joined()
    return _current


def _note_joined() -> None:
    """Leave to the launcher's timeline when the ranks had come together."""
    error_file = os.environ.get("LAUNCHER_ERROR_FILE")
    if error_file:
        with suppress(OSError), open(joined_file(error_file), "w"):
            pass


def _make_group(place: Place, backend: str, timeout_s: float | None) -> TorchGroup:
    if timeout_s is not None and backend in _WITHOUT_TIMEOUT:
        raise UsageError(
            f"timeout_s={timeout_s!r} has no meaning with {_WITHOUT_TIMEOUT[backend]}."
        )
    if backend == "horovod":
        from launcher.worker import horovod_group

        return horovod_group.make_group(place, os.environ)
    from launcher.worker import dist

    return dist.make_group(place, os.environ, backend, timeout_s)


class Context:
    """This rank's place in the run, and what it does together with the other ranks.

    Made by launcher.init(). A method marked "Collective" must be called by all ranks, in the same
    order: a rank that leaves one out keeps the others waiting. With one rank, each of them returns
    at once.
    """

    def __init__(self, place: Place, group: TorchGroup) -> None:
        import atexit

        self._group = group
        self._pid = os.getpid()
        self._pacer = Pacer(os.environ.get("LAUNCHER_ERROR_FILE"))
        self._stop = _StopRequest()
        self.rank: int = group.rank
        """Index of this worker in the whole run, from 0."""
        self.world_size: int = group.world_size
        """Number of workers in the whole run."""
        same = (place.rank, place.world_size) == (group.rank, group.world_size)
        self.local_rank: int = place.local_rank if same else group.device.index or 0
        """Index of this worker on its node, from 0; 0 on all ranks with --virtual-local-rank."""
        self.local_world_size: int = place.local_world_size if same else group.world_size
        """Number of workers on this node."""
        self.node_rank: int = place.node_rank
        """Index of this worker's node, from 0."""
        self.device: Device = group.device
        """This rank's torch.device: with nccl its own GPU, with gloo and mpi the CPU, with horovod
        its own GPU where torch sees any.
        """
        self.backend: str = group.backend
        """"nccl", "gloo", "mpi" or "horovod"; alone, the one that several ranks would use here."""
        self.restart_count: int = restart_count(os.environ)
        """How many times the workers were started again, by the launcher, torchrun or Slurm's
        requeue; 0 in the first attempt.
        """
        self.run_id: str | None = os.environ.get("LAUNCHER_RUN_ID") or None
        """Id of the run under the launcher, else None."""
        self.run_dir: str | None = os.environ.get("LAUNCHER_RUN_DIR") or None
        """Absolute path of the run's folder where `python -m launcher` has started the ranks and
        could make one, else None.
        """
        atexit.register(self._at_exit)

    def __repr__(self) -> str:
        return (
            f"<launcher.Context rank {self.rank} of {self.world_size} on {self.device},"
            f" {self.backend}>"
        )

    @property
    def mpi(self) -> Any:
        """mpi4py's COMM_WORLD, for ranks that MPI has started; alone, a communicator of one rank.

        Ranks of mpirun and of `srun --mpi=pmix` are such ranks.

        Its first use imports mpi4py, which initialises MPI. Raises LauncherError where MPI did not
        start the ranks, mpi4py is missing, or it uses another MPI than mpirun.
        """
        from launcher.worker import mpi_world

        return mpi_world.communicator(self.rank, self.world_size, os.environ)

    @property
    def is_main(self) -> bool:
        """True on rank 0, the one that prints and saves."""
        return self.rank == 0

    def wrap(self, model: Module, **ddp_kwargs: Any) -> Module:
        """Return the model on its device, for several ranks in DistributedDataParallel. Collective.

        ddp_kwargs: go to DistributedDataParallel, for example find_unused_parameters=True;
            gradient_as_bucket_view is True unless it is given.

        All ranks start from rank 0's weights. A model without trainable parameters is not wrapped,
        and neither is one with Horovod, whose averaging is in the optimizer: wrap_optimizer().

        On the CPUs of one node, gradients are averaged through memory that the ranks share, as in
        all_reduce(), unless the script calls register_comm_hook() before the first forward pass.
        """
        return self._group.wrap(model, ddp_kwargs)

    def unwrap(self, model: Module) -> Module:
        """Return the model that was given to wrap(): the one whose state_dict() is to be saved.

        This goes through torch.compile, too.
        """
        return self._group.unwrap(model)

    def wrap_optimizer(self, optimizer: T, model: Module) -> T:
        """Return the optimizer to use with the wrapped model. Collective with Horovod.

        It is Horovod's DistributedOptimizer, or the same one.

        model: the one that wrap() has returned. Call this after wrap(), and use what it returns; a
            script that does both runs with every backend.
        """
        wrapped: T = self._group.wrap_optimizer(optimizer, model)
        return wrapped

    def all_reduce(self, value: Value, op: str = "mean") -> Value:
        """Combine one value of each rank, and return the result on all ranks. Collective.

        value: a tensor, of the same shape and type on all ranks, or a Python number.
        op: "mean", "sum", "min" or "max"; UsageError for anything else.

        A tensor gives a new tensor of the same shape, on the same device, without gradient; it goes
        element by element. A number gives a number, exact up to 2**53. A mean of integers is a
        float. Half precision is summed in float32, and returned in the type that was given.

        Numbers and tensors of the CPU go through memory that the ranks share, where all of them are
        on one node and can see each other's files under /proc; else, or with
        LAUNCHER_SHARED_MEMORY=0 in the environment, through sockets. Up to 34 MB of memory are
        taken for that, from the first calls on.
        """
        if op not in _OPS:
            raise UsageError(f"all_reduce(op={op!r}): use one of {', '.join(map(repr, _OPS))}.")
        is_tensor = hasattr(value, "detach")  # tells one without naming its library
        with self._pacer.waiting():
            result: Value = (
                self._group.reduce_tensor(value, op)
                if is_tensor
                else self._group.reduce_number(value, op)
            )
        return result

    def all_gather(self, value: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks as a list, in order of rank. Collective.

        value: a tensor of the same type on all ranks, of up to 15 dimensions (UsageError beyond);
            shapes may differ. Results are on the same device, without gradient.
        """
        with self._pacer.waiting():
            return self._group.all_gather(value)

    def broadcast_object(self, value: T, src: int = 0) -> T:
        """Return on every rank the object that rank src passed. Collective.

        value: anything that can be pickled; what the other ranks pass does not matter. UsageError
            when there is no rank src.
        """
        with self._pacer.waiting():
            result: T = self._group.broadcast_object(value, src)
        return result

    def gather_object(self, value: T, dst: int = 0) -> list[T] | None:
        """Return the objects of all ranks, in their order, on rank dst; elsewhere None. Collective.

        value: anything that can be pickled. UsageError when there is no rank dst.
        """
        with self._pacer.waiting():
            return self._group.gather_object(value, dst)

    def barrier(self) -> None:
        """Wait until all ranks are here. Collective.

        Does not wait for work that is queued on a GPU: torch.cuda.synchronize() does.
        """
        with self._pacer.waiting():
            self._group.barrier()

    def print(self, *values: object, sep: str = " ", end: str = "\n") -> None:
        """Print on rank 0 only, like the built-in function, and flush. Not collective."""
        if self.is_main:
            print(*values, sep=sep, end=end, flush=True)

    def stopping(self) -> bool:
        """Tell whether the run was asked to stop, so that the script saves and ends. Collective.

        The first call takes SIGTERM over: from then on it no longer ends this process but makes
        this method return True, on all ranks in the same call, for good. A script that never calls
        it dies of SIGTERM as usual; a handler of the script's own stays. Ctrl-C raises
        KeyboardInterrupt as ever. Call it once per step: one message of 16 bytes per rank, 0.1 to
        0.3 ms on one node, no wait for the GPU. Make the first call from the main thread, the only
        one where Python can take a signal over.
        """
        self._stop.watch()
        if not self._stop.agreed:
            with self._pacer.waiting():
                agreed = self._group.reduce_number(int(self._stop.requested), "max")
            self._stop.agreed = bool(agreed)
        return self._stop.agreed

    def heartbeat(self) -> None:
        """Say that this rank makes progress, whatever it prints; to be called once per step.

        Once a rank has called it, `--hang-timeout` watches these calls instead of output and CPU
        time, until the script ends or calls close(); `ctl ps`, `ctl top` and `--stats` show steps
        and who comes last to the same step. The best place for that is in front of what the ranks
        do together, `loss.backward()` as a rule. Costs a system call at most twice a second, and
        does nothing where `python -m launcher` has not started the ranks. Not collective.
        """
        self._pacer.beat()

    def close(self) -> None:
        """Leave the run: destroy the process group if init() made it. Happens by itself at exit.

        What is still under way is finished first, which can mean waiting for other ranks. At the
        exit of a rank that an exception ends, nothing waits. No collective method may be called
        after it.
        """
        global _current
        if os.getpid() != self._pid:  # a fork of the script's must not end the group of its parent
            return
        import atexit

        atexit.unregister(self._at_exit)
        # Output and CPU time count again: nobody calls heartbeat() while python ends.
        self._pacer.close()
        self._stop.unwatch()  # waiting for the other ranks below can be ended by SIGTERM again
        if _current is self:
            _current = None
        self._group.close()

    def _at_exit(self) -> None:
        # Set by the interpreter when an exception ends the script.
        if getattr(sys, "last_value", None) is not None and os.getpid() == self._pid:
            self._group.abandon()
        self.close()


class _StopRequest:
    """SIGTERM as a flag, from the first watch() on."""

    def __init__(self) -> None:
        self.requested = False
        self.agreed = False
        self._watched: bool | None = None

    def watch(self) -> None:
        import threading

        if self._watched is not None:
            return
        in_main = threading.current_thread() is threading.main_thread()
        self._watched = in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if self._watched:
            signal.signal(signal.SIGTERM, self._note)

    def unwatch(self) -> None:
        is_ours = self._watched and signal.getsignal(signal.SIGTERM) == self._note
        if is_ours and not sys.is_finalizing():
            with suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def _agree_on_backend(argument: str, option: str) -> str:
    """Return the backend on which the script's argument and the command line's option agree."""
    for name, value in (("backend", argument), ("LAUNCHER_BACKEND", option)):
        if value not in BACKENDS:
            raise UsageError(
                f"{name}={value!r} is no backend.",
                hint=f"Use one of {', '.join(map(repr, BACKENDS))}.",
            )
    if "auto" not in (argument, option) and argument != option:
        raise UsageError(
            f"The script calls launcher.init(backend={argument!r}), but --backend is {option!r}.",
            hint="Leave one of them out.",
        )
    return option if argument == "auto" else argument
