"""A stopped run goes on by the same command, from the newest whole checkpoint, and ends as the one that never was."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from refusals import refused_with
from spikesparse.commands.main import main
from spikesparse.data.loading import BatchRows
from spikesparse.files import whole_files
from spikesparse.files.locks import FileLock
from spikesparse.files.whole_files import replace_file, whole_file
from spikesparse.runs import saving
from spikesparse.runs.identity import write_identity
from spikesparse.runs.resume import Finished, begin_folder, checkpoint_to_resume, folder_of_command, newest
from spikesparse.runs.run_lock import hold, let_go
from spikesparse.settings.command_line import CommandLine
from spikesparse.training.module import SpikingClassifier
from spikesparse.training.process_state import ProcessState

quiet = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here


def folder_of(args):
    return Path("runs") / CommandLine(["fit", *args]).run_name() / "seed0"


def prepare_folder(folder, args, fresh):
    """As a training does, but for what it trains on."""
    found = checkpoint_to_resume(folder, CommandLine(args), fresh)
    begin_folder(folder, {"ckpt_path": found}, CommandLine(args), SimpleNamespace(check=lambda: None))
    return found


def weights(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    replace_file(path, "before")

    def write_half():
        with whole_file(path) as file:
            file.write(b"half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_half()
    assert path.read_text() == "before"
    replace_file(path, b"after")
    assert path.read_bytes() == b"after"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_takes_its_place_only_once_it_is_on_the_disk(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append((tmp_path / "a.txt").exists()))
    replace_file(tmp_path / "a.txt", "text")
    assert seen == [False, True]  # the file, and after the renaming its folder


WRITER = """
import sys
from pathlib import Path
from spikesparse.files.whole_files import replace_file

path, who, lost = Path("one.txt"), sys.argv[1], 0
Path(who).touch()
while len(list(Path().glob("writer*"))) < 2:  # both begin together
    pass
for number in range(60):
    try:
        replace_file(path, f"{who} {number} " * 20_000)
        assert len(set(path.read_text().split())) == 2  # of one writer, one number: not torn
    except FileNotFoundError:
        lost += 1
print(lost)
"""


def test_two_processes_write_one_file_and_lose_nothing(tmp_path):
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, f"writer{n}"], stdout=subprocess.PIPE, text=True) for n in range(2)]
    assert [writer.communicate(timeout=120)[0].strip() for writer in writers] == ["0", "0"]
    words = Path("one.txt").read_text().split()
    assert len(words) == 40_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.txt", "writer0", "writer1"]


def test_what_a_killed_process_left_half_written_is_removed_and_what_another_writes_is_not(tmp_path):
    path = tmp_path / "a[1].ckpt"
    code = (
        "import sys, os, signal, pathlib, spikesparse.files.whole_files as files\n"
        "with files.whole_file(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".a[1].ckpt.partial").touch()  # of the version before
    with whole_file(path) as slow:
        slow.write(b"slow")
        assert not left.exists()
        replace_file(path, b"quick")
        assert path.read_bytes() == b"quick"
    assert path.read_bytes() == b"slow"
    assert [each.name for each in tmp_path.iterdir()] == ["a[1].ckpt"]


def test_a_file_of_the_longest_name_is_written(tmp_path):
    path = tmp_path / ("ü" * 127)
    replace_file(path, "text")
    assert path.read_text() == "text"


# ---- places to go on from --------------------------------------------------------------------------------------------


def write_checkpoint(folder, name, epoch, step, within=False):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    progress = {"current": {"started": epoch + 1, "processed": epoch + (0 if within else 1)}}
    kept = {"state_dict": {"w": torch.arange(1000.0)}, "epoch": epoch, "global_step": step}
    torch.save({**kept, "loops": {"fit_loop": {"epoch_progress": progress}}}, folder / "checkpoints" / name)


def test_the_newest_checkpoint_is_the_one_that_has_come_furthest(tmp_path):
    assert newest(tmp_path) is None
    write_checkpoint(tmp_path, "previous.ckpt", 1, 20)
    write_checkpoint(tmp_path, "last.ckpt", 2, 30)
    assert (newest(tmp_path).checkpoint.name, newest(tmp_path).epoch) == ("last.ckpt", 3)
    assert str(newest(tmp_path)).endswith("last.ckpt (before epoch 4, step 30)")
    write_checkpoint(tmp_path, "step.ckpt", 3, 34, within=True)
    place = newest(tmp_path)
    assert (place.checkpoint.name, place.epoch, place.step, place.within) == ("step.ckpt", 3, 34, True)
    assert "within epoch 4, step 34" in str(place)
    write_checkpoint(tmp_path, "step.ckpt", 2, 30, within=True)  # killed between the two writes
    assert newest(tmp_path).checkpoint.name == "last.ckpt"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, damage, capsys):
    write_checkpoint(tmp_path, "previous.ckpt", 1, 20)
    write_checkpoint(tmp_path, "last.ckpt", 2, 30)
    path = tmp_path / "checkpoints/last.ckpt"
    content = bytearray(path.read_bytes())
    if damage == "flipped":  # a bit of a weight: torch itself would read another number
        at = content.index(np.arange(1000, dtype=np.float32)[500:520].tobytes())
        content[at] ^= 1
    content = {"truncated": content[:-200], "empty": b"", "text": b"no checkpoint"}.get(damage, content)
    path.write_bytes(content)
    assert newest(tmp_path).checkpoint.name == "previous.ckpt"
    assert "last.ckpt: not a whole checkpoint" in capsys.readouterr().out


def test_an_unfinished_run_is_that_of_the_same_files_and_data(tmp_path, monkeypatch, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text("data: {}")
    folder = tmp_path / "runs/mine/seed0"
    args = ["fit", "--config", str(config), "--data.data_dir=a"]
    assert prepare_folder(folder, args, fresh=False) is None
    write_checkpoint(folder, "last.ckpt", 0, 5)
    assert prepare_folder(folder, args, fresh=False) == folder / "checkpoints/last.ckpt"
    assert "going on from" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")  # the others say nothing, and touch nothing
    assert prepare_folder(folder, args, fresh=False) == folder / "checkpoints/last.ckpt"
    assert prepare_folder(folder, args, fresh=True) is None
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("RANK")
    for changed, edited in ((["--data.data_dir=b"], False), ([], True)):
        if edited:
            config.write_text("data: {seed: 1}")
        assert prepare_folder(folder, [*args, *changed], fresh=False) is None
        assert not (folder / "checkpoints").exists()  # set aside
        write_identity(folder, CommandLine(args))
        write_checkpoint(folder, "last.ckpt", 0, 5)
    assert {path.name for path in folder.parent.iterdir()} == {"seed0", "seed0-earlier1", "seed0-earlier2"}


def test_a_file_that_a_flag_names_belongs_to_the_run(tmp_path):
    settings, folder = tmp_path / "mine.yaml", tmp_path / "runs/base/seed0"
    settings.write_text("end_value: 1")
    args = ["fit", f"--sparsity={settings}"]
    prepare_folder(folder, args, fresh=False)
    write_identity(folder, CommandLine(args), finished=True)
    for change in (lambda: None, settings.unlink):  # a finished run stays one without the file
        change()
        with pytest.raises(Finished, match=r"seed0 is this very run, finished: not trained again \(--fresh"):
            prepare_folder(folder, args, fresh=False)
    settings.write_text("end_value: 2")
    assert prepare_folder(folder, args, fresh=False) is None
    assert folder.with_name("seed0-earlier1").exists()
    settings.write_text("end_value: 3")  # while the run trains with 2
    write_identity(folder, CommandLine(args), finished=True)
    assert prepare_folder(folder, args, fresh=False) is None
    assert folder.with_name("seed0-earlier2").exists()


def test_a_run_of_before_flags_were_noted_is_still_known(tmp_path):
    folder = tmp_path / "runs/base/seed0"
    args = ["fit", "--sparsity.end_value=1"]
    write_identity(folder, CommandLine(args), finished=True)
    kept = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({name: kept[name] for name in ("configs", "data_dir", "finished")}))
    with pytest.raises(Finished):
        prepare_folder(folder, args, fresh=False)


def test_a_run_is_found_under_the_name_that_told_more_flags_apart():
    shown = ["fit", "--dashboard.images=2"]
    named = Path("runs", f"base-{hashlib.sha256(b'--dashboard.images=2').hexdigest()[:8]}", "seed0")
    now = Path("runs/base/seed0")
    assert CommandLine(shown).run_name() == "base"
    assert folder_of_command(now, CommandLine(shown)) == now  # nothing is there
    write_identity(named, CommandLine(shown), finished=True)
    kept = json.loads((named / "run.json").read_text()) | {"trained_as": f"{named.parent.name}/seed0"}
    (named / "run.json").write_text(json.dumps(kept))
    assert folder_of_command(now, CommandLine(shown)) == named
    with pytest.raises(Finished):
        prepare_folder(named, shown, fresh=False)
    assert folder_of_command(now, CommandLine(["fit"])) == now  # whose name never had a hash
    assert folder_of_command(now, CommandLine([*shown, "--data.data_dir=elsewhere"])) == now
    write_identity(now, CommandLine(["fit"]))
    assert folder_of_command(now, CommandLine(shown)) == now  # the same run under its own name


@pytest.mark.parametrize(
    ("more", "own"),
    [
        (["--ckpt_path=runs/base/seed0/checkpoints/last.ckpt"], True),
        (["--ckpt_path=last"], True),
        (["--ckpt_path=elsewhere.ckpt"], False),
        (["--ckpt_path=runs/base/seed0/checkpoints/last.ckpt", "--seed_everything=1"], False),
        (["--seed_everything=0"], True),
        (["--ckpt_path=runs/base/seed0/checkpoints/last.ckpt", "--budget.target=5"], False),
    ],
)
def test_a_run_is_what_it_was_really_trained_with(more, own):
    folder = Path("runs/base/seed0")
    write_identity(folder, CommandLine(["fit", *more]), finished=True)
    if own:
        with pytest.raises(Finished):
            prepare_folder(folder, ["fit"], fresh=False)
    else:
        assert prepare_folder(folder, ["fit"], fresh=False) is None
        assert folder.with_name("seed0-earlier1").exists()


# ---- one process at a time ------------------------------------------------------------------------------------------


def test_a_folder_is_held_until_it_is_let_go_or_another_is_held(tmp_path):
    first, second = tmp_path / "a/seed0", tmp_path / "a/seed1"
    beside = FileLock(tmp_path / "a/.seed0.lock")
    hold(first)
    assert not beside.acquire(wait=False)
    hold(first)
    assert not beside.acquire(wait=False)
    hold(second)
    assert beside.acquire(wait=False)
    with refused_with(r"seed0: another process trains there\."):
        hold(first)
    beside.close()
    hold(first)
    let_go()
    assert beside.acquire(wait=False)
    beside.close()


@pytest.mark.parametrize("broken", ["open", "flock"])
def test_where_there_are_no_locks_training_goes_on_without(tmp_path, monkeypatch, broken):
    def fails(*args):
        raise OSError(errno.ENOLCK if broken == "flock" else errno.EROFS, "cannot")

    monkeypatch.setattr(*{"open": (Path, "open"), "flock": (fcntl, "flock")}[broken], fails)
    hold(tmp_path / "seed0")
    hold(tmp_path / "seed0")
    let_go()


def test_a_forked_process_holds_nothing(tmp_path):
    """As a loader's workers, some of which live on for seconds after a run that was killed."""
    script = (
        "import os, pathlib, time\n"
        "from spikesparse.files.locks import FileLock\n"
        "from spikesparse.runs.run_lock import hold, let_go\n"
        "hold(pathlib.Path('seed0'))\n"
        "told, tell = os.pipe()\n"
        "forked, started = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(started, b'1'), os.close(tell), os.read(told, 1), os._exit(0)\n"
        "os.read(forked, 1)\n"
        "held = not FileLock(pathlib.Path('.seed0.lock')).acquire(wait=False)\n"
        "let_go()\n"
        "print(held, FileLock(pathlib.Path('.seed0.lock')).acquire(wait=False))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "True True\n"


@quiet
@pytest.mark.slow
def test_a_run_that_another_process_trains_is_left_alone(tiny_args, capsys):
    args = [*tiny_args, "--trainer.limit_train_batches=1", "--trainer.max_epochs=2"]
    folder = folder_of(args)
    assert main(["fit", *args]) == 0
    last = folder / "checkpoints/last.ckpt"
    written = last.stat().st_mtime_ns
    with FileLock(folder.with_name(".seed0.lock")):
        for more in ([], ["--fresh"], [f"--ckpt_path={last}"]):
            assert main(["train", *args, *more]) == 2
            assert f"spikesparse: error: {folder}: another process trains there." in capsys.readouterr().err
    assert last.stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.glob("[!.]*")] == ["seed0"]
    assert main(["train", *args, "--fresh"]) == 0
    assert sorted(path.name for path in folder.parent.iterdir()) == [".seed0.lock", "seed0", "seed0-earlier1"]


# ---- whole runs -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def die_in(monkeypatch, name, number):
    """End the run at the ``number``-th call of a step, as if the process were gone: nothing is saved on the way."""
    original, seen = getattr(SpikingClassifier, name), []

    def step(self, *args):
        seen.append(not self.trainer.sanity_checking)
        if sum(seen) == number:
            raise Killed
        return original(self, *args)

    monkeypatch.setattr(SpikingClassifier, name, step)


@quiet
@pytest.mark.parametrize(
    ("name", "number", "place"),
    [
        pytest.param("training_step", 1, None, marks=pytest.mark.slow),
        pytest.param("training_step", 3, "step.ckpt (within epoch 1, step 2)", marks=pytest.mark.slow),
        pytest.param("training_step", 6, "last.ckpt (before epoch 2, step 5)", marks=pytest.mark.slow),
        ("validation_step", 1, "step.ckpt (within epoch 1, step 4)"),
        pytest.param("test_step", 1, None, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_ended_anywhere_goes_on_by_the_same_command(
    tiny_args, tmp_path, monkeypatch, capsys, name, number, place
):
    args = ["train", *tiny_args, "--checkpoint.every_n_steps=2", "--trainer.limit_train_batches=5"]
    folder = folder_of(args[1:])
    assert main(args) == 0
    whole, result = weights(folder), json.loads((folder / "result.json").read_text())
    best = weights(folder, "best")
    shutil.rmtree("runs")
    with monkeypatch.context() as patched:
        die_in(patched, name, number)
        with pytest.raises(Killed):
            main(args)
    capsys.readouterr()
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert ("going on from" in printed) is (place is not None)
    assert place is None or f"{folder}/checkpoints/{place}" in printed
    assert same(weights(folder), whole)
    assert same(weights(folder, "best"), best)
    again = json.loads((folder / "result.json").read_text())
    for key in ("accuracy", "spikes", "synops", "energy_uj", "command"):
        assert again[key] == result[key]
    assert not (folder / "checkpoints/step.ckpt").exists()


@pytest.mark.slow
@quiet
def test_a_run_that_was_killed_in_a_validation_counted_over_epochs_repeats_it(tiny_args, monkeypatch, capsys):
    """Five batches an epoch, a validation behind every seventh batch, and a checkpoint behind every step but those."""
    args = ["train", *tiny_args, "--trainer.limit_train_batches=5", "--checkpoint.every_n_steps=1"]
    args += ["--trainer.check_val_every_n_epoch=null", "--trainer.val_check_interval=7", "--sparsity.end_epoch=0"]
    folder, validated = folder_of(args[1:]), []
    original = SpikingClassifier.on_validation_start

    def validation(self):
        if not self.trainer.sanity_checking:
            validated.append(self.trainer.global_step)
        original(self)

    monkeypatch.setattr(SpikingClassifier, "on_validation_start", validation)
    assert main(args) == 0
    assert validated == [7, 14]
    whole, best = weights(folder), weights(folder, "best")
    shutil.rmtree("runs")
    validated.clear()
    with monkeypatch.context() as patched:
        die_in(patched, "validation_step", 1)
        with pytest.raises(Killed):
            main(args)
    capsys.readouterr()
    assert main(args) == 0
    assert "step.ckpt (within epoch 2, step 6)" in capsys.readouterr().out
    assert validated == [7, 7, 14]
    assert same(weights(folder), whole)
    assert same(weights(folder, "best"), best)


@quiet
def test_a_finished_run_says_so_and_fresh_begins_anew(tiny_args, capsys):
    args = [*tiny_args, "--trainer.limit_train_batches=1", "--trainer.max_epochs=2"]
    for command in ("fit", "train"):
        assert main([command, *args]) == 0
        first = capsys.readouterr().out
        written = (folder_of(args) / "checkpoints/last.ckpt").stat().st_mtime_ns
        assert main([command, *args]) == 0
        again = capsys.readouterr().out
        assert "finished: not trained again (--fresh trains it anew)" in again
        assert (folder_of(args) / "checkpoints/last.ckpt").stat().st_mtime_ns == written
        if command == "train":
            line = next(line for line in first.splitlines() if "accuracy" in line and "energy" in line)
            assert line in again
    assert main(["train", *args, "--fresh"]) == 0
    assert (folder_of(args).parent / "seed0-earlier1/result.json").is_file()


@quiet
def test_a_refused_command_leaves_no_trace_and_an_earlier_run_where_it_was(tiny_args, capsys):
    """In the same folder, since it is the config file or the place of the data that is another."""
    config = Path("mine.yaml")
    config.write_text("seed_everything: 0")
    args = ["train", "--config", str(config), *tiny_args, "--trainer.max_epochs=2"]
    assert main(args) == 0

    def files():
        found = (path for path in Path("runs").rglob("*") if path.is_file() and path.suffix != ".lock")
        return {path: path.stat().st_mtime_ns for path in found}

    there = files()
    capsys.readouterr()
    for settings, more in (
        ("", ["--data.data_dir=nowhere.npz"]),
        ("data: {val_split: 5000}", []),
        ("data: {train_images: 1, drop_last: true}", []),
        ("data: {crop_padding: 8}", []),
        ("model: {net: {threshold: -1}}", []),
        ("trainer: {devices: 0}", []),
        ("", ["--data.batch_size=5", "--data.timesteps=1"]),  # 36 images, one of them a batch by itself
    ):
        config.write_text(settings)
        for others in ([], ["--seed_everything=1"]):  # the earlier run's folder, and one that is not there yet
            assert main([*args, *more, *others]) == 2, (settings, more)
            assert capsys.readouterr().err.count("\n") == 1, (settings, more)
        assert files() == there, (settings, more)
    assert not list(Path("runs").rglob("seed1*"))


@quiet
@pytest.mark.slow
def test_a_run_that_was_taken_over_under_other_flags_is_not_that_of_the_first_command(tiny_args, capsys):
    args = [*tiny_args, "--trainer.limit_train_batches=1", "--trainer.max_epochs=2"]
    folder = folder_of(args)
    named = f"--ckpt_path={folder}/checkpoints/last.ckpt"
    assert main(["fit", *args]) == 0
    assert main(["fit", *args, named, "--model.net.architecture=5-P-F6"]) == 2  # refused: nothing has happened
    assert main(["fit", *args]) == 0
    assert "finished: not trained again" in capsys.readouterr().out
    assert main(["fit", *args, named, "--trainer.max_epochs=3"]) == 0
    assert main(["fit", *args]) == 0
    printed = capsys.readouterr().out
    assert "finished" not in printed
    assert f"an earlier run was kept as {folder}-earlier1" in printed
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


@quiet
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_signal_stops_between_two_steps_and_the_run_goes_on(tiny_args, monkeypatch, capsys, number):
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # whose word is SIGUSR1
    args = ["train", *tiny_args, "--trainer.limit_train_batches=5"]
    folder = folder_of(args[1:])
    assert main(args) == 0
    whole = weights(folder)
    shutil.rmtree("runs")
    with monkeypatch.context() as patched:
        original, seen = SpikingClassifier.training_step, []

        def step(self, *batch):
            seen.append(1)
            if len(seen) == 8:
                os.kill(os.getpid(), number)
            return original(self, *batch)

        patched.setattr(SpikingClassifier, "training_step", step)
        before = signal.getsignal(number)
        assert main(args) == (130 if number == signal.SIGINT else 143)
        assert signal.getsignal(number) == before
    printed = capsys.readouterr().out
    assert f"{number.name}: the step is finished, then training stops" in printed
    assert "with the same flags goes on from here" in printed
    assert len(seen) == 8
    assert main(args) == 0
    assert "step.ckpt (within epoch 2, step 8)" in capsys.readouterr().out
    assert same(weights(folder), whole)


@quiet
def test_a_second_interrupt_does_not_wait_for_the_step(tiny_args, monkeypatch, capsys):
    steps = []

    def step(self, *batch):
        steps.append(len(steps))
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        steps.append("went on")

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(SpikingClassifier, "training_step", step)
        assert main(["train", *tiny_args]) == 130
    signal.signal(signal.SIGINT, before)  # Lightning ignores it from there on, the process being at its end
    assert steps == [0]
    assert "stopped; the same command goes on from the newest checkpoint" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupted_process_ends_by_the_signal_unless_it_was_told_to_ignore_it(tiny_args, ignored):
    """So that a shell leaves its loop; and what nohup or `&` has started trains on."""
    command = [sys.executable, "-m", "spikesparse", "train", *tiny_args, "--trainer.max_epochs=30"]

    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=ignore if ignored else None
    )
    last = folder_of([*tiny_args, "--trainer.max_epochs=30"]) / "checkpoints/last.ckpt"
    until = time.monotonic() + 120
    while not last.is_file() and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == (0 if ignored else -signal.SIGINT), said
    assert ("SIGINT: the step is finished" in said) is not ignored
    assert "Traceback" not in said


@quiet
def test_a_checkpoint_of_the_middle_of_an_epoch_wants_the_same_batches(tiny_args, monkeypatch, capsys):
    args = [*tiny_args, "--checkpoint.every_n_steps=2"]
    with monkeypatch.context() as patched:
        die_in(patched, "training_step", 4)
        with pytest.raises(Killed):
            main(["fit", *args])
    step = folder_of(args) / "checkpoints/step.ckpt"
    assert main(["fit", *args, f"--ckpt_path={step}", "--data.batch_size=4"]) == 2
    assert "another number of processes, batch size or training set" in capsys.readouterr().err


@quiet
def test_a_full_disk_is_a_warning_and_training_goes_on(tiny_args, monkeypatch):
    original = whole_files.whole_file

    def full(path):
        if path.suffix == ".ckpt" and path.name != "best.ckpt":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return original(path)

    monkeypatch.setattr(saving, "whole_file", full)
    with pytest.warns(UserWarning, match=r"last.ckpt cannot be written .*No space left.*: training goes on"):
        assert main(["train", *tiny_args]) == 0
    assert not (folder_of(tiny_args) / "checkpoints/last.ckpt").exists()


def test_processes_that_see_different_checkpoints_are_refused(monkeypatch):
    def gathered(names, name):
        names[:] = [name, "the beginning"]

    trainer = SimpleNamespace(world_size=2, ckpt_path=None)
    with monkeypatch.context() as patched:
        patched.setattr(torch.distributed, "is_initialized", lambda: True)
        patched.setattr(torch.distributed, "all_gather_object", gathered)
        ProcessState().setup(trainer, None, "fit")
        trainer.ckpt_path = "runs/a/seed0/checkpoints/last.ckpt"
        with refused_with(r"different places \(last.ckpt, the beginning\)"):
            ProcessState().setup(trainer, None, "fit")


def test_rows_left_out_are_those_at_the_start_of_one_pass():
    rows = BatchRows(23, 4, True, False, True, seed=3, world=2, rank=1)
    rows.set_epoch(5)
    whole = [batch.tolist() for batch in rows]
    rows.skipped = 2
    assert [batch.tolist() for batch in rows] == whole[2:]
    assert [batch.tolist() for batch in rows] == whole
    assert len(rows) == len(whole) == 3


# ---- slow -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@quiet
def test_the_same_command_twice_is_refused_until_the_first_is_gone(tiny_args, capsys):
    """Killed by force it leaves no lock behind, though its loader's workers may still be there."""
    args = ["fit", *tiny_args, "--trainer.max_epochs=10000", "--data.num_workers=1"]
    last = folder_of(args[1:]) / "checkpoints/last.ckpt"
    lock = FileLock(last.parents[1].with_name(".seed0.lock"))
    with subprocess.Popen([sys.executable, "-m", "spikesparse", *args], stdout=subprocess.DEVNULL) as first:
        while not last.exists() and first.poll() is None:
            time.sleep(0.1)
        for more in ([], ["--fresh"]):
            assert main([*args, *more]) == 2
            assert "another process trains there" in capsys.readouterr().err
        assert first.poll() is None
        assert not lock.acquire(wait=False)
        first.kill()
        first.wait()
        assert lock.acquire(wait=False)
        lock.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "workers", "place"),
    [(4, 0, "last.ckpt (before epoch 2, step 5)"), (7, 2, "step.ckpt (within epoch 2, step ")],
)
def test_two_processes_and_loader_workers_stop_together_and_go_on(tiny_args, tmp_path, step, workers, place):
    """Stopped by SIGTERM, which only the first process gets; the weights are those of the run that was not."""
    (tmp_path / "stop.py").write_text(
        "import os, pathlib, signal\n"
        "from pytorch_lightning import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, batch_idx):\n"
        "        first = trainer.is_global_zero and not pathlib.Path('stopped').exists()\n"
        f"        if first and trainer.global_step == {step}:\n"
        "            pathlib.Path('stopped').touch()\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    args = [*tiny_args, "--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp"]
    args += ["--trainer.callbacks+=stop.Stop", "--allow-import=stop", f"--data.num_workers={workers}"]

    def run(*more):
        return subprocess.run(
            [sys.executable, "-m", "spikesparse", "fit", *args, *more], capture_output=True, text=True, timeout=300
        )

    stopped = run()
    assert stopped.returncode == 143, stopped.stdout + stopped.stderr
    ended = run()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert place in ended.stdout
    folder = next(Path("runs").glob("*/seed0"))
    resumed = weights(folder)
    shutil.rmtree("runs")
    whole = run()
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert same(resumed, weights(folder))
