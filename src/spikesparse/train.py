"""``spikesparse train`` and ``spikesparse compare``: training runs with a closing table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from spikesparse.bill_files import CSV as BILL_CSV
from spikesparse.bill_files import JSON as BILL_JSON
from spikesparse.bill_files import bill_table, read_rows, write_bill
from spikesparse.callbacks import TrainingTime
from spikesparse.cli import SpikeCLI
from spikesparse.closing import Closing
from spikesparse.dashboard.hparams import write_hparams
from spikesparse.errors import UserError
from spikesparse.most_used import most_used_at_the_end
from spikesparse.paths import CONFIGS
from spikesparse.peers import is_first_process
from spikesparse.resume import RUN, Finished, NothingToTrain, write_identity
from spikesparse.runs import (
    RunConfig,
    asks_for_budget,
    asks_for_no_penalty,
    changes_settings,
    config_digest,
    experiments,
    flag_value,
    run_name,
)
from spikesparse.settings import BUDGETS
from spikesparse.sparsity.weight import in_force
from spikesparse.summary import (
    RunResult,
    comparison_table,
    console,
    headline,
    load_result,
    machine,
    read_result,
    run_result,
    save_result,
)

CIFAR_HINT = "make train EXPERIMENT=cifar10_vgg7_cpu"
RESULT = "result.json"
TRAINING = ("command", "configs", "epochs", "fit_seconds", "commit")  # what result.json says of the training


def train(args: list[str]) -> RunResult | None:
    """Fit, test the best checkpoint, print the table and the next commands.

    A run of the same command that is there already is gone on with, if it is not finished, and not made again, if it
    is; ``--fresh`` makes it anew.

    Args:
        args: command line of ``fit``, and ``--fresh``.

    Returns:
        The test result; None where there is none to tell (fast_dev_run, no epochs, or a process other than the first).
    """
    fresh, args = _without_fresh(args)
    if is_first_process() and not _asks_for_text(args):
        _say_what_is_trained(args)
    try:
        cli = _fitted(args, fresh)
    except NothingToTrain as nothing:
        _say(nothing)
        return None
    except Finished as run:
        if _is_tested(run.folder):
            return _finished(run)
        if is_first_process():
            print(f"{run.folder}: finished, and tested again: it has no result of its own training", flush=True)
        cli = _fitted([*args, f"--ckpt_path={run.folder}/checkpoints/last.ckpt"], fresh)
    trainer: Any = cli.trainer  # its properties are not all typed
    if trainer.fast_dev_run or not trainer.state.finished:
        return None
    # All that is said of the training is read before the test, which loads the state of the best epoch.
    about = {
        **{"command": ["train", *args], "configs": config_digest(args)},
        **{"epochs": _epochs_trained(trainer), "fit_seconds": round(_training_time(trainer), 1)},
    }
    best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else ""
    last = cli.run_folder / "checkpoints" / "last.ckpt" if cli.run_folder else None
    if not best and last is not None and last.is_file():
        best = str(last)
        setter = in_force(trainer)
        reason = setter.none_chosen if setter is not None else "no epoch was validated"
        print(f"{reason}: the last epoch is tested, not the best")
    trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=best or None, weights_only=True, verbose=False)
    closing = Closing()
    result = _report(cli, run_name(["fit", *args]), best, about, closing)
    with closing.part("TensorBoard's table of settings and results"):
        _write_hparams(cli, "test")
    if result is not None:
        _say_what_is_next(args, cli)
    closing.end()
    return result


def fit(args: list[str]) -> None:
    """Lightning's ``fit``; a run of the same command that is there already is gone on with, as :func:`train` does.

    Args:
        args: its command line, and ``--fresh``.
    """
    fresh, args = _without_fresh(args)
    try:
        cli = _fitted(args, fresh)
    except NothingToTrain as nothing:
        _say(nothing)
        return
    except Finished as run:
        print(run)
        return
    if not cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        with Closing().part("TensorBoard's table of settings and results"):
            _write_hparams(cli, "val")


def _say(nothing: NothingToTrain) -> None:
    if is_first_process():
        print(nothing, flush=True)


def _fitted(args: list[str], fresh: bool) -> SpikeCLI:
    """Train; note in the run folder that the training came to its end."""
    with most_used_at_the_end(args):
        cli = SpikeCLI(["fit", *args], fresh=fresh)
    trainer: Any = cli.trainer
    if cli.run_folder is not None and trainer.is_global_zero and trainer.state.finished:
        with Closing().part(f"{cli.run_folder}/{RUN}"):  # then the same command tests the last checkpoint again
            write_identity(cli.run_folder, cli.args, finished=True, seconds=_training_time(trainer))
    return cli


def _epochs_trained(trainer: Any) -> int:
    """Without the pass over the data that StochasticWeightAveraging adds for batch norm: nothing is learned there."""
    done, asked = trainer.current_epoch, trainer.max_epochs
    return done if asked in (None, -1) else min(done, asked)


def _training_time(trainer: Any) -> float:
    """Seconds, all sittings together."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, TrainingTime)).seconds


def _without_fresh(args: list[str]) -> tuple[bool, list[str]]:
    return "--fresh" in args, [arg for arg in args if arg != "--fresh"]


def _write_hparams(cli: SpikeCLI, split: str) -> None:
    trainer: Any = cli.trainer
    settings = next(callback for callback in trainer.callbacks if isinstance(callback, RunConfig)).settings()
    extra = {"max_epochs": trainer.max_epochs, "precision": str(trainer.precision), "devices": trainer.world_size}
    if "budget" in settings:  # the lambda that it found, not one that was not read
        settings["sparsity"] |= {"start_value": 0.0, "end_value": cli.model.sparsity_weight}
    write_hparams(trainer, {**settings, **extra}, cli.model.measured, split)


def test(args: list[str]) -> None:
    """Test a checkpoint, and print its table.

    Args:
        args: command line of Lightning's ``test``.

    Raises:
        UserError: if it names no checkpoint.
    """
    if not flag_value(args, "--ckpt_path") and not _asks_for_text(args):
        raise UserError(
            "test: of which network? Name its checkpoint: --ckpt_path=runs/digits/seed0/checkpoints/best.ckpt."
        )
    cli = SpikeCLI(["test", "--verbose=false", *args])  # the bill says it in place of Lightning's own table
    checkpoint = flag_value(args, "--ckpt_path") or ""
    if not cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        closing = Closing()
        _report(cli, checkpoint, checkpoint, {"command": ["test", *args]}, closing)
        closing.end()


def _report(cli: SpikeCLI, title: str, checkpoint: str, about: dict[str, Any], closing: Closing) -> RunResult | None:
    """Keep result.json and the bill in the run folder, and print the bill, on the first process."""
    if not cli.trainer.is_global_zero:
        return None
    bill, energy = cli.model.bills["test"], cli.model.energy
    rows = bill.rows(energy)
    result = run_result("test", cli.model.measured["accuracy/test"], bill.timesteps, rows)
    if cli.run_folder is not None:
        path = cli.run_folder / RESULT
        before = _kept_result(path)
        tested = {"command": about["command"], "checkpoint": checkpoint, "split": "test", **machine()}
        if before.get("checkpoint") == checkpoint:  # a later test of the same weights keeps what training said
            about = {**{key: before[key] for key in TRAINING if key in before}, **about}
            if _is_trainings(before) and not changes_settings(about["command"]):
                about["command"] = before["command"]
        with closing.part(path, result=True):
            save_result(result, path, {**machine(), **about, "checkpoint": checkpoint})
        with closing.part(f"{cli.run_folder}/{BILL_JSON} and {BILL_CSV}", result=True):
            write_bill(cli.run_folder, bill, energy, {**tested, "accuracy": result.accuracy})
    _print(result, rows, title)
    if cli.run_folder is not None:
        print(f"bill          {cli.run_folder}/{BILL_CSV} and {BILL_JSON}: every count, per layer, with definitions")
    return result


def compare(args: list[str]) -> None:
    """Train the accuracy-only twin (lambda 0) and the sparse network from the same seed, and compare them.

    As in :func:`train`, a run that is there already is not trained again, unless by ``--fresh``.
    """
    if _asks_for_text(args):
        train(args)
        return
    if asks_for_no_penalty(args):
        raise UserError("--sparsity.end_value is 0: compare trains that twin itself; name the sparse network's lambda.")
    twin = train(twin_args(args))
    sparse = train(args)
    if twin is not None and sparse is not None:
        console().print(comparison_table(twin, sparse))


def twin_args(args: list[str]) -> list[str]:
    """The command line of the accuracy-only twin: the same ramp, to zero."""
    off = [f"--budget.{name}=null" for name in BUDGETS] if asks_for_budget(args) else []
    return [*args, "--sparsity.start_value=0", "--sparsity.end_value=0", *off]


def _is_tested(folder: Path) -> bool:
    """Whether the result in a run folder is its training's: a test under other settings may have come since."""
    if not (folder / BILL_JSON).is_file() or not _is_trainings(_kept_result(folder / RESULT)):
        return False
    try:
        load_result(folder / RESULT)
        read_rows(folder)
    except UserError as error:
        print(f"warning: {error}", flush=True)
        return False
    return True


def _kept_result(path: Path) -> dict[str, Any]:
    """What result.json said so far: nothing if there is none, or it is damaged, which is said."""
    if not path.exists():
        return {}
    try:
        return read_result(path)
    except UserError as error:
        if is_first_process():
            print(f"warning: {error} What it said is lost.", flush=True)
        return {}


def _is_trainings(result: dict[str, Any]) -> bool:
    command = result.get("command")
    return isinstance(command, list) and command[:1] == ["train"]


def _finished(run: Finished) -> RunResult:
    """The result of a run that is there already, printed."""
    result = load_result(run.folder / RESULT)
    if is_first_process():
        print(run)
        _print(result, read_rows(run.folder), run.folder.parent.name)
    return result


def _print(result: RunResult, rows: dict[str, dict[str, Any]], title: str) -> None:
    console().print(bill_table(rows, title))
    print(headline(result), flush=True)


def _asks_for_text(args: list[str]) -> bool:
    return any(arg in ("-h", "--help") or arg.startswith("--print_config") for arg in args)


def _experiment(args: list[str]) -> str:
    return next(iter(experiments(args)), "base")


def _say_what_is_trained(args: list[str]) -> None:
    if flag_value(args, "--data.source") in (None, "digits") and _experiment(args) == "digits":
        print(
            "Data: 1,797 handwritten digits (UCI, 8x8 pixels shown as 32x32), shipped with the package. For CIFAR-10: "
            f"{CIFAR_HINT}",
            flush=True,
        )


def _compare_command(args: list[str]) -> str:
    """What trains a run's twin beside it."""
    config = flag_value(args, "--config") or ""
    shipped = Path(config).resolve().parent == (CONFIGS / "experiment").resolve()
    if shipped and args in (["--config", config], [f"--config={config}"]):
        return f"make compare EXPERIMENT={Path(config).stem}"
    return f"spikesparse compare {shlex.join(args)}"


def _say_what_is_next(args: list[str], cli: Any) -> None:
    experiment = _experiment(args)
    lines = []
    if cli.run_folder is not None:  # there is none with a logger of the user's own
        # a run that ended before its ramp did has no best checkpoint
        files = ["config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", RESULT]
        there = [name for name in files if (cli.run_folder / name).is_file()]
        lines.append(f"files         {cli.run_folder}/: {', '.join(there)}")
        if cli.model.step_loss:
            lines.append(f"early exits   spikesparse exits {cli.run_folder}")
    lines.append("dashboard     make tensorboard   then open http://localhost:6006/#custom_scalars")
    lines.append(f"its twin      {_compare_command(args)}")
    if experiment == "digits":
        lines.append(f"CIFAR-10      {CIFAR_HINT}")
    print("\n".join(lines), flush=True)
