"""The line of an epoch: what stands in it, and the time that is left."""

from types import SimpleNamespace

import pytest
import torch

from spikesparse.training import progress


@pytest.fixture
def lines(monkeypatch, capsys):
    """Lines of a training that goes on after some epochs and batches; ten batches an epoch, each ends at a second."""

    def print_lines(epoch, batches, seconds, max_epochs=12):
        clock = iter([100.0, *(100.0 + second for second in seconds)])
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        loop = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=batches)))
        trainer = SimpleNamespace(
            current_epoch=epoch,
            max_epochs=max_epochs,
            num_training_batches=10,
            is_global_zero=True,
            callback_metrics={"accuracy/val": torch.tensor(0.5)},
            fit_loop=SimpleNamespace(restarted_mid_epoch=batches > 0, epoch_loop=loop),
        )
        line = progress.EpochLines()
        line.on_train_start(trainer, SimpleNamespace())
        for _ in seconds:
            line.on_train_epoch_end(trainer, SimpleNamespace(sparsity_weight=0.25))
            trainer.current_epoch += 1
        return capsys.readouterr().out.splitlines()

    return print_lines


def test_time_left_is_that_of_the_epochs_to_come(lines):
    assert lines(0, 0, [60, 140], max_epochs=3) == [
        "epoch 1/3  val accuracy 50.00%  lambda 0.25  2 min left",  # two of 60 s
        "epoch 2/3  val accuracy 50.00%  lambda 0.25  70 s left",  # one, of 70 s in the mean
    ]


def test_the_rest_of_an_epoch_is_not_taken_for_a_whole_one(lines):
    first, second = lines(6, 8, [60, 360])
    assert first.endswith("25 min left")  # a fifth took 60 s, so an epoch takes 300 s: five of them
    assert second.endswith("20 min left")  # 1.2 epochs took 360 s: four of 300 s


def test_behind_an_epochs_last_batch_the_next_one_is_a_whole_one(lines):
    """Lightning's own checkpoints may be written there; it has counted that epoch then."""
    assert lines(6, 10, [60])[0].endswith("5 min left")  # five of 60 s


def test_a_training_without_an_end_has_no_time_left(lines):
    assert lines(0, 0, [60], max_epochs=-1) == ["epoch 1  val accuracy 50.00%  lambda 0.25"]
