"""One training run of a trial, begun or resumed in its own process, and what it measured."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from spikesparse.errors import UserError
from spikesparse.files.checkpoint import read_checkpoint
from spikesparse.files.locks import FileLock
from spikesparse.files.run_folder import chosen_checkpoint
from spikesparse.runs.resume import folder_of_command, newest
from spikesparse.settings.command_line import CommandLine

LOG = "train.log"
_RESTARTS = 2  # of a run that a signal ended: the system may have taken its memory for another


class TrialFailed(Exception):
    """A trial that ended without a result; its text says why."""


def train(folder: Path, args: list[str], seed: int) -> tuple[Path, int]:
    """Train, going on with the run of the very same command if it lies there.

    ``fit`` decides that, by the run's flags and files; what else lies in the folder is not the trial's.

    Args:
        folder: of the trial; the run's folder, its log and its lock lie in it.
        args: command line of ``fit``.
        seed: that these settings train with.

    Returns:
        The run folder, and the epoch that the run went on from (0 if it began).

    Raises:
        TrialFailed: if the run fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["fit", *args, f"--trainer.logger.init_args.save_dir={folder}", "--trainer.enable_progress_bar=false"]
    line = CommandLine(command)
    run = folder_of_command(folder / line.run_name() / f"seed{seed}", line)
    first_epoch = None
    with FileLock(folder / "lock") as lock:  # waits for whoever may still write here
        for restart in range(_RESTARTS + 1):
            before, place = _on_disk(run), newest(run)
            status = run_to_log(command, folder / LOG, lock)
            if first_epoch is None:  # a run that was set aside took its folder along
                first_epoch = place.epoch if place and _on_disk(run) == before else 0
            if status == 0:
                if not chosen_checkpoint(run).is_file():
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


def _on_disk(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one of its name."""
    return (about.st_dev, about.st_ino) if folder.is_dir() and (about := folder.stat()) else None


def _why(log: Path, status: int) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "")
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{ended}: {said.removeprefix('spikesparse: error: ')}"
