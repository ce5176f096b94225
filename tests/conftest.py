"""Guards around every test, and what several of them share."""

import os
import signal
import sys

import numpy as np
import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

#: Files whose slow tests launch processes that find each other by a port: one after the other, never two at once.
LAUNCHES = {
    *("test_accumulation", "test_batch_norm", "test_budget", "test_distributed", "test_faults", "test_loading"),
    *("test_nonfinite", "test_pareto", "test_peers", "test_resume", "test_runs"),
}


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background job: processes that a test starts would inherit it, and be deaf to their Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_itemcollected(item):
    """Mark what those files hold."""
    if item.path.stem in LAUNCHES:
        item.add_marker(pytest.mark.launches)


@pytest.fixture(autouse=True)
def _guards(monkeypatch, tmp_path):
    """Work in a folder of the test's own; leave environment, threads, dtype and processes as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command line adds the current directory
    before, threads, rank = dict(os.environ), torch.get_num_threads(), getattr(rank_zero_only, "rank", 0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    rank_zero_only.rank = rank  # Lightning sets it for good: all that follows would be silent
    assert torch.get_default_dtype() == torch.float32
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in set(os.environ) - set(before):
        del os.environ[name]  # Lightning leaves PL_GLOBAL_SEED and the like
    os.environ.update(before)


@pytest.fixture(params=[1, 2, 4])
def threads(request):
    """How many threads torch and the kernels use in a test, which runs once for each; the guards put them back."""
    torch.set_num_threads(request.param)
    return request.param


@pytest.fixture
def tiny_npz(tmp_path):
    """40 training and 12 test images of 8x8 pixels in three classes that differ in brightness."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("test", 12)):
        labels = np.arange(count) % 3
        noise = rng.integers(0, 60, (count, 8, 8, 3))
        arrays[f"x_{split}"] = (noise + 90 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels.astype(np.int64)
    path = tmp_path / "tiny.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def cifar_like_npz(tmp_path):
    """Random images of CIFAR-10's shape, ten classes."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60), ("test", 20)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(tmp_path / "cifar.npz", **arrays)
    return tmp_path / "cifar.npz"


@pytest.fixture
def tiny_args(tiny_npz):
    """Flags of a run that takes a second: 8x8 images, one spiking layer, every source of randomness on, no pictures."""
    return [
        "--data.source=npz",
        f"--data.data_dir={tiny_npz}",
        "--data.batch_size=8",
        "--data.encoder=poisson",
        "--data.timesteps=3",
        "--model.net.architecture=4-P-F6",
        "--model.net.dropout=0.2",
        "--model.scheduler.warmup_epochs=1",
        "--sparsity.end_value=1",
        "--sparsity.end_epoch=2",
        "--trainer.max_epochs=4",
        "--trainer.log_every_n_steps=1",
        "--dashboard.every_n_epochs=0",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.accelerator=cpu",
    ]
