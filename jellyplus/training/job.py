"""A job of several processes, started by torchrun or by SLURM: how they meet, agree, and end.

Every process runs the same command on its part of every batch. Process 0 alone writes, prints and shows progress; the
others read what it wrote, so that several nodes need a folder in common.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from torch import distributed

from jellyplus._distributed import from_first, rank
from jellyplus._errors import InputError

__all__ = ["Launch", "joined", "launch", "once"]

T = TypeVar("T")

_PATIENCE = timedelta(minutes=20)  # with a process that lives and is late; one that ended is noticed at once on gloo


class Launch(NamedTuple):
    """What started this process among others, and how they are spread."""

    environment: ClusterEnvironment
    per_node: int
    nodes: int


def launch() -> Launch | None:
    """How the job was started; None where it has one process. torchrun goes first: it may run inside SLURM's job.

    Raises:
        InputError: SLURM does not say how its processes are spread.
    """
    if TorchElasticEnvironment.detect():
        environment, per_node = TorchElasticEnvironment(), int(os.environ["LOCAL_WORLD_SIZE"])
    elif SLURMEnvironment.detect() and os.environ["SLURM_NTASKS"] != "1":
        per_node = _tasks_per_node()
        environment = SLURMEnvironment(auto_requeue=False)  # Lightning's way to resume is not ours
    else:
        return None
    size = environment.world_size()
    return Launch(environment, per_node, size // per_node) if size > 1 else None


def _tasks_per_node() -> int:
    tasks, nodes, per_node = (os.environ.get(f"SLURM_{name}", "") for name in ("NTASKS", "NNODES", "NTASKS_PER_NODE"))
    if not all(text.isdecimal() for text in (tasks, nodes, per_node)) or int(nodes) * int(per_node) != int(tasks):
        raise InputError(
            f"SLURM started {tasks} processes, and {nodes or 'an unknown number of'} nodes with "
            f"{per_node or 'an unknown number'} each are not that: state both, as in srun --nodes 1 --ntasks-per-node 2"
        )
    return int(per_node)


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Within it the processes of the job are one group, and only process 0 prints. One process joins nobody.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (NCCL, one GPU a process).

    Raises:
        InputError: the processes do not meet, one needs a GPU that is not there, or another one ended.
    """
    started = launch()
    if started is None:
        yield
        return
    number = started.environment.global_rank()
    with open(os.devnull, "w") as nowhere:
        try:
            _meet(started.environment, device)
            with contextlib.redirect_stdout(nowhere) if number > 0 else contextlib.nullcontext():
                yield
            distributed.barrier()
        except InputError as error:
            if number == 0:
                raise
            raise InputError(f"process {number}: {error}") from error
        except RuntimeError as error:
            if not _is_about_another(error):
                raise
            raise InputError(
                f"process {number}: another process of the job ended or does not answer, see what it printed; the "
                "same command goes on from the last finished epoch"
            ) from error
        except KeyboardInterrupt:
            if number > 0:  # process 0 says so
                raise SystemExit(130) from None
            raise
    distributed.destroy_process_group()


def _meet(environment: ClusterEnvironment, device: str) -> None:
    number, size, local = environment.global_rank(), environment.world_size(), environment.local_rank()
    os.environ |= {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
    group = {"backend": "gloo", "rank": number, "world_size": size, "timeout": _PATIENCE}
    if device == "cuda":
        if local >= (gpus := torch.cuda.device_count()):
            raise InputError(f"the node has {gpus} GPUs for its processes: start no more of them, or --device cpu")
        torch.cuda.set_device(local)
        group |= {"backend": "nccl", "device_id": torch.device("cuda", local)}
    try:
        distributed.init_process_group(**group)
    except distributed.DistError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"the {size} processes of the job did not meet ({reason}): start them all, with torchrun or srun"
        ) from error


def _is_about_another(error: RuntimeError) -> bool:
    """Whether a collective failed: gloo raises plain RuntimeErrors that name its source."""
    return isinstance(error, distributed.DistError) or bool(re.search(r"\bgloo\b|NCCL", str(error)))


def once(function: Callable[..., T], *arguments: object) -> T:
    """Call on process 0 alone, while the others wait; all get its answer.

    Raises:
        InputError: it did, on process 0; the others leave without a word, with exit code 2.
    """
    answer = wrong = None
    if rank() == 0:
        try:
            answer = function(*arguments)
        except InputError as error:
            wrong = error
    answer, failed = from_first((answer, wrong is not None))
    if wrong:
        raise wrong
    if failed:
        raise SystemExit(2)
    return answer
