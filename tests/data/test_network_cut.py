"""With its data present, the package imports, trains and tests without a network."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spikesparse.files.paths import CONFIGS, PACKAGE

NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]  # Linux; not even this machine itself is within reach
#: Where there is none: what Python itself would connect to or look up is refused, unless it is this machine.
REFUSALS = """
import socket


def is_here(host):
    return host in (None, "", "localhost", "::1", socket.gethostname()) or str(host).startswith("127.")


def refusing(function, host_of):
    def call(*args, **kwargs):
        if not is_here(host_of(args)):
            raise OSError("the network is cut off")
        return function(*args, **kwargs)

    return call


def host_of(args):
    return args[1][0] if isinstance(args[1], tuple) else None


for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, refusing(getattr(socket.socket, name), host_of))
socket.getaddrinfo = refusing(socket.getaddrinfo, lambda args: args[0])
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)"
IMPORT = "from spikesparse import *; from spikesparse.commands.table import COMMANDS; " + (
    "[command.load() for command in COMMANDS.values()]"
)


@pytest.fixture(params=["namespace", "refusals"])
def cut_off(request):
    """Runs Python without a network, once it is seen that there is none."""
    path = [str(PACKAGE.parent)]
    before, server = [], socket.create_server(("127.0.0.1", 0))
    if request.param == "namespace":
        try:
            subprocess.run([*NAMESPACE, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no network namespaces here")
        before, address = NAMESPACE, server.getsockname()  # within reach, but for the cut
        subprocess.run([sys.executable, "-c", CONNECT, *map(str, address)], check=True)
    else:
        Path("cut").mkdir()
        Path("cut", "sitecustomize.py").write_text(REFUSALS)
        path, address = [str(Path("cut").resolve()), *path], ("192.0.2.1", 9)  # an address that nobody has, RFC 5737

    def python(*args):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
        command = [*before, sys.executable, *map(str, args)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)

    refused = python("-c", CONNECT, *address)
    assert refused.returncode != 0
    assert ("the network is cut off" in refused.stderr) is (request.param == "refusals")
    yield python
    server.close()


@pytest.mark.slow
def test_import_train_and_test_need_no_network(cut_off):
    done = cut_off("-c", IMPORT)
    assert done.returncode == 0, done.stderr[-3000:]
    short = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]
    small = ["--model.net.architecture=4-P-8-P", "--sparsity.start_epoch=0", "--sparsity.end_epoch=1"]
    config = ["--config", CONFIGS / "experiment" / "digits.yaml"]
    done = cut_off("-m", "spikesparse", "train", *config, *short, *small, "--trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test accuracy" in done.stdout
    checkpoint = next(Path("runs").rglob("best.ckpt"))
    assert list(checkpoint.parents[1].glob("events.*"))  # TensorBoard was written as well
    done = cut_off("-m", "spikesparse", "test", f"--ckpt_path={checkpoint}", "--trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test accuracy" in done.stdout
