"""One training run of a trial, in a process of its own, begun or gone on with; and what it measured."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from spikesparse.checkpoints import chosen_checkpoint, read_checkpoint
from spikesparse.errors import UserError
from spikesparse.search.locks import FileLock

LOG = "train.log"
_RESTARTS = 2  # of a run that a signal ended: the system may have taken its memory for another


class TrialFailed(Exception):
    """A trial that ended without a result; its text says why."""


def train(folder: Path, args: list[str]) -> tuple[Path, int]:
    """Train, going on from the last checkpoint if there is one.

    Args:
        folder: of the trial; the run's folder, its log and its lock lie in it.
        args: command line of ``fit``.

    Returns:
        The run folder, and the epoch that the run went on from (0 if it began).

    Raises:
        TrialFailed: if the run fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first_epoch = None
    with FileLock(folder / "lock") as lock:  # waits for whoever may still write here
        for restart in range(_RESTARTS + 1):
            last = last_checkpoint(folder)
            epoch = _epochs_done(last) if last else 0
            first_epoch = epoch if first_epoch is None else first_epoch
            more = [f"--ckpt_path={last}"] if last else []
            place = [f"--trainer.logger.init_args.save_dir={folder}", "--trainer.enable_progress_bar=false"]
            status = run_to_log(["fit", *args, *place, *more], folder / LOG, lock)
            if status == 0:
                run = run_folder(folder)
                if run is None:
                    raise TrialFailed("the run left no checkpoint")
                return run, first_epoch
            if status > 0 or restart == _RESTARTS:
                break
    raise TrialFailed(_why(folder / LOG, status))


def run_to_log(command: list[str], log: Path, lock: FileLock) -> int:
    """Run a ``spikesparse`` command that ends with this process, its output at the end of ``log``.

    Returns:
        Its exit status; -n if signal n ended it.
    """
    with log.open("a") as out:
        print("$ spikesparse", shlex.join(command), file=out, flush=True)
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.child", *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(lock.fileno(),),  # the lock is held until this process and the run are both gone
            start_new_session=True,  # Ctrl-C is for the worker, who ends the run
        )
        try:
            return process.wait()
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def run_folder(folder: Path) -> Path | None:
    """The run in a trial's folder, if it has a checkpoint."""
    found = [path for path in folder.glob("*/seed*/checkpoints/last.ckpt") if "-earlier" not in path.parts[-3]]
    return found[0].parents[1] if found else None


def last_checkpoint(folder: Path) -> Path | None:
    """What the run in a trial's folder goes on from, if there is something."""
    run = run_folder(folder)
    return run / "checkpoints" / "last.ckpt" if run else None


def measured(run: Path) -> tuple[Path, dict[str, float]]:
    """The checkpoint that validation chose, and what was measured of it on validation, by name; counts per image.

    Raises:
        TrialFailed: if the checkpoint does not tell.
    """
    path = chosen_checkpoint(run)
    try:
        kept: dict[str, float] = read_checkpoint(path)["measured"]
        first_synops = next(v for tag, v in kept.items() if tag.startswith("synops/") and tag.endswith("/val"))
        return path, {
            "accuracy_val": kept["accuracy/val"],
            "spikes": kept["efficiency/spikes_per_image/val"],
            "synops": kept["efficiency/synops_per_image/val"],
            "first_layer_synops": first_synops,  # 0 unless the input is spikes
            "first_layer_macs": kept["efficiency/macs_per_image/val"],
            "energy_uj": kept["efficiency/energy_uj_per_image/val"],
        }
    except (KeyError, StopIteration, UserError) as error:
        raise TrialFailed(f"{path} does not tell what was measured of it ({error})") from error


def _epochs_done(last: Path) -> int:
    try:
        return int(read_checkpoint(last)["epoch"]) + 1
    except (KeyError, UserError):
        last.unlink()  # damaged: begin anew
        return 0


def _why(log: Path, status: int) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "")
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{ended}: {said.removeprefix('spikesparse: error: ')}"
