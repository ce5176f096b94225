"""The processes of a run: which is the first, and what ends them all when one ends before its time.

Three things bring that about. A process that waits for another in gloo gets an error as soon as that one is gone:
:func:`lost_peer` makes a sentence of it. Lightning's launcher, in the first process, looks at the processes that it
started every five seconds, and ends all of them when one has failed. And a process that was started by another ends
when that one is gone: :func:`watch_parent`. Between machines Slurm or torchrun's agents do the same.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time

from spikesparse.errors import UserError

_LAUNCHER = "SPIKESPARSE_LAUNCHER"  # process id of the command that Lightning's launcher runs in
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
_GRACE = 10.0  # seconds; a run that is over may end in any order
_LOST = re.compile(
    r"(?:gloo.*?|nccl.*?)((?:closed|reset) by peer|timed out|broken pipe|remote process exited)", re.I | re.S
)


def is_first_process() -> bool:
    """Whether this is the only process of a run, or its first.

    It is asked before Lightning has a trainer that would know: by the variables that each way of launching sets.
    """
    return all(os.environ.get(v, "0") == "0" for v in _RANKS)


def check_nodes(num_nodes: int) -> None:
    """Refuse a launch by one command on each machine, with nothing that manages them, that could never meet.

    Lightning then reads which machine this is from ``NODE_RANK``, or ``GROUP_RANK``, and where the first one listens
    from ``MASTER_ADDR`` and ``MASTER_PORT``; where these are not set, every machine waits for itself.

    Args:
        num_nodes: ``--trainer.num_nodes``.

    Raises:
        UserError: naming what is not set, or is more than there are machines.
    """
    name = "GROUP_RANK" if "NODE_RANK" not in os.environ and "GROUP_RANK" in os.environ else "NODE_RANK"
    rank = os.environ.get(name, "0")
    if not rank.isdecimal() or int(rank) >= num_nodes:
        raise UserError(
            f"{name}={rank}: with --trainer.num_nodes={num_nodes} it goes from 0 to {num_nodes - 1}; set "
            f"--trainer.num_nodes to the number of machines, or unset {name}."
        )
    lacking = [each for each in (name, "MASTER_ADDR", "MASTER_PORT") if each not in os.environ]
    if num_nodes > 1 and lacking:
        raise UserError(
            f"--trainer.num_nodes={num_nodes}: {' and '.join(lacking)} not set. Without Slurm or torchrun, run the "
            "same command on each machine, with NODE_RANK=0, 1, ..., and MASTER_ADDR and MASTER_PORT of the first."
        )


def watch_parent() -> None:
    """End this process when the one that launched it is gone: nobody waits for it, and its peers are ending too.

    That is Lightning's first process for those that it starts, and torchrun's agent. Called once, as early as can be.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        parent = os.getppid()
    elif os.environ.get("LOCAL_RANK", "0") != "0" and _LAUNCHER in os.environ:
        parent = int(os.environ[_LAUNCHER])  # not asked for: it may be gone already
    else:
        os.environ[_LAUNCHER] = str(os.getpid())
        return
    threading.Thread(target=_end_with, args=(parent,), daemon=True, name="watch-parent").start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(_GRACE)
    print(f"spikesparse: error: process {_rank()} ends: its launcher is gone.", file=sys.stderr, flush=True)
    os._exit(1)  # the main thread may wait in a collective operation that nobody else will join


def lost_peer(error: RuntimeError) -> str | None:
    """A sentence about an error of torch's, if it says that another process is gone.

    >>> lost_peer(RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [::1]:4: Connection reset by peer"))[:66]
    'process 0 ends: another process of this run is gone (reset by peer'
    """
    found = _LOST.search(str(error))
    if found is None:
        return None
    return (
        f"process {_rank()} ends: another process of this run is gone ({found[1].lower()}). If it said why, that "
        "stands above. The same command goes on from the newest checkpoint."
    )


def _rank() -> str:
    node, local = os.environ.get("NODE_RANK", "0"), os.environ.get("LOCAL_RANK", "0")
    return os.environ.get("RANK", local if node == "0" else f"{local} of node {node}")
