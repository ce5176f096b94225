"""What settings may import: refused before anything is, wherever the path stands; --allow-import lets more in."""

import importlib
import inspect
import re
import sys
import typing
from pathlib import Path

import pytest
import torch
import yaml

from refusals import refused_with
from spikesparse import CIFAR10DataModule, EarlyExit, PoissonEncoder, SpikingClassifier, load_run
from spikesparse.commands.cli import SpikeCLI
from spikesparse.commands.main import main
from spikesparse.errors import UserError
from spikesparse.settings.class_paths import allow_flags, check_path, limited_imports, split_allowed
from spikesparse.settings.command_line import CommandLine
from spikesparse.settings.moved import MOVED, moved

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here
CODE = """
from pathlib import Path
Path("imported").touch()
from torch import nn
from torch.nn import functional as F
import functools, os
from spikesparse import LIF, SpikingVGG
class Net(SpikingVGG): pass
class Mine(LIF): pass
class Broken(SpikingVGG):
    def __init__(self, num_classes, input_shape, timesteps): super().__init__(); {}["their own mistake"]
def rise(progress): return progress
partial = functools.partial(os.system, "touch imported")
"""


@pytest.fixture(autouse=True)
def _mine(monkeypatch):
    """A module at hand that tells when it is imported."""
    for name in ("mine", "other"):
        Path(f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    yield
    for name in ("mine", "other"):
        sys.modules.pop(name, None)


def refusal(args, capsys):
    assert main(args) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spikesparse: error:")]
    return line


PLACES = {
    "flag": ["--model.net=mine.Net"],
    "flag_of_a_key": ["--model.net.class_path=mine.Net"],
    "flag_with_json": ['--model.net={"class_path": "mine.Net", "init_args": {"width": 2}}'],
    "flag_apart": ["--model.net", "mine.Net"],
    "appended": ["--trainer.callbacks+=mine.Net"],
    "appended_json": ['--trainer.callbacks+={"class_path": "mine.Net"}'],
    "list": ['--trainer.callbacks=[{"class_path": "mine.Net"}]'],
    "neuron": ["--model.net.neuron=mine.Mine"],
    "nested": [
        '--model.net={"class_path": "spikesparse.SpikingVGG", "init_args": {"neuron": {"class_path": "mine.Mine"}}}'
    ],
    "neuron_as_text": ['--model.net={"class_path": "spikesparse.SpikingVGG", "init_args": {"neuron": "mine.Mine"}}'],
    "penalty": ["--model.penalty=mine.Net"],
    "optimizer": ["--model.optimizer=mine.Net"],
    "scheduler": ["--model.scheduler=mine.Net"],
    "encoder": ["--data.encoder=mine.Net"],
    "function": ["--sparsity.schedule=mine.rise"],
    "logger": ["--trainer.logger=mine.Net"],
    "help": ["--model.net.help=mine.Net"],
    "config": ["--config=evil.yaml"],
    "config_short": ["-c", "evil.yaml"],
    "config_of_a_part": ["--model=part.yaml"],
    "config_of_a_net": ["--model.net=net.yaml"],
    "any_typed": [
        '--trainer.logger={"class_path": "pytorch_lightning.loggers.TensorBoardLogger", "init_args": {"save_dir": "x"}'
        ', "dict_kwargs": {"comment": {"class_path": "mine.Net"}}}'
    ],
}


@pytest.mark.parametrize("place", PLACES)
def test_path_of_ones_own_is_refused_before_it_is_imported_and_the_flag_is_named(place, capsys):
    net = {"class_path": "mine.Net"}
    Path("evil.yaml").write_text(yaml.safe_dump({"model": {"net": net}}))
    Path("part.yaml").write_text(yaml.safe_dump({"net": net}))
    Path("net.yaml").write_text(yaml.safe_dump(net))
    line = refusal(["fit", *PLACES[place], "--data.source=digits", "--trainer.accelerator=cpu"], capsys)
    assert line.endswith("add --allow-import mine")
    assert re.search(r"mine\.(Net|Mine|rise)", line)
    assert not Path("imported").exists()
    assert "mine" not in sys.modules


def test_refusal_names_the_place(capsys):
    Path("evil.yaml").write_text("model: {net: {class_path: mine.Net}}")
    assert "--config=evil.yaml: model.net.class_path: mine.Net: not imported" in refusal(
        ["fit", "-c", "evil.yaml"], capsys
    )
    assert "--model.penalty=mine.Net: not imported" in refusal(["validate", "--model.penalty=mine.Net"], capsys)


# Under the packages that settings may name, but no part of a run
REFUSED = [
    *("os.system", "builtins.eval", "subprocess.Popen", "torch.os.system", "torch.sys.exit", "torch.hub.load"),
    *("torch.load", "torch.jit.load", "torch.package.PackageImporter", "torch.multiprocessing.Process"),
    *("torch.utils.benchmark.Timer", "torch.utils.collect_env.run", "torch.ops.load_library", "torch.tanh"),
    *(
        "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
        "torch.nn.modules.module.warnings",
    ),
    *("pytorch_lightning.Trainer", "pytorch_lightning.cli.LightningCLI", "pytorch_lightning.cli.instantiate_class"),
    *(
        "spikesparse.commands.cli.SpikeCLI",
        "spikesparse.commands.main.main",
        "spikesparse.commands.pareto.trial.run_to_log",
    ),
    *(
        "spikesparse.data.sources.Path",
        "spikesparse.files.locks.FileLock",
        "spikesparse.ops.compiled.load",
        "spikesparse.training.teacher.load_teacher",
        "spikesparse.load_run",
        "mine.Net",
        "torchmetrics.utilities.checks.os",
    ),
]
ALLOWED = [
    *("spikesparse.SpikingVGG", "spikesparse.LIF", "spikesparse.PoissonEncoder", "spikesparse.SpikePenalty"),
    *("spikesparse.runs.checkpoints.BestCheckpoint", "spikesparse.LinearWarmupCosineAnnealingLR", "torch.nn.Linear"),
    *("torch.optim.AdamW", "torch.optim.lr_scheduler.MultiStepLR", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
    *("torch.nn.functional.relu", "pytorch_lightning.callbacks.EarlyStopping", "torchmetrics.Accuracy"),
    *("pytorch_lightning.loggers.CSVLogger", "pytorch_lightning.strategies.DDPStrategy"),
    *("pytorch_lightning.profilers.PyTorchProfiler", "lightning_fabric.plugins.environments.SLURMEnvironment"),
    *("pytorch_lightning.plugins.MixedPrecision", "pytorch_lightning.loggers.TensorBoardLogger"),
    *("spikesparse.EarlyExit", "spikesparse.metrics.EnergyConstants", "spikesparse.training.distillation.Distillation"),
    *("spikesparse.ops.surrogate.Atan", "spikesparse.ops.surrogate.Lee2020"),
]


def imported(path):
    from jsonargparse import _typehints

    return _typehints.import_object(path)


def test_every_class_that_a_setting_takes_can_be_named():
    """As the parser has it: whatever stands in the type of an argument of the module or its data is let in."""
    for built in (SpikingClassifier, CIFAR10DataModule):
        for name, parameter in inspect.signature(built.__init__, eval_str=True).parameters.items():
            of = parameter.annotation
            for each in (of, *typing.get_args(of)):
                if inspect.isclass(each) and each.__module__.startswith("spikesparse"):
                    with limited_imports():
                        assert imported(f"{each.__module__}.{each.__qualname__}") is each, name


@pytest.mark.slow
def test_early_exit_is_taken_by_class_path(tiny_args):
    Path("exit.yaml").write_text(
        "model: {early_exit: {class_path: spikesparse.EarlyExit, init_args: {confidence: 0.4, measure: margin}}}"
    )
    flags = ["--model.early_exit=spikesparse.EarlyExit", "--model.early_exit.confidence=0.4"]
    for named, exit in ((flags, EarlyExit(0.4)), (["--config=exit.yaml"], EarlyExit(0.4, "margin"))):
        module = SpikeCLI(
            [
                "validate",
                *(arg for arg in tiny_args if "--sparsity" not in arg),
                "--trainer.limit_val_batches=0",
                *named,
            ]
        )
        assert module.model.early_exit == exit


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_no_part_of_a_run_is_refused(path):
    with refused_with("--allow-import"), limited_imports():
        imported(path)


@pytest.mark.parametrize("path", ALLOWED)
def test_parts_of_a_run_are_imported(path):
    with limited_imports():
        assert imported(path) is not None


@pytest.mark.parametrize("path", ["mine.os.system", "mine.partial", "mine.functools.partial", "mine.F.torch"])
def test_a_module_that_is_let_in_lets_in_nothing_else(path):
    with refused_with("--allow-import"), limited_imports(("mine",)):
        assert imported("mine.Net").__name__ == "Net"
        assert imported("mine.rise")(0.5) == 0.5
        imported(path)


def test_a_prefix_is_a_whole_name_and_may_be_narrow():
    with limited_imports(("min", "torch.distributed.algorithms")):
        with refused_with(r"--allow-import mine$"):
            check_path("mine.Net")
        assert callable(imported("torch.distributed.algorithms.ddp_comm_hooks.default_hooks.fp16_compress_hook"))
        with refused_with("--allow-import torch.hub"), limited_imports():
            imported("torch.hub.load")


def test_limits_end_where_they_began_and_inner_ones_inherit():
    from jsonargparse import _common

    before = dict(_common.parsing_settings)
    with limited_imports(("mine",)), limited_imports():
        check_path("mine.Net")
        assert imported("mine.Net").__name__ == "Net"
    assert _common.parsing_settings == before
    with limited_imports(), pytest.raises(UserError):
        check_path("mine.Net")


def test_flag_is_taken_in_all_its_forms_and_is_no_override():
    args = ["fit", "--allow-import", "mine", "--a=1", "--allow-import=other,third.part", "--b", "2"]
    assert split_allowed(args) == (["fit", "--a=1", "--b", "2"], ("mine", "other", "third.part"))
    assert allow_flags(split_allowed(args)[1]) == ["--allow-import=mine,other,third.part"]
    assert allow_flags(()) == []
    assert CommandLine(args).run_name() == CommandLine(["fit", "--a=1", "--b", "2"]).run_name()
    for wrong in (
        ["--allow-import"],
        ["--allow-import", "--a"],
        ["--allow-import=*"],
        ["--allow-import=a/b"],
        ["--allow-import="],
    ):
        with refused_with("name a package or module"):
            split_allowed(wrong)


def test_values_are_read_as_settings_only_where_they_are_looked_through():
    args = ["fit", '--model.net={"class_path": "a.B"}', "--x.y=null"]
    assert CommandLine(args).settings()[0][1] == {"model": {"net": '{"class_path": "a.B"}'}}
    assert CommandLine(args).settings(read_values=True)[0][1] == {"model": {"net": {"class_path": "a.B"}}}


@pytest.mark.parametrize(
    "text", ["{epoch}-{step}", "{epoch:02d}-{loss/val:.2f}", "{epoch}", "[old] data", "x: [", '"[q']
)
def test_a_value_that_is_no_yaml_is_the_text_itself(text):
    named = CommandLine(["fit", f"--a.filename={text}"]).settings(read_values=True)
    assert named == [(f"--a.filename={text}", {"a": {"filename": text}})]


@pytest.mark.parametrize("odd", ["2024-99-99", "1:99"])
def test_what_the_parser_reads_as_settings_is_looked_through_whatever_else_stands_in_it(odd, tiny_args, capsys):
    # A date that is none makes a plain YAML reader fail; the parser reads no dates.
    value = f'{{"class_path": "mine.Net", "init_args": {{"x": {odd}}}}}'
    assert "mine.Net: not imported" in refusal(["fit", *tiny_args, f"--model.net={value}"], capsys)
    assert not Path("imported").exists()
    [(_, found)] = CommandLine(["fit", f"--model.net={value}"]).settings(read_values=True)
    assert found["model"]["net"]["class_path"] == "mine.Net"


def test_settings_of_a_checkpoint_are_refused_as_any_others(capsys):
    Path("run/checkpoints").mkdir(parents=True)
    settings = {"seed_everything": 0, "model": {"net": {"class_path": "mine.Net"}}, "data": {}}
    torch.save({"state_dict": {}, "settings": settings}, "run/checkpoints/last.ckpt")
    for command in ("test", "validate", "predict", "fit"):
        line = refusal([command, "--ckpt_path=run/checkpoints/last.ckpt"], capsys)
        assert "the checkpoint's settings: model.net.class_path: mine.Net: not imported" in line
    with refused_with(r"checkpoints/last.ckpt: model.net.class_path: mine.Net: not imported"):
        load_run("run")
    assert not Path("imported").exists()


@pytest.mark.slow
def test_checkpoint_with_a_class_of_ones_own_needs_the_flag_again(tiny_args, capsys):
    args = [arg for arg in tiny_args if "max_epochs" not in arg]
    args += [
        "--model.net=mine.Net",
        "--trainer.max_epochs=1",
        "--sparsity.end_epoch=0",
        "--model.scheduler.warmup_epochs=0",
    ]
    assert main(["fit", "--allow-import", "mine", *args]) == 0
    Path("imported").unlink()
    del sys.modules["mine"]
    folder = Path("runs") / CommandLine(["fit", *args]).run_name() / "seed0"
    checkpoint = f"--ckpt_path={folder}/checkpoints/last.ckpt"
    capsys.readouterr()
    for command in ("test", "validate", "predict"):
        line = refusal([command, checkpoint], capsys)
        assert "the checkpoint's settings: model.net.class_path: mine.Net: not imported" in line
    teacher = f"--model.distillation.teacher={folder}/checkpoints/last.ckpt"
    assert "mine.Net: not imported" in refusal(["fit", teacher, *[a for a in args if "mine" not in a]], capsys)
    with refused_with(r"checkpoints/last.ckpt: model.net.class_path: mine.Net: not imported"):
        load_run(folder, "last")
    assert not Path("imported").exists()
    assert main(["test", checkpoint, "--allow-import=other,mine", "--trainer.accelerator=cpu"]) == 0
    assert type(load_run(folder, "last", ["mine"])[0].net).__name__ == "Net"


def test_unsafe_reading_of_checkpoints_cannot_be_asked_for(capsys):
    for args in (["--weights_only=false"], ["--config=evil.yaml"]):
        Path("evil.yaml").write_text("weights_only: false")
        assert "a checkpoint could run any code" in refusal(["fit", "--data.source=digits", *args], capsys)


@pytest.mark.parametrize("flag", ["--weights_onl=false", "--conf=evil.yaml", "--sparsity.end_valu=1"])
def test_a_flag_cut_short_is_no_flag_so_that_none_slips_past_what_is_looked_through(flag, capsys):
    Path("evil.yaml").write_text("weights_only: false")
    assert f"unrecognized arguments: {flag}" in refusal(["fit", "--data.source=digits", flag], capsys)


def test_settings_are_not_fetched_from_the_network(capsys):
    line = refusal(["fit", "--model=http://127.0.0.1:9/x.yaml", "--data.source=digits"], capsys)
    assert "Connect" not in line
    assert "127.0.0.1:9" in line


def test_a_study_is_the_same_with_the_flag_and_its_trials_get_it():
    pytest.importorskip("optuna", reason="the search extra is not installed")
    from spikesparse.commands.pareto.plan import Plan
    from spikesparse.commands.pareto.space import Space

    plans = [
        Plan("s", Path(), ["--a=1", *more], Space({}, []), "synops", 1, 1, 0, "")
        for more in ([], ["--allow-import=mine"])
    ]
    assert plans[0].identity() == plans[1].identity()
    assert "--allow-import=mine" in plans[1].args


def test_a_mistake_in_ones_own_code_keeps_its_traceback_and_others_are_one_line(tiny_args, capsys):
    args = ["fit", "--allow-import=mine", *(arg for arg in tiny_args if "model.net" not in arg)]
    with pytest.raises(KeyError, match="their own mistake"):
        main([*args, "--model.net=mine.Broken"])
    assert "Invalid learning rate: -1" in refusal(
        [*args, "--model.net.architecture=4-P", "--model.optimizer.lr=-1"], capsys
    )


OLD = {
    "spikesparse.checkpoints.BestCheckpoint": "spikesparse.runs.checkpoints.BestCheckpoint",
    "spikesparse.progress.EpochLines": "spikesparse.training.progress.EpochLines",
    "spikesparse.encoding.PoissonEncoder": "spikesparse.data.encoding.PoissonEncoder",
    "spikesparse.SpikingVGG": "spikesparse.SpikingVGG",
    "spikesparse.nn.SpikingVGG": "spikesparse.nn.SpikingVGG",
    "myspikesparse.progress.Net": "myspikesparse.progress.Net",
}


def test_class_paths_of_an_earlier_version_are_read_as_the_present_ones():
    assert {old: moved(old) for old in OLD} == OLD
    assert moved([{"a": list(OLD)}, 3, None, {"b": 1.5}]) == [{"a": list(OLD.values())}, 3, None, {"b": 1.5}]
    for module in MOVED.values():
        assert importlib.import_module(module)
    words = ["fit", "--trainer.callbacks+=spikesparse.progress.EpochLines", "--data.encoder", "spikesparse.encoding.X"]
    assert CommandLine(words).for_parser() == [word if word == "fit" else moved(word) for word in words]


def test_files_of_an_earlier_version_are_read(tiny_args):
    Path("old.yaml").write_text(
        "trainer: {callbacks: [{class_path: spikesparse.checkpoints.BestCheckpoint},"
        " {class_path: spikesparse.progress.EpochLines}]}\n"
        "data: {encoder: {class_path: spikesparse.encoding.PoissonEncoder, init_args: {signed: false}}}\n"
    )
    settings = [arg for arg in tiny_args if not arg.startswith(("--sparsity", "--data.encoder"))]
    cli = SpikeCLI(["validate", *settings, "--config=old.yaml", "--trainer.limit_val_batches=0"])
    assert type(cli.datamodule.encoder) is PoissonEncoder
    assert not cli.datamodule.encoder.signed
    assert [type(each).__name__ for each in cli.trainer.callbacks].count("EpochLines") == 1
