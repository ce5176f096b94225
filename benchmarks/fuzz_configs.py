"""Mutated configurations through the command line, up to but not including training: none may do harm.

    make fuzz                                   10,000 of them, into results/fuzz_configs.csv
    python benchmarks/fuzz_configs.py --count 300 --seed 1 --first 40      some of another seed

Each is one of the files in configs/, changed at random as a value, as YAML text or by flags, with what a stranger might
put there. `spikesparse fit` must end in one of two ways: it refuses in one line and exits with 2, or it builds module,
data, trainer, optimizer and scheduler. Anything else is a finding, printed with its seed and number: another exception,
a second line, an import outside the packages that settings may name, a process, a connection, over --limit seconds,
or, all together, over --memory megabytes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

# Nothing that is used imports these: whoever asks for one was told to by a config.
CANARIES = ("canary", "antigravity", "this", "turtle", "turtledemo", "idlelib", "lib2to3", "nturl2path", "pyclbr")
EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn")
EVENTS += ("socket.connect", "socket.bind", "urllib.Request", "webbrowser.open", "os.remove", "shutil.rmtree")
PATHS = [
    *("os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "posix.system", "shutil.rmtree"),
    *("torch.os.system", "torch.hub.load", "torch.load", "torch.jit.load", "torch.package.PackageImporter"),
    *(
        "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
        "torch.multiprocessing.Process",
    ),
    *("torch.utils.benchmark.Timer", "torch.utils.collect_env.run", "torch.sys.modules", "torch.classes.load_library"),
    *("pytorch_lightning.Trainer", "pytorch_lightning.cli.LightningCLI", "pytorch_lightning.cli.instantiate_class"),
    *(
        "spikesparse.commands.cli.SpikeCLI",
        "spikesparse.commands.main.main",
        "spikesparse.commands.pareto.trial.run_to_log",
    ),
    *(
        "spikesparse.LIF",
        "spikesparse.SpikingVGG",
        "spikesparse.PoissonEncoder",
        "spikesparse.runs.checkpoints.os.system",
    ),
    *("torch.nn.Linear", "torch.nn.ReLU", "torch.optim.SGD", "torch.optim.lr_scheduler.LambdaLR", "functools.partial"),
    *("pytorch_lightning.callbacks.LambdaCallback", "pytorch_lightning.callbacks.EarlyStopping", "AdamW", "SGD"),
    *(f"{name}.Canary" for name in CANARIES),
]
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        10**9,
        -(10**30),
        10**400,
        0.0,
        -0.5,
        1e308,
        1e-320,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        " ",
        "null",
        "nan",
        "0x10",
        "1e999",
        "-",
        "--",
        "~",
        "*",
        "&a",
        "!!int x",
        "é",
        "\u202e\u0000",
        "💥" * 50,
        "x" * 5000,
    ),
    *("9" * 5000, "1:1:1:1", "2001-99-99", "../../../etc/passwd", "/dev/zero", "/proc/self/mem", "file:///etc/passwd"),
    *(
        "http://127.0.0.1:9/x",
        "${HOME}",
        "%s%n",
        "a.b",
        "a.b.c",
        "[" * 40,
        "{" * 40,
        "999999999-P-F999999999",
        "1-" * 3000,
    ),
    *([], {}, [[]], [None], [1, "a", None], {"a": 1}, {"class_path": None}, {"class_path": ""}, {"init_args": {}}),
    *({"class_path": 1, "init_args": []}, {1: 2}, {None: None}, {"class_path": ["a.B"]}, {"": {"": ""}}),
]
TEXTS = [
    "!!python/object/apply:os.system ['touch HARM']\n",
    "!!python/name:os.system\n",
    "!!python/module:canary\n",
    "!!binary |\n  AAAA\n",
    "!!set {a, b}\n",
    "x: &x [*x]\n",
    "? [a, b]\n: c\n",
    "? {a: b}\n",
    "<<: {trainer: {max_epochs: 1}}\n",
    "<<: [1, 2]\n",
    "---\na: 1\n---\nb: 2\n",
    "%YAML 9.9\n---\n",
    "\t- a\n",
    "\ufefftrainer: {}\n",
    "trainer: {}\ntrainer: {max_epochs: 1}\n",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "a: " + "[" * 100_000 + "\n",
    "a: " + "{a: " * 5_000 + "\n",
    "- " * 5_000 + "\n",
    "a: 'unterminated\n",
    "a: |\n" + "  long\n" * 20_000,
    "k: " + "v" * 2_000_000 + "\n",
    "a: " + "1" * 5_000 + "\n",
    "config: base.yaml\n",
    "subcommand: test\n",
    "allow_import: os\n",
    "weights_only: false\nckpt_path: x.ckpt\n",
]


def bases() -> list[str]:
    """The shipped configurations that `fit` reads."""
    folder = ROOT / "configs"
    return [path.read_text() for path in sorted([*folder.glob("*.yaml"), *folder.glob("[de]*/*.yaml")])]


def hostile(random: random.Random, depth: int = 0) -> Any:
    """A value that is wrong somewhere."""
    kind = random.random()
    if kind < 0.5:
        return copy.deepcopy(random.choice(VALUES))  # a later change may be within it
    path = random.choice(PATHS)
    if kind < 0.65:
        return path
    if kind < 0.85 and depth < 6:
        arguments = {random.choice(["args", "fn", "command", "lr", "net", "x"]): hostile(random, depth + 1)}
        return {"class_path": path, random.choice(["init_args", "dict_kwargs", "init_arg"]): arguments}
    if kind < 0.95:
        return [hostile(random, 6) for _ in range(random.randrange(4))]
    value: Any = "deep"
    for _ in range(random.choice([3, 12, 30, 200])):
        value = [value] if random.random() < 0.5 else {"class_path": path, "init_args": {"module": value}}
    return value


def change(settings: Any, random: random.Random, known: list[str]) -> Any:
    """Settings with one place changed."""
    places: list[tuple[Any, Any]] = []
    waiting = [settings]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            inner = list(node.items() if isinstance(node, dict) else enumerate(node))
            places += [(node, key) for key, _ in inner]
            waiting += [value for _, value in inner]
    kind = random.random()
    if kind < 0.35 or not places:  # any setting that there is
        node, (*parents, last) = settings, random.choice(known).split(".")
        for name in parents:
            if not isinstance(node.get(name), dict):
                node[name] = {}
            node = node[name]
        node[last] = hostile(random)
        return settings
    node, key = random.choice(places)
    if kind < 0.7:
        node[key] = hostile(random)
    elif kind < 0.78:
        del node[key]
    elif kind < 0.86 and isinstance(node, dict):
        node[random.choice(["", "x", "class_path", "init_args", "é", 1, None, "__path__", "a.b", str(key) * 2])] = node[
            key
        ]
    elif kind < 0.92:
        other, place = random.choice(places)
        with contextlib.suppress(LookupError):
            # Copies: what is put into a part of itself would have no end.
            node[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(node[key])
    else:
        node[key] = {"class_path": random.choice(PATHS), "init_args": node[key]}
    return settings


def spoil(text: str, random: random.Random) -> str:
    """YAML text with something in it changed, whatever it means."""
    lines = text.splitlines(keepends=True) or ["\n"]
    place = random.randrange(len(lines))
    kind = random.randrange(8)
    if kind == 0:
        lines.insert(place, lines[random.randrange(len(lines))])
    elif kind == 1:
        lines[place] = " " * random.randrange(5) + lines[place]
    elif kind == 2:
        lines.insert(place, random.choice(TEXTS))
    elif kind == 3:
        lines.append(random.choice(TEXTS))
    elif kind == 4:
        return random.choice(TEXTS)
    elif kind == 5:
        text = "".join(lines)
        return text[: random.randrange(len(text) + 1)]
    else:
        text = "".join(lines)
        for _ in range(random.choice([1, 1, 2, 5, 30])):
            at = random.randrange(len(text) + 1)
            insert = random.choice(
                ["", ":", "- ", "{", "}", "[", "]", "&a ", "*a ", "!!", "'", '"', "#", "\n", "\t", "\0", "é"]
            )
            text = text[:at] + insert + text[at + random.randrange(2) :]
        return text
    return "".join(lines)


def case(seed: int, number: int, known: list[str]) -> tuple[str, list[str]]:
    """A config file's text, and flags, as a function of seed and number."""
    draw = random.Random(f"{seed}-{number}")
    text, flags = draw.choice(bases()), []
    if by_value := draw.random() < 0.7:
        settings = yaml.safe_load(text)
        for _ in range(draw.choice([1, 1, 1, 2, 4])):
            settings = change(settings, draw, known)
        with contextlib.suppress(yaml.YAMLError, RecursionError):
            text = yaml.safe_dump(settings, allow_unicode=draw.random() < 0.5, sort_keys=False)
    if not by_value or draw.random() < 0.15:
        text = spoil(text, draw)
    if draw.random() < 0.15:
        flag = draw.choice(known) + draw.choice(["", "", "+", ".class_path", ".init_args.x", ".help"])
        value = hostile(draw)
        flags.append(f"--{flag}={value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True)}")
    return text, flags


class Built(BaseException):
    """All is built: here training would begin."""


class Hang(BaseException):
    """It took too long."""


class Watch:
    """Notes what no configuration may bring about."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.active = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """As a finder, before all others: an import of a canary."""
        if self.active and name.partition(".")[0] in CANARIES:
            self.seen.append(f"import of {name}")

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """As an audit hook: a process, a connection, a file removed."""
        if self.active and event in EVENTS:
            self.seen.append(f"{event} {str(args)[:80]}")


@contextlib.contextmanager
def stopped_before_training() -> Iterator[list[str]]:
    """`fit` that ends once all is built, with one parser for all; gives the settings that there are."""
    from spikesparse.commands.cli import SpikeCLI

    kept: dict[str, Any] = {}
    setup, run = SpikeCLI.setup_parser, SpikeCLI._run_subcommand

    def setup_once(self: Any, *args: Any, **kwargs: Any) -> None:
        if not kept:
            setup(self, *args, **kwargs)
            names = ("parser", "_subcommand_parsers", "_subcommand_method_arguments")
            kept.update({name: getattr(self, name) for name in names if hasattr(self, name)})
        vars(self).update(kept)

    def stop(self: Any, subcommand: str) -> None:
        self.model.configure_optimizers()
        if self.datamodule.source == "digits":  # which is at hand; it is split, too
            self.datamodule.train_dataloader()
        raise Built

    SpikeCLI.setup_parser, SpikeCLI._run_subcommand = setup_once, stop  # type: ignore[method-assign]
    try:
        with contextlib.suppress(Built):
            SpikeCLI(["fit", "--config", str(ROOT / "configs/experiment/digits.yaml")])
        actions = kept["_subcommand_parsers"]["fit"]._actions
        yield sorted({action.dest for action in actions if "." in action.dest or action.dest == "seed_everything"})
    finally:
        SpikeCLI.setup_parser, SpikeCLI._run_subcommand = setup, run  # type: ignore[method-assign]


def outcome(path: Path, flags: list[str], limit: int) -> tuple[str, str]:
    """How `spikesparse fit` ends: "built", "refused" or a finding, and what it said."""
    from spikesparse.commands.main import main

    out, err = io.StringIO(), io.StringIO()
    signal.alarm(limit)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["fit", "--config", str(path), *flags])
    except Built:
        return "built", ""
    except Hang:
        return "hang", "".join(traceback.format_stack())
    except SystemExit as end:
        return ("printed" if end.code in (0, None) else "exit"), f"{end.code}"
    except BaseException:
        return "exception", traceback.format_exc()
    finally:
        signal.alarm(0)
    said = [line for line in err.getvalue().splitlines() if line.strip()]
    lines = [line for line in said if line.startswith("spikesparse: error: ")]
    if status == 2 and len(lines) == 1 and said[-1] == lines[0]:
        return "refused", lines[0]
    return "unclear", f"status {status}: {err.getvalue()[-2000:]}"


def fuzz(count: int, seed: int, first: int = 0, limit: int = 30) -> tuple[Counter[str], list[str]]:
    """Run so many cases in a folder of their own; how they ended, and the findings."""
    watch = Watch()
    outcomes: Counter[str] = Counter()
    findings: list[str] = []

    def on_alarm(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, on_alarm)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        warnings.catch_warnings(),
        stopped_before_training() as known,
    ):
        warnings.simplefilter("ignore")
        Path("canary.py").write_text("open('HARM', 'w')\nclass Canary: pass\n")
        sys.path.append(folder)  # a stranger's file at hand, as if started in his folder by python -m
        sys.meta_path.insert(0, watch)  # type: ignore[arg-type]
        sys.addaudithook(watch.audit)
        try:
            for number in range(first, first + count):
                text, flags = case(seed, number, known)
                Path("case.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
                watch.active = True
                ended, said = outcome(Path("case.yaml"), flags, limit)
                watch.active = False
                shutil.rmtree("runs", ignore_errors=True)
                if watch.seen or Path("HARM").exists():
                    ended, said = "harm", f"{watch.seen}; {said}"
                    watch.seen.clear()
                    Path("HARM").unlink(missing_ok=True)
                outcomes[ended] += 1
                if ended not in ("refused", "built", "printed"):
                    findings.append(f"seed {seed}, case {number}: {ended}: {said}\nflags {flags}\n{text[:1500]}\n")
                    print(findings[-1], flush=True)
        finally:
            sys.meta_path.remove(watch)  # type: ignore[arg-type]
            sys.path.remove(folder)
            signal.signal(signal.SIGALRM, before)
    return outcomes, findings


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--limit", type=int, default=30, help="seconds that one may take")
    parser.add_argument("--memory", type=int, default=1024, help="megabytes that all together may take")
    parser.add_argument("--csv", type=Path, help="add a row of counts, time and memory there")
    args = parser.parse_args()
    from tables import about_machine, append_rows

    import spikesparse.commands.train  # noqa: F401 (its memory is no case's)

    megabytes = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
    # An allocation above it fails, and is a finding, before the machine has none left.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 * args.memory << 20),) * 2)
    started = time.monotonic()
    outcomes, findings = fuzz(args.count, args.seed, args.first, args.limit)
    seconds = time.monotonic() - started
    megabytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if megabytes[1] - megabytes[0] > args.memory:
        findings.append(f"memory: {megabytes[1] - megabytes[0]:.0f} MB")
        print(findings[-1])
    row = {
        **{"count": args.count, "seed": args.seed, "first": args.first},
        **{ended: outcomes[ended] for ended in ("refused", "built", "printed")},
        "findings": len(findings),
        **{"seconds": round(seconds, 1), "start_mb": round(megabytes[0]), "peak_mb": round(megabytes[1])},
        **about_machine("hardware", "threads", "python", "torch", "pytorch-lightning", "commit"),
        "command": " ".join(["benchmarks/fuzz_configs.py", *sys.argv[1:]]),
    }
    print(row)
    if args.csv:
        append_rows([row], args.csv)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
