"""TensorBoard's events of a run that was killed are those of the one that was not: each value stands once."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spikesparse.commands.main import main
from spikesparse.commands.report.runs import read_run
from spikesparse.settings.command_line import CommandLine
from spikesparse.training.module import SpikingClassifier

KINDS = {"scalars": "Scalars", "images": "Images", "histograms": "Histograms", "tensors": "Tensors"}
SITTINGS = ("scalars", "schedule/global_batch_size")  # is said at the start of each


class Killed(BaseException):
    pass


def events_of(folder):
    """How often each (kind, tag, step) stands there, but for the starts of sittings, and these."""
    events = EventAccumulator(str(folder), size_guidance=dict.fromkeys(KINDS, 0))
    events.Reload()
    counted = Counter(
        (kind, tag, event.step)
        for kind, read in KINDS.items()
        for tag in events.Tags()[kind]
        for event in getattr(events, read)(tag)
    )
    starts = {key: counted.pop(key) for key in list(counted) if key[:2] == SITTINGS}
    return counted, starts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here
def test_after_kills_each_value_stands_once(tiny_args, monkeypatch):
    args = ["train", *tiny_args, "--trainer.limit_train_batches=3", "--dashboard.every_n_epochs=3"]
    folder = Path("runs") / CommandLine(["fit", *args[1:]]).run_name() / "seed0"
    assert main(args) == 0
    (whole, _), curves = events_of(folder), read_run(folder).curves
    shutil.rmtree("runs")
    end = SpikingClassifier.on_train_epoch_end

    def killed_behind_the_validation(self):
        end(self)
        if self.trainer.current_epoch == 2:
            self.logger.experiment.flush()  # as it does by itself every two minutes
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(SpikingClassifier, "on_train_epoch_end", killed_behind_the_validation)
        for _ in range(2):  # both times from the same last.ckpt
            with pytest.raises(Killed):
                main(args)
    assert main(args) == 0
    counted, starts = events_of(folder)
    assert counted == whole
    assert set(starts.values()) == {1}
    assert {step for *_, step in starts} == {0, 6}
    # "epoch" stands beside every group of values that Lightning logs, of training and of validation
    assert {tag for (_, tag, _), times in whole.items() if times > 1} == {"epoch"}
    assert read_run(folder).curves == curves
