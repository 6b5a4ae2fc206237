"""The processes that train one net together, as `torchrun` starts them.

Each computes on records of its own; gradients are averaged before each update, so that all have the
same parameters all the time; process 0 alone shows and writes. What is asked of all is asked of
`current()`, and costs nothing where a process is alone. Source: Caffe parallel.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from converters.errors import CaffeError, SolverError
from converters.proto import caffe_pb2 as pb
from converters.readers import Share

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Value = TypeVar("Value")

_BUCKET = 8 << 20
"""Numbers that travel together: 32 MiB of float32."""
_ERROR = "gmnet_pt/error"
"""Where the first process that fails leaves word."""
_SEEN = "gmnet_pt/seen/"
"""Where each leaves, by its number, that it has looked there."""
_FOR_THE_OTHERS = timedelta(seconds=5)
"""How long the first process stays for them; the others learn of an error by its connections."""


class LostProcessError(SolverError):
    """Another process of the run has ended."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from number `rank` of `count`.

    All of them call its methods in the same order; each waits for the others.

    Raises (all but the properties):
        LostProcessError: one of them has ended, told with what it left as its reason.
    """

    rank: int = 0
    count: int = 1
    store: Store | None = None

    @property
    def leads(self) -> bool:
        """Whether this process shows and writes."""
        return self.rank == 0

    @property
    def records(self) -> Share:
        """Its share where records are dealt: the training data."""
        return Share(self.rank, self.count)

    @property
    def batches(self) -> Share:
        """Its share where batches are dealt: the passes of a test."""
        return Share(self.rank, self.count, whole=True)

    def average(self, loss: Tensor, blobs: Sequence[Tensor]) -> Tensor:
        """Turn the gradients of `blobs` into their means over the processes; returns that of loss.

        A blob without a gradient counts as one of zeros.
        """
        if self.count == 1:
            return loss
        tensors = [loss.detach().float().reshape(1).clone()]
        for blob in blobs:
            if blob.requires_grad:
                blob.grad = torch.zeros_like(blob) if blob.grad is None else blob.grad
                tensors.append(blob.grad)
        flat = [torch.cat([x.reshape(-1) for x in bucket]) for bucket in _buckets(tensors)]
        with self._together():
            for work in [dist.all_reduce(numbers, async_op=True) for numbers in flat]:
                work.wait()
        for bucket, numbers in zip(_buckets(tensors), flat, strict=True):
            parts = torch.split(numbers.div_(self.count), [x.numel() for x in bucket])
            means = [part.view(x.shape) for part, x in zip(parts, bucket)]
            torch._foreach_copy_(bucket, means)
        return tensors[0].reshape(())

    def lead(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values that process 0 has."""
        if self.count > 1:
            with self._together(), torch.no_grad():
                for tensor in tensors:
                    # A copy: it is contiguous, and torch notes that the tensor was written to.
                    values = tensor.detach().clone(memory_format=torch.contiguous_format)
                    dist.broadcast(values, 0)
                    tensor.copy_(values)

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def total(self, value: int) -> int:
        """Their sum."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def _reduced(self, value: int, how: dist.ReduceOp.RedOpType) -> int:
        if self.count == 1:
            return value
        number = torch.tensor(value)
        with self._together():
            dist.all_reduce(number, how)
        return int(number)

    def gather(self, value: Value) -> list[Value]:
        """What all processes have, in their order; any object that can be pickled."""
        if self.count == 1:
            return [value]
        values: list[Value] = [value] * self.count
        with self._together():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Errors of the block mean that another process is gone."""
        try:
            yield
        except RuntimeError as error:
            raise LostProcessError(self._word() or _without_a_word(error)) from error

    def _word(self) -> str:
        """What the first process that failed has left; empty where none did."""
        try:
            if self.store is not None and self.store.check([_ERROR]):
                return str(self.store.get(_ERROR), "utf-8")
        except RuntimeError:  # the store was in the process that is gone
            pass
        return ""

    def is_first_to_tell(self, error: BaseException) -> bool:
        """Leave word of an error, unless another process has; whether it was this one."""
        text = f"process {self.rank}: {str(error) or type(error).__name__}"
        try:
            found = self.store.compare_set(_ERROR, "", text) if self.store else b""
            if self.store:
                self.store.set(f"{_SEEN}{self.rank}", "")
        except RuntimeError:
            return True
        return found == text.encode()

    def wait_for_the_others(self) -> None:
        """Behind an error, keep the store, which is in process 0, until all have looked there."""
        if self.leads and self.store is not None:
            with suppress(RuntimeError):
                self.store.wait([f"{_SEEN}{rank}" for rank in range(self.count)], _FOR_THE_OTHERS)


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of at most _BUCKET numbers, or of one that has more."""
    first = size = 0
    for place, tensor in enumerate(tensors):
        if size + tensor.numel() > _BUCKET and place > first:
            yield tensors[first:place]
            first, size = place, 0
        size += tensor.numel()
    yield tensors[first:]


def _without_a_word(error: RuntimeError) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"another process of this run was killed, or is out of reach ({reason})"


_ALONE = Processes()
_CURRENT: ContextVar[Processes] = ContextVar("processes", default=_ALONE)


def current() -> Processes:
    """The processes that were `joined`; this one alone outside."""
    return _CURRENT.get()


@contextmanager
def joined() -> Iterator[Processes]:
    """Be one of the processes that `torchrun` started, within the block; without it, be alone.

    Where several fail, the first tells why, with its number, and the errors of the others become an
    exit with status 1.

    Raises:
        SolverError: the others cannot be reached.
    """
    if not all(os.environ.get(name) for name in _TOLD) or os.environ["WORLD_SIZE"] == "1":
        yield _ALONE
        return
    processes = _join()
    token = _CURRENT.set(processes)
    try:
        yield processes
        processes.largest(0)  # nobody leaves while another is at work
    except BaseException as error:
        told = not processes.is_first_to_tell(error)
        _leave(after_an_error=True)
        if not isinstance(error, LostProcessError):  # whoever is lost looks nowhere
            processes.wait_for_the_others()
        if not isinstance(error, CaffeError):
            raise
        if told:
            raise SystemExit(1) from error
        raise CaffeError(f"process {processes.rank}: {error}") from error
    else:
        _leave()
    finally:
        _CURRENT.reset(token)


_TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun puts into the environment of those that it starts."""


def _join() -> Processes:
    # What is said among hosts goes another way than gradients: no GPU waits for it.
    from torch.distributed.rendezvous import rendezvous

    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        store, rank, count = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        raise SolverError(
            f"the other processes that {', '.join(_TOLD)} tell of cannot be reached: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    return Processes(rank, count, store)


def _leave(after_an_error: bool = False) -> None:
    # With processes missing, a GPU's group would wait for them; it ends with this one.
    if not (after_an_error and torch.cuda.is_available()):
        dist.destroy_process_group()


def own_device(solver: pb.SolverParameter, wanted: str | None) -> str | None:
    """The device of this process where `wanted` was asked for: of several, each has a GPU.

    Raises:
        SolverError: they are to share one, or there are too few.
    """
    if current().count == 1 or wanted == "cpu":
        return wanted
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if wanted not in (None, "cuda"):
        raise SolverError(
            f"--device {wanted}: {here} processes run here, each on a GPU of its own: give "
            "--device cuda, or --device cpu for all"
        )
    if wanted is None and (solver.solver_mode == pb.SolverParameter.CPU or not gpus):
        return None
    if here > gpus:
        raise SolverError(
            f"{here} processes on {gpus} GPUs: start as many as there are GPUs "
            f"(--nproc-per-node {gpus or 1}), or give --device cpu"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}"
