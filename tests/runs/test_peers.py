"""Several processes: which is the first; and one that ends before its time takes the others along, and says why."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from refusals import refused_with
from spikesparse.commands import main as __main__
from spikesparse.commands.main import main
from spikesparse.commands.table import Command
from spikesparse.runs.peers import check_nodes, is_first_process, lost_peer

PERISH = '''
import os
import signal
import time
from pathlib import Path

from pytorch_lightning import Callback

from spikesparse import DirectEncoder
from spikesparse.errors import UserError


class Perish(Callback):
    """In the middle of epoch 1, one process perishes; the other may be busy for ever with something else."""

    def __init__(self, who: str, how: str, other: str = "trains") -> None:
        self.who, self.how, self.other = who, how, other

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        rank = trainer.global_rank
        Path(f"pid-{rank}").write_text(str(os.getpid()))
        if (trainer.current_epoch, batch_idx) != (1, 1):
            return
        if self.who == "agent" or rank != int(self.who):
            if self.other == "waits":
                Path("waits").touch()
                time.sleep(1e6)
            return
        while self.other == "waits" and not Path("waits").exists():
            time.sleep(0.1)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"user": UserError, "data": OSError}[self.how]("the images are gone")


class Missing(DirectEncoder):
    """One process cannot even begin."""

    def __init__(self):
        if os.environ.get("LOCAL_RANK") == "1":
            raise UserError("the images are missing here")
'''


@pytest.fixture
def launch(tiny_args):
    """Start two processes, plainly or by torchrun; wait until nobody holds their output any more."""
    Path("perish.py").write_text(PERISH)
    before = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]

    def run(launcher, *more, during=None):
        args = [*tiny_args, "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=50"]
        command = [
            *(before if launcher == "torchrun" else []),
            "spikesparse",
            "fit",
            *args,
            "--allow-import=perish",
            *more,
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        out = Path("out.txt")
        with out.open("w") as file:
            started = subprocess.Popen([sys.executable, "-m", *command], stdout=file, stderr=file, env=env)
        if during is not None:
            during(started)
        status = started.wait(timeout=240)
        left = [rank for rank in (0, 1) if not gone(rank)]
        assert not left, f"processes {left} go on: {out.read_text()[-3000:]}"
        return status, out.read_text()

    return run


def gone(rank, within=60):
    """Whether a process that trained has ended, or does so in time; one that nobody has asked for its status has."""
    path = Path(f"pid-{rank}")
    stat = Path("/proc", path.read_text(), "stat") if path.exists() else path
    for _ in range(10 * within):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def perish(who, how, other="trains"):
    init = {"who": who, "how": how, "other": other}
    return ["--trainer.callbacks+=perish.Perish", *(f"--trainer.callbacks.{name}={v}" for name, v in init.items())]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_takes_the_other_along(launch, rank):
    status, said = launch("plain", *perish(rank, "kill"))
    assert status == (1 if rank else -9)  # the command's own process is the first
    assert f"spikesparse: error: process {1 - rank} ends: another process of this run is gone" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_under_torchrun_takes_the_other_along(launch, rank):
    status, said = launch("torchrun", *perish(rank, "kill"))
    assert status == 1
    assert "Signal 9 (SIGKILL) received by PID" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "rank", "how"), [("plain", 0, "user"), ("plain", 1, "data"), ("torchrun", 1, "user")]
)
def test_a_process_whose_images_vanish_says_so_and_takes_the_other_along(launch, launcher, rank, how):
    status, said = launch(launcher, *perish(rank, how))
    assert status == (2 if (launcher, rank) == ("plain", 0) else 1)
    assert {"user": "spikesparse: error: the images are gone", "data": "OSError: the images are gone"}[how] in said


@pytest.mark.slow
def test_a_process_that_cannot_begin_takes_the_first_along(launch):
    """Which waits for it, with no connection yet that could break."""
    status, said = launch("plain", "--data.encoder=perish.Missing")
    assert status == -9
    assert "the images are missing here" in said
    assert "terminated with code" in said


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_for_something_else_ends_all_the_same(launch, rank):
    """As in a collective operation of CUDA, which does not notice that the other side is gone."""
    status, said = launch("plain", *perish(rank, "kill", other="waits"))
    assert status == -9
    reasons = ["spikesparse: error: process 1 ends: its launcher is gone", "terminated with code -9"]
    assert reasons[rank] in said


@pytest.mark.slow
def test_processes_whose_launcher_was_killed_end(launch):
    """torchrun's agent is what watches them: without it nobody would."""

    def kill(agent):
        while not Path("waits").exists() and agent.poll() is None:
            pass
        agent.kill()

    status, said = launch("torchrun", *perish("agent", "kill", other="waits"), during=kill)
    assert status == -9
    for rank in (0, 1):
        assert f"spikesparse: error: process {rank} ends: its launcher is gone" in said


@pytest.mark.parametrize("text", ["CUDA out of memory", "mat1 and mat2 shapes cannot be multiplied", "gloo: bad enum"])
def test_other_errors_are_left_alone(text):
    assert lost_peer(RuntimeError(text)) is None


@pytest.mark.parametrize(("rank", "said"), [("0", "stopped; the same command goes on"), ("1", "")])
def test_of_several_processes_that_ctrl_c_reaches_one_says_so(monkeypatch, capsys, rank, said):
    def command(args):
        raise KeyboardInterrupt

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(Command, "load", lambda self: command)
    assert __main__.main(["train"]) == 130
    assert capsys.readouterr().out[: len("stopped; the same command goes on")] == said


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"])
def test_first_process_by_whatever_has_launched_it(name, monkeypatch):
    for each in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(each, raising=False)
    assert is_first_process()
    monkeypatch.setenv(name, "0")
    assert is_first_process()
    monkeypatch.setenv(name, "1")
    assert not is_first_process()


@pytest.mark.parametrize(
    ("num_nodes", "env", "said"),
    [
        (1, {}, None),
        (1, {"NODE_RANK": "0"}, None),
        (2, {"NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, None),
        (2, {"GROUP_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, None),
        (2, {}, "NODE_RANK and MASTER_ADDR and MASTER_PORT not set"),
        (2, {"GROUP_RANK": "1", "MASTER_ADDR": "a"}, "--trainer.num_nodes=2: MASTER_PORT not set"),
        (1, {"NODE_RANK": "1"}, "NODE_RANK=1: with --trainer.num_nodes=1"),
        (2, {"GROUP_RANK": "2"}, "GROUP_RANK=2: with --trainer.num_nodes=2"),
        (2, {"NODE_RANK": "x"}, "NODE_RANK=x"),
    ],
)
def test_machines_that_could_never_meet_are_refused(num_nodes, env, said, monkeypatch):
    for name in ("NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    if said is None:
        check_nodes(num_nodes)
        return
    with refused_with(re.escape(said)):
        check_nodes(num_nodes)


@pytest.mark.filterwarnings("ignore")  # the parser's advice
def test_a_second_machine_without_the_first_ones_address_is_refused_in_one_line(tiny_args, monkeypatch, capsys):
    monkeypatch.setenv("NODE_RANK", "1")
    assert main(["fit", *tiny_args, "--trainer.num_nodes=2", "--trainer.devices=1"]) == 2
    assert "--trainer.num_nodes=2: MASTER_ADDR and MASTER_PORT not set" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["NODE_RANK", "GROUP_RANK"])
def test_one_command_on_each_machine_trains_one_network(variable, tiny_args):
    """Two machines of one process each train what two processes on one machine do; the first one writes."""

    def train(logs, *more, **env):
        command = [sys.executable, "-m", "spikesparse", "train", *tiny_args, "--trainer.strategy=ddp"]
        command += ["--trainer.max_epochs=3", f"--trainer.logger.init_args.save_dir={logs}", *more]
        return subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ours = [train("ours", "--trainer.num_nodes=2", "--trainer.devices=1", **meet, **{variable: k}) for k in "01"]
    said = [each.communicate(timeout=300)[0].decode() for each in ours]
    assert [each.returncode for each in ours] == [0, 0], said
    assert "bill  " in said[0]
    assert "bill  " not in said[1]
    theirs = train("theirs", "--trainer.devices=2")
    theirs.communicate(timeout=300)
    assert theirs.returncode == 0
    weights = [torch.load(next(Path(logs).rglob("last.ckpt")))["state_dict"] for logs in ("ours", "theirs")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(each, weights[1][name]) for name, each in weights[0].items())
