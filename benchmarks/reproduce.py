"""Run what the result tables are made of.

    python benchmarks/reproduce.py --list                  every run of the plan, and whether it has its row
    python benchmarks/reproduce.py --missing --budget 8m   run what has none, and stop after eight minutes
    python benchmarks/reproduce.py vgg7_iso/twin/0         run a row anew, and compare it with the one that is kept
    python benchmarks/reproduce.py vgg7_iso/twin/0 --keep  the same, and keep the new row

The plan is benchmarks/plan.yaml. A run that is stopped, here or by a power cut, goes on from its last epoch the next
time. CIFAR-10 is downloaded by torchvision, or read from a file: --npz data/cifar10.npz. More flags of spikesparse
stand behind `--`, as in `-- --trainer.accelerator=gpu`; they are part of the row's command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from plan import PLAN, ROOT, Run, add_row, correct_images, missing, read_plan, row_of, rows_of

from spikesparse.runs import run_name

UNITS = {"s": 1, "m": 60, "h": 3600}
GRACE = 20  # seconds that a run has to close its files when the time is over
# glibc would give large tensors back to the system after each step (see the Makefile)
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
}


def seconds(text: str) -> float:
    """A duration such as 90s, 8m or 1.5h, in seconds.

    >>> seconds("8m"), seconds("1.5h"), seconds("90")
    (480.0, 5400.0, 90.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; 90s, 8m and 1.5h are")
    return float(match[1]) * UNITS[match[2] or "s"]


def arguments_of(run: Run, data: list[str], more: list[str], campaign: list[Run]) -> list[str]:
    """The command line of a run, with the checkpoints that it needs filled in."""
    config = yaml.safe_load((ROOT / run.arguments[2]).read_text())
    words = [*run.arguments, *(data if config["data"]["source"] == "cifar10" else []), *more]
    for name in run.needs:
        needed = next(r for r in campaign if (r.recipe, r.seed) == (name, run.seed))
        best = folder_of(arguments_of(needed, data, more, campaign), run.seed) / "checkpoints/best.ckpt"
        words = [word.replace(f"{{{name}}}", str(best)) for word in words]
    return words


def folder_of(words: list[str], seed: int) -> Path:
    """The folder of a run, from the root of the checkout."""
    return Path("runs") / run_name(["fit", *words[1:]]) / f"seed{seed}"


def train(words: list[str], folder: Path, seconds_left: float, fresh: bool) -> bool:
    """Train and test, going on where an unfinished run stopped; whether it came to its end in time."""
    resume = [] if fresh or not (last := folder / "checkpoints/last.ckpt").is_file() else [f"--ckpt_path={last}"]
    if (folder / "result.json").is_file():
        resume = []
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    environment = {**ALLOCATOR, **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "spikesparse", *words, *quiet, *resume]
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = child.wait(max(1.0, seconds_left))
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
        if isinstance(reason, KeyboardInterrupt):
            raise
        return False
    if code:
        raise SystemExit(f"reproduce: {' '.join(words)} ended with status {code}; what it said stands above")
    return True


def minutes_trained(folder: Path) -> float:
    """Minutes between the first batch and the last validation, pauses between two sittings left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    total = 0.0
    for events in sorted(folder.glob("events.out.tfevents.*")):
        sitting = EventAccumulator(str(events), size_guidance={"scalars": 0})
        sitting.Reload()
        if "schedule/global_batch_size" in sitting.Tags()["scalars"]:
            start = sitting.Scalars("schedule/global_batch_size")[0].wall_time
            ends = sitting.Scalars("accuracy/val") if "accuracy/val" in sitting.Tags()["scalars"] else []
            total += ends[-1].wall_time - start if ends else 0.0
    return total / 60


def finish(run: Run, words: list[str], folder: Path, results: Path, keep: bool) -> None:
    """Say how a row came out, beside the one there was, and keep it."""
    row = row_of(run, folder, words, minutes_trained(folder))
    before = next(
        (r for r in rows_of(run.campaign, results) if (r["recipe"], int(r["seed"])) == (run.recipe, run.seed)), None
    )
    for column in ("accuracy_val", "accuracy_test", "spikes_per_image", "synops_per_image"):
        kept = f"   kept row: {before[column]}" if before else ""
        print(f"{run.name}: {column} {row[column]}{kept}", flush=True)
    if keep or before is None:
        add_row(run.campaign, row, correct_images(folder / "predictions_test.csv"), results)


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="CAMPAIGN/RECIPE/SEED", help="runs to make anew")
    parser.add_argument("--missing", action="store_true", help="make the runs that have no row yet")
    parser.add_argument("--list", action="store_true", help="only say what there is and what is missing")
    parser.add_argument("--only", metavar="TEXT", default="", help="only runs whose name has this in it")
    parser.add_argument("--budget", type=seconds, default=float("inf"), help="stop after that long: 90s, 8m, 1.5h")
    parser.add_argument("--npz", help="CIFAR-10 as one file, in place of torchvision's download")
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--keep", action="store_true", help="put a row that was made anew in the kept one's place")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    asked, more = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
    deadline = time.monotonic() + asked.budget
    _, plan = read_plan(asked.plan)
    planned = [run for run in plan if asked.only in run.name]
    open_runs = missing(planned, asked.results)
    if asked.list:
        for run in planned:
            print(f"{'missing' if run in open_runs else 'there  '}  {run.name}")
        print(f"{len(planned) - len(open_runs)} of {len(planned)} rows are there")
        return
    unknown = set(asked.runs) - {run.name for run in plan}
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not in the plan; --list names all")
    todo = [run for run in plan if run.name in asked.runs] + (open_runs if asked.missing else [])
    if not todo:
        print("nothing to do: " + ("every row is there" if asked.missing else "name a run, or --missing, or --list"))
        return
    data = ["--data.source=npz", f"--data.data_dir={asked.npz}"] if asked.npz else []
    for number, run in enumerate(todo):
        left = deadline - time.monotonic()
        campaign = [r for r in plan if r.campaign == run.campaign]
        words = arguments_of(run, data, more, campaign)
        folder = folder_of(words, run.seed)
        lacking = [w for w in words if w.endswith("best.ckpt") and not Path(w.partition("=")[2]).is_file()]
        if lacking:
            raise SystemExit(f"reproduce: {run.name} needs {lacking[0]}: run {'/'.join(run.needs)} of that seed first")
        finished = _is_finished(folder, words) and run.name not in asked.runs
        if not finished and left < 1:
            break
        print(f"=== {run.name} ({number + 1} of {len(todo)}): spikesparse {' '.join(words)}", flush=True)
        if not finished and not train(words, folder, left, fresh=run.name in asked.runs):
            print(f"=== the time is over: {run.name} goes on from its last epoch the next time", flush=True)
            break
        finish(run, words, folder, asked.results, asked.keep)
    lacking_rows = missing(planned, asked.results)
    print(f"{len(planned) - len(lacking_rows)} of {len(planned)} rows are there; --list names them")


def _is_finished(folder: Path, words: list[str]) -> bool:
    path = folder / "result.json"
    if not path.is_file():
        return False
    command = json.loads(path.read_text()).get("command", [])
    return [word for word in command if not re.match(r"--(trainer\.enable_|ckpt_path)", word)] == words


if __name__ == "__main__":
    main()
