"""What surrounds a run goes wrong: full disks, folders that cannot be written, odd locales and paths, missing data."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

from spikesparse.commands.main import main, say_no_trace
from spikesparse.files.checkpoint import read_checkpoint
from spikesparse.settings.command_line import CommandLine
from spikesparse.training.module import SpikingClassifier

quiet = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here


def folder_of(args):
    return Path("runs") / CommandLine(["fit", *args]).run_name() / "seed0"


def refusal(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spikesparse: error:")]
    assert len(lines) == 1
    return lines[0]


def add_to_its_time(checkpoint, seconds):
    """As if the sitting that wrote it had taken so much longer."""
    whole = torch.load(checkpoint, weights_only=True)
    whole["callbacks"]["TrainingTime"]["time_elapsed"]["train"] += seconds
    torch.save(whole, checkpoint)


@quiet
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_one_clear_line(tiny_args, monkeypatch, capsys, number):
    original = os.mkdir

    def mkdir(path, *args, **kwargs):
        if "runs" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        original(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert main(["train", *tiny_args]) == 2
    line = refusal(capsys)
    assert os.strerror(number) in line
    assert "runs" in line


@pytest.mark.slow
@quiet
def test_a_run_folder_that_is_deleted_ends_the_run_in_one_line(tiny_args, monkeypatch, capsys):
    original = SpikingClassifier.on_train_epoch_start

    def deleted(self):
        if self.trainer.current_epoch == 1:
            shutil.rmtree("runs")
        original(self)

    monkeypatch.setattr(SpikingClassifier, "on_train_epoch_start", deleted)
    monkeypatch.setattr(threading, "excepthook", say_no_trace)  # as the console script does
    args = [*tiny_args, "--trainer.limit_train_batches=1"]
    assert main(["train", *args]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(f"spikesparse: error: {folder_of(args)}: the run's folder was deleted")
    assert "Traceback" not in said


def test_what_a_writing_thread_says_of_a_deleted_folder_does_not_hang_on_who_is_first(tmp_path, capsys):
    """The run may have ended, and let its folder go, before the thread that wrote there is heard."""
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "gone" / "events"))
    say_no_trace(threading.ExceptHookArgs((FileNotFoundError, error, None, None)))
    assert capsys.readouterr().err == ""
    # Not so where the folder is there:
    other = FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "events"))
    say_no_trace(threading.ExceptHookArgs((FileNotFoundError, other, None, None)))
    assert "FileNotFoundError" in capsys.readouterr().err


@quiet
def test_spaces_and_other_letters_in_paths(tiny_args, tmp_path, monkeypatch):
    place = tmp_path / "my work, größer"
    place.mkdir()
    monkeypatch.chdir(place)
    shutil.copy(tmp_path / "tiny.npz", "the data set.npz")
    Path("my run.yaml").write_text("# λ\ndata:\n  flip: true\n", encoding="utf-8")
    args = [arg for arg in tiny_args if "data_dir" not in arg]
    args += ["--data.data_dir=the data set.npz", "--config", "my run.yaml", "--trainer.limit_train_batches=1"]
    assert main(["train", *args]) == 0
    assert (folder_of(args) / "result.json").is_file()
    assert main(["test", f"--ckpt_path={folder_of(args)}/checkpoints/best.ckpt"]) == 0


@quiet
def test_data_that_vanished_is_named_and_the_run_stays_where_it_is(tiny_args, tmp_path, monkeypatch, capsys):
    args = ["train", *tiny_args, "--trainer.limit_train_batches=1"]

    class Gone(BaseException):
        pass

    original = SpikingClassifier.on_train_epoch_start

    def killed(self):
        if self.trainer.current_epoch == 2:
            raise Gone
        original(self)

    with monkeypatch.context() as patched:
        patched.setattr(SpikingClassifier, "on_train_epoch_start", killed)
        with pytest.raises(Gone):
            main(args)
    kept = (tmp_path / "tiny.npz").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(args) == 2
    assert "tiny.npz" in refusal(capsys)
    kept.rename(tmp_path / "tiny.npz")
    add_to_its_time(folder_of(args[1:]) / "checkpoints" / "last.ckpt", 1000)
    assert main(args) == 0
    assert "before epoch 3" in capsys.readouterr().out
    assert 1000 < json.loads((folder_of(args[1:]) / "result.json").read_text())["fit_seconds"] < 1300
    assert [path.name for path in folder_of(args[1:]).parent.glob("[!.]*")] == ["seed0"]


@quiet
@pytest.mark.slow
def test_a_clock_that_is_set_back_changes_nothing(tiny_args, monkeypatch, capsys):
    args = [*tiny_args, "--trainer.limit_train_batches=2"]
    assert main(["train", *args]) == 0
    first = json.loads((folder_of(args) / "result.json").read_text())
    shutil.rmtree("runs")
    now, calls = time.time, []

    def set_back():
        calls.append(1)
        return now() - (0 if len(calls) < 20 else 86_400 * 365)

    monkeypatch.setattr(time, "time", set_back)
    assert main(["train", *args]) == 0
    assert len(calls) > 20
    again = json.loads((folder_of(args) / "result.json").read_text())
    assert {k: again[k] for k in ("accuracy", "spikes")} == {k: first[k] for k in ("accuracy", "spikes")}
    assert 0 <= again["fit_seconds"] < 300
    assert "-" not in capsys.readouterr().out.split("epoch 4/4")[1].split("left")[0].split("lambda")[1]


@pytest.mark.slow
def test_a_locale_without_utf8(tiny_args, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"data": {"flip": True}}) + "# λ, µJ, größer\n", encoding="utf-8"
    )
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    args = ["--config", "mine.yaml", *tiny_args, "--trainer.limit_train_batches=1"]
    command = [sys.executable, "-m", "spikesparse", "train", *args]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")
    assert (folder_of(args) / "bill.csv").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_no_barrier(tiny_args):
    """Only the first of two processes writes a checkpoint, and learns that it cannot; logs are small enough."""
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); "
    script += "from spikesparse.commands.main import entry; entry()"
    Path("limited.py").write_text(script)
    args = [*tiny_args, "--trainer.devices=2", "--trainer.strategy=ddp", "--model.net.architecture=64-P-F64"]
    args += ["--trainer.max_epochs=3", "--sparsity.end_epoch=3"]  # no best.ckpt, for want of which it would end
    command = [sys.executable, "limited.py", "fit", *args]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "last.ckpt cannot be written ([Errno 27] File too large): training goes on" in said
    assert "epoch 3/3" in said


@pytest.mark.slow
def test_a_disk_that_fills_up(tiny_args, tmp_path):
    """A disk of its own, of a size at which first checkpoints and then everything fails; what was whole stays whole."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing for its users")
    (tmp_path / "runs").mkdir()
    args = [*tiny_args, "--trainer.max_epochs=12", "--dashboard.every_n_epochs=1"]
    for kilobytes in (60, 200, 600):
        script = (
            f'mount -t tmpfs -o size={kilobytes}k none runs && "$@"; status=$?; cp -r runs {kilobytes}; exit $status'
        )
        command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-m", "spikesparse", "train", *args]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        said = ended.stdout + ended.stderr
        assert ended.returncode in (0, 2), said
        assert "Traceback" not in said
        assert "No space left on device" in said
        for path in (tmp_path / str(kilobytes)).rglob("*.ckpt"):
            read_checkpoint(path)
