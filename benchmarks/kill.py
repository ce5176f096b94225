"""Kill a training run with kill -9 at random moments, restart it with the same command, and compare what comes out.

    python benchmarks/kill.py --kills 20        make kill

The moments are drawn from a seed among four kinds: within a training step, within a validation, while a checkpoint is
being written, and at any time at all. Shuffling, crops, flips, Poisson spikes, dropout, a spike budget, a learning-rate
schedule and gradient accumulation are on. In the end the run must be the one that was never killed, bit for bit: its
weights, the optimizer's and the controller's state, random streams, metrics, and the best checkpoint; only the seconds
it took and where it lies are its own. No kill may lose more steps than --checkpoint.every_n_steps names.
results/kill.csv says what each kill met.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
from spikesparse.commands.main import main as spikesparse  # noqa: E402
from spikesparse.files import whole_files  # noqa: E402
from spikesparse.runs import saving  # noqa: E402
from spikesparse.runs.result import machine  # noqa: E402
from spikesparse.runs.resume import newest  # noqa: E402
from spikesparse.settings.command_line import CommandLine  # noqa: E402
from spikesparse.training.module import SpikingClassifier  # noqa: E402

EVERY = 4  # optimizer steps between two checkpoints
KINDS = ("step", "validation", "writing", "any")
COLUMNS = ("kill", "kind", "steps_done", "went_on_from", "step", "lost")


def command(epochs: int) -> list[str]:
    """The run: about 12 optimizer steps an epoch, with everything on that has a state."""
    return [
        *("train", "--config", str(ROOT / "configs/experiment/digits.yaml"), "--trainer.accelerator=cpu"),
        *(f"--trainer.max_epochs={epochs}", "--trainer.enable_progress_bar=false"),
        *("--trainer.enable_model_summary=false", "--trainer.accumulate_grad_batches=2", "--data.train_images=368"),
        *("--data.batch_size=16", "--data.encoder=poisson", "--data.crop_padding=2", "--data.flip=true"),
        *("--data.timesteps=2", "--model.net.architecture=4-P-8-P-F16", "--model.net.dropout=0.2"),
        *(
            "--budget.target=1500",
            "--sparsity.start_epoch=1",
            f"--sparsity.end_epoch={epochs // 2}",
            "--trainer.log_every_n_steps=5",
        ),
        *("--dashboard.every_n_epochs=0", f"--checkpoint.every_n_steps={EVERY}", "--trainer.val_check_interval=0.5"),
    ]


def run_once(folder: Path, args: list[str], kind: str | None, rng: random.Random, seconds: float) -> int:
    """Run the command in ``folder`` in a child of this process, killed at a moment of a kind; its exit status."""
    moment = {"step": rng.randint(1, 20), "validation": rng.randint(1, 12), "writing": rng.randint(1, 6)}
    after, place = rng.uniform(0.02, 0.1) * seconds, rng.random()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:  # nothing of the parent's may run in the child
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _note_steps()
        if kind == "any":
            threading.Thread(target=lambda: (time.sleep(after), _die()), daemon=True).start()
        elif kind == "writing":
            _die_in_writing(moment[kind], place)
        elif kind is not None:
            _die_in_batch(f"{'training' if kind == 'step' else kind}_step", moment[kind], place < 0.5)
        os._exit(spikesparse(args))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _note_steps() -> None:
    original = saving.LastCheckpoint.on_train_batch_end

    def noted(self: Any, trainer: Any, *args: Any) -> None:
        with Path("steps.txt").open("a") as file:  # one short write: whole or not at all
            file.write(f"{trainer.global_step}\n")
        original(self, trainer, *args)

    saving.LastCheckpoint.on_train_batch_end = noted  # type: ignore[method-assign]


def _die_in_batch(name: str, number: int, before: bool) -> None:
    original, seen = getattr(SpikingClassifier, name), 0

    def step(self: Any, *args: Any) -> Any:
        nonlocal seen
        seen += not self.trainer.sanity_checking
        if seen == number and before:
            _die()
        result = original(self, *args)  # behind it: forward is done, backward and the optimizer are not
        if seen == number:
            _die()
        return result

    setattr(SpikingClassifier, name, step)


def _die_in_writing(number: int, share: float) -> None:
    original, seen = whole_files.whole_file, 0

    @contextmanager
    def half(path: Path) -> Iterator[Any]:
        nonlocal seen
        with original(path) as file:
            yield file
            seen += path.suffix == ".ckpt"
            if seen == number and path.suffix == ".ckpt":
                file.truncate(int(share * file.tell()))
                file.flush()
                _die()

    saving.whole_file = half


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """The names of all values in which two nested checkpoints differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return [f"{name}: other keys: {sorted(map(str, first.keys() ^ second.keys()))}"]
        return [d for key in first for d in differences(first[key], second[key], f"{name}.{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        return [
            d for i, (a, b) in enumerate(zip(first, second, strict=True)) for d in differences(a, b, f"{name}[{i}]")
        ]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
    else:
        same = type(first) is type(second) and first == second
    return [] if same else [name]


def campaign(place: Path, kills: int, epochs: int, seed: int) -> tuple[list[dict[str, Any]], list[str]]:
    """A run that is never killed and one that is: the row of each kill, and in what the two differ."""
    rng, args = random.Random(seed), command(epochs)
    started = time.monotonic()
    status = run_once(place / "whole", args, None, rng, 0)
    seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"kill: the run itself failed; see {place}/whole/log.txt")
    folder = place / "killed"
    run = folder / "runs" / CommandLine(["fit", *args[1:]]).run_name() / "seed0"
    rows: list[dict[str, Any]] = []
    while len(rows) < kills:
        kind = KINDS[len(rows) % len(KINDS)]
        status = run_once(folder, args, kind, rng, seconds)
        if status == 0:  # it came to its end: of another seed of draws it would not have
            break
        if status != -signal.SIGKILL:
            raise SystemExit(f"kill: it failed by itself, status {status}; see {folder}/log.txt")
        steps = (folder / "steps.txt").read_text().split() if (folder / "steps.txt").is_file() else []
        done = int(steps[-1]) if steps else 0
        found = newest(run)
        step = found.step if found else 0
        rows.append(
            {
                **{"kill": len(rows) + 1, "kind": kind, "steps_done": done, "step": step, "lost": done - step},
                "went_on_from": f"{found.checkpoint.name} {'within' if found.within else 'before'} epoch "
                f"{found.epoch + 1}"
                if found
                else "the beginning",
            }
        )
        print(", ".join(f"{name} {rows[-1][name]}" for name in COLUMNS), flush=True)
    if run_once(folder, args, None, rng, 0):
        raise SystemExit(f"kill: the run did not come to its end; see {folder}/log.txt")
    found_differences = []
    other = place / "whole" / run.relative_to(folder)
    for name in ("last.ckpt", "best.ckpt"):
        both = [_of_the_run(torch.load(each / "checkpoints" / name, weights_only=True)) for each in (other, run)]
        found_differences += [f"{name}{difference}" for difference in differences(*both)]
    return rows, found_differences + differences(scalars(other), scalars(run), "scalar")


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's values and their steps by tag, as it shows them of a run: each as often as it stands there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"]) - {"schedule/global_batch_size"}  # said at each start
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def _of_the_run(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint less what two equal runs may differ in: the absolute paths of Lightning's callbacks, seconds."""
    checkpoint["callbacks"].pop("TrainingTime", None)
    for state in checkpoint["callbacks"].values():
        for key in ("best_model_path", "dirpath", "kth_best_model_path", "last_model_path"):
            state.pop(key, None)
        if "best_k_models" in state:
            state["best_k_models"] = list(state["best_k_models"].values())
    return checkpoint


def main() -> None:
    """Read the command line, and kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--place", type=Path, default=Path("runs/kill"), help="a new folder for the two runs")
    parser.add_argument("--out", type=Path, default=ROOT / "results/kill.csv")
    asked = parser.parse_args()
    if asked.place.exists():
        parser.error(f"--place={asked.place} is there already")
    rows, different = campaign(asked.place, asked.kills, asked.epochs, asked.seed)
    text = io.StringIO()
    about = {"command": f"python benchmarks/kill.py --kills {asked.kills} --epochs {asked.epochs} --seed {asked.seed}"}
    for key, value in {**about, **machine(), "differences": len(different), "every_n_steps": EVERY}.items():
        text.write(f"# {key}: {value}\n")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    whole_files.replace_file(asked.out, text.getvalue())
    worst = max((row["lost"] for row in rows), default=0)
    print(f"{len(rows)} kills, at most {worst} of {EVERY} steps lost; differences: {', '.join(different) or 'none'}")
    sys.exit(bool(different) or worst > EVERY)


if __name__ == "__main__":
    main()
