"""The runs that are still to be made, shared by threads of this process and by other processes beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from spikesparse.commands.campaign.making import arguments_of, exits_folder, folder_of, is_held, lock_of, needed_by
from spikesparse.commands.campaign.plan import Run
from spikesparse.commands.campaign.rows import missing
from spikesparse.files.locks import FileLock


class Queue:
    """The runs that are still to be made.

    Args:
        runs: in the order in which they are to be made.
        anew: the names of those that are made even if they have a row.
        plan: all runs, for the checkpoints that one needs of another.
        results: the folder of the rows.
        flags: of ``spikesparse``: those of the data, and more that the user names.
    """

    def __init__(
        self,
        runs: Iterable[Run],
        anew: set[str],
        plan: Iterable[Run],
        results: Path,
        flags: tuple[list[str], list[str]],
    ) -> None:
        self.runs, self.anew, self.plan, self.results, self.flags = list(runs), anew, list(plan), results, flags
        self.failed: dict[str, str] = {}  # the names of those that came to no end, and why
        self.taken = 0
        self._for_checkpoint: set[str] = set()  # the names of those that are trained because another needs them
        self._turn = threading.Lock()

    def command(self, run: Run) -> list[str]:
        """The command line of a run; of one of early exits, that of the run whose network it takes."""
        campaign = [other for other in self.plan if other.campaign == run.campaign]
        if run.exits_of:
            (run,) = needed_by(run, campaign)
        return arguments_of(run, *self.flags, campaign)

    def folder(self, run: Run) -> Path:
        """Where a run lies."""
        folder = folder_of(self.command(run), run.seed)
        return exits_folder(run, folder) if run.exits_of else folder

    def fail(self, run: Run, why: str) -> None:
        """Say that a run came to no end: it is not made once more for those that need its checkpoint."""
        with self._turn:
            self.failed[run.name] = why

    def take(self) -> tuple[Run, FileLock] | None:
        """A run that is ready and that no other process makes, with its lock; None if there is none now.

        Rows travel with the repository and checkpoints do not: a run whose checkpoint is needed and is not here is
        trained once more, whether or not it has its row.
        """
        with self._turn:
            taken = self._take()
            self.taken += taken is not None
            return taken

    def _take(self) -> tuple[Run, FileLock] | None:
        needed: list[Run] = []
        for run in list(self.runs):
            lock = lock_of(self.folder(run))
            if not lock.acquire(wait=False):
                continue
            lacking = [other for other in needed_by(run, self.plan) if not self._is_there(other)]
            made = self._is_made(run)  # by another process meanwhile
            lost = next((other for other in lacking if other.name in self.failed), None)
            if lost is not None and not made:
                self.failed[run.name] = f"it needs {lost.name}"
            if made or not lacking or lost is not None:
                self.runs.remove(run)
            if not made and not lacking:
                return run, lock
            lock.close()
            if not made and lost is None:
                needed += [other for other in lacking if other not in [*self.runs, *needed]]
        needed = [run for run in needed if not is_held(lock_of(self.folder(run)))]
        if not needed:
            return None
        print(f"=== {', '.join(run.name for run in needed)}: a checkpoint that others need", flush=True)
        self.runs = needed + self.runs
        self._for_checkpoint |= {run.name for run in needed}
        return self._take()

    def _is_made(self, run: Run) -> bool:
        if run.name in self._for_checkpoint:
            return self._is_there(run)
        return run.name not in self.anew and not missing([run], self.results)

    def _is_there(self, run: Run) -> bool:
        """Whether its best checkpoint is final: there is one long before training ends."""
        return (folder_of(self.command(run), run.seed) / "result.json").is_file()
