"""Which lines could be wrong without a test that notices: ``make mutate FILES="sparsity/budget.py resume.py:120"``.

Each named file, or one line of it, is changed in one place at a time: by mutmut's operators, and by two more, a
condition that always or never holds and a call that is left out. Of the tests that :data:`TESTS` names for the file,
those that reach the place run on the changed code, the quickest first; a change that they all pass with has survived.
Tests that train a whole run are left out unless they are asked for: what only they reach is counted apart.

It happens in a copy of the checkout. Its tests are collected once; each change is then judged in a process forked from
there, in which only the function's code is exchanged, so that most take well under a second. (mutmut's own command
leaves out properties and constants.) What is no function's code, such as a constant, comes last: all is imported anew
for it. What the time did not suffice for, or did not end, was not judged.
"""

from __future__ import annotations

import argparse
import ast
import csv
import gc
import importlib
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_string

ROOT = Path(__file__).resolve().parents[1]
#: A file, without its ending, or its folder -> its tests, wherever they lie below tests/.
TESTS = {
    "checkpoints": ("test_checkpoints_callbacks", "test_budget", "test_hostile_files"),
    "early_exit": ("test_early_exit",),
    "exits": ("test_exit_search", "test_early_exit"),
    "metrics": ("test_metrics", "test_bill"),
    "module": ("test_early_exit", "test_checkpoints_callbacks", "test_distillation", "test_resume"),
    "identity": ("test_identity", "test_resume"),
    "process_state": ("test_resume", "test_checkpoints_callbacks"),
    "resume": ("test_resume",),
    "saving": ("test_resume", "test_checkpoints_callbacks"),
    "sparsity": ("test_penalty_schedules", "test_budget"),
}
SCREEN = os.fdopen(os.dup(1), "w")  # the tests' own output goes elsewhere
KILLED, SURVIVED, UNREACHED, ENDLESS, NO_TIME = "killed", "survived", "not reached", "did not end", "no time left"
VERDICTS = (KILLED, SURVIVED, UNREACHED, ENDLESS, NO_TIME)
COLUMNS = ("file", "line", "verdict", "change", "why")
# Types, what an error says, and what could not be wrong in silence.
LEFT_ALONE = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom, cst.Raise, cst.Assert)


Row = tuple[str, int, str, str]  # file, line, verdict, change


class Mutant(NamedTuple):
    """A change: its line, the lines by one of which a test gets there, the function that it is in, the whole source."""

    file: str
    line: int
    change: str
    reached_by: range
    function: str | None
    source: str


class Mutator(cst.CSTVisitor):
    """Notes what can be changed in a module: lines and function, the place of the text, the new text."""

    METADATA_DEPENDENCIES = (PositionProvider, WhitespaceInclusivePositionProvider, ParentNodeProvider)

    def __init__(self, module: cst.Module) -> None:
        super().__init__()
        self.module, self.found = module, list[tuple[range, str | None, Any, str]]()

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Note a node; whether to look into it."""
        told = isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString)  # a docstring
        told |= isinstance(node, cst.Assign) and getattr(node.targets[0].target, "value", "") == "__all__"
        plain = isinstance(node, cst.Call) and getattr(node.func, "value", "") in ("len", "isinstance")
        if told or plain or isinstance(node, LEFT_ALONE):
            return False
        for old, new in _changes(node):
            place = self.get_metadata(WhitespaceInclusivePositionProvider, old)
            self.found.append((*self._where(old), place, self.module.code_for_node(new)))
        return True

    def _where(self, node: cst.CSTNode) -> tuple[range, str | None]:
        """From its statement's first line to its own last one; the outermost function, with its classes."""
        end = self.get_metadata(WhitespaceInclusivePositionProvider, node).end.line
        first, names, inside = None, list[str](), False
        while not isinstance(node, cst.Module):
            if first is None and isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement | cst.Param):
                first = self.get_metadata(PositionProvider, node).start.line
            above = self.get_metadata(ParentNodeProvider, node)
            if isinstance(above, cst.FunctionDef):
                inside, names = node is above.body, [above.name.value]
            elif isinstance(above, cst.ClassDef):
                names.insert(0, above.name.value)
            node = above
        return range(first or end, end + 1), ".".join(names) if inside else None


def _changes(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            for new in itertools.islice(operator(node), 1 if operator is operator_string else None):
                if operator is operator_arg_removal and len(new.args) < len(node.args):
                    gone = next(arg for arg in node.args if arg not in new.args)
                    if gone.keyword is None:  # what is needed is missing: no test is needed to see that
                        continue
                yield node, new
    if isinstance(node, cst.If):
        yield from ((node.test, cst.Name(holds)) for holds in ("True", "False"))
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield node, cst.Pass()


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """All that can be made of a source by one change, each once, from top to bottom."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    mutator, seen = Mutator(wrapper.module), {ast.dump(ast.parse(source))}
    wrapper.visit(mutator)
    starts = list(itertools.accumulate(map(len, source.splitlines(keepends=True)), initial=0))
    for lines, function, place, new in sorted(mutator.found, key=lambda each: each[0].start):
        start, end = (starts[edge.line - 1] + edge.column for edge in (place.start, place.end))
        old, text = source[start:end], source[:start] + new + source[end:]
        try:
            says = ast.dump(ast.parse(text))
        except SyntaxError:
            continue
        if says not in seen:
            seen.add(says)
            line = source.count("\n", 0, start + len(old) - len(old.lstrip())) + 1
            whole = source.splitlines()[line - 1].strip()
            change = " -> ".join(" ".join(each.split()) for each in (old, new))
            yield Mutant(file, line, change if len(old) > 30 else f"{change} in {whole}", lines, function, text)


class Place:
    """A copy of the checkout, and processes in it.

    Args:
        folder: for the copy.
        deadline: of :func:`time.monotonic`.
    """

    def __init__(self, folder: Path, deadline: float) -> None:
        self.folder, self.deadline, self.given = folder, deadline, folder / ".given"
        self.temporary = folder / ".tmp"
        listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)

    def forked(self, work: Callable[[], int], seconds: float = float("inf")) -> int | None:
        """What a process of its own makes of some work; None if it had to be ended."""
        process = os.fork()
        if not process:
            code = 70
            with suppress(BaseException):
                os.setsid()
                os.chdir(self.folder)
                silence = os.open(self.folder / ".output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(silence, 1), os.dup2(silence, 2)
                code = work()
            os._exit(code)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return None

    def session(self, which: list[str], plugin: Any) -> int:
        """A session of pytest, in a process that has imported nothing of the project yet."""
        sys.path.insert(0, str(self.folder / "src"))
        os.environ["PYTHONPATH"] = sys.path[0]
        flags = ["-p", "no:cacheprovider", "-p", "no:xdist", "--capture=sys", f"--basetemp={self.temporary}"]
        flags += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return int(pytest.main([*flags, *which], plugins=[plugin]))


class Runner:
    """A plugin of pytest that runs tests up to the first that fails, and times them."""

    def __init__(self, whole_runs: bool) -> None:
        self.seconds, self.failed, self.whole_runs = dict[str, float](), set[str](), whole_runs

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out what trains a whole run, unless it is asked for: a mutant that survives would train all of them."""
        items[:] = [item for item in items if self.whole_runs or "tiny_args" not in getattr(item, "fixturenames", ())]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what fails, or is skipped."""
        if not report.passed:
            self.failed.add(report.nodeid)

    def run(self, items: list[pytest.Item], to_the_end: bool = False, before: Callable[[str], None] = id) -> int:
        """Run tests; 1 if one of them failed."""
        for item, following in itertools.zip_longest(items, items[1:]):
            before(item.nodeid)
            start = time.monotonic()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self.seconds[item.nodeid] = time.monotonic() - start
            if self.failed and not to_the_end:
                return 1
        return int(bool(self.failed))


class Judge(Runner):
    """Judges mutants in a session of pytest, once all is collected.

    Args:
        place: where.
        names: of the files, from the checkout -> the lines to look at; none are all.
        whole_runs: with the tests that train a whole run.
    """

    def __init__(self, place: Place, names: dict[str, set[int]], whole_runs: bool) -> None:
        super().__init__(whole_runs)
        self.place, self.names = place, names
        self.rows: list[Row] = []
        self.left: list[tuple[Mutant, list[str], float]] = []  # to be imported anew, with their tests and seconds

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        files = [str(self.place.folder / name) for name in self.names]

        def first() -> int:
            measured = coverage.Coverage(data_file=None, config_file=False, include=files)
            measured.start()
            self.run(session.items, True, measured.switch_context)
            measured.stop()
            reached = {file: measured.get_data().contexts_by_lineno(file) for file in files}
            others = [name for name, module in sys.modules.items() if "site-packages" in str(module)]
            passing = {test: took for test, took in self.seconds.items() if test not in self.failed}
            self.place.given.write_bytes(pickle.dumps((passing, reached, others)))
            return 0

        gc.freeze()  # what is shared with the processes to come is not copied for looking at it
        if self.place.forked(first) != 0:
            raise RuntimeError("the tests do not run on what was not changed")
        passing, reached, self.others = pickle.loads(self.place.given.read_bytes())
        print(
            f"{len(passing)} of {len(session.items)} tests pass: {sum(passing.values()):.0f} s", file=SCREEN, flush=True
        )
        for name, file in zip(self.names, files, strict=True):
            stems = tests_of(name)
            items = [item for item in session.items if item.nodeid in passing and item.path.stem in stems]
            self._judge(name, Path(file), items, passing, reached[file])
        self.place.given.write_bytes(pickle.dumps((self.rows, self.left, self.others)))
        return True

    def _judge(
        self, name: str, file: Path, items: list[Any], seconds: dict[str, float], reached: dict[int, list[str]]
    ) -> None:
        items, source = sorted(items, key=lambda item: seconds[item.nodeid]), file.read_text(encoding="utf-8")
        functions: dict[str, list[FunctionType]] = {}
        for each in gc.get_objects():
            if isinstance(each, FunctionType) and each.__code__.co_filename == str(file):
                functions.setdefault(each.__code__.co_qualname, []).append(each)
        ever = set().union(*reached.values())
        for mutant in mutants(name, source):
            if self.names[name] and mutant.line not in self.names[name]:
                continue
            found = set().union(*(reached.get(line, ()) for line in mutant.reached_by))
            which = [item for item in items if item.nodeid in (found if mutant.function else ever)]
            limit = 20 + 5 * sum(seconds[item.nodeid] for item in which)
            own, code = functions.get(mutant.function or "", []), _code_in(mutant)
            if mutant.function and not which:
                report(self.rows, mutant, UNREACHED)
            elif code is None or not own or {each.__code__.co_freevars for each in own} != {code.co_freevars}:
                self.left.append((mutant, [item.nodeid for item in which], limit))
            elif time.monotonic() > self.place.deadline:
                report(self.rows, mutant, NO_TIME)
            else:
                file.write_text(mutant.source, encoding="utf-8")  # for tests that start a process
                report(self.rows, mutant, verdict(self.place.forked(lambda: self._tried(own, code, which), limit)))  # noqa: B023
                shutil.rmtree(self.place.temporary, ignore_errors=True)
                self.place.temporary.mkdir()
        file.write_text(source, encoding="utf-8")

    def _tried(self, functions: list[FunctionType], code: CodeType, which: list[Any]) -> int:
        for function in functions:
            function.__code__ = code
        return self.run(which)


class Anew(Runner):
    """Runs some tests of a session of pytest, in the order given."""

    def __init__(self, which: list[str]) -> None:
        super().__init__(whole_runs=True)
        self.which = which

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take the place of pytest's own loop."""
        items = {item.nodeid: item for item in session.items}
        session.testsfailed = self.run([items[name] for name in self.which])
        return True


def _code_in(mutant: Mutant) -> CodeType | None:
    if mutant.function is None:
        return None
    waiting: list[Any] = [compile(mutant.source, mutant.file, "exec", dont_inherit=True)]
    for code in waiting:  # grows
        if code.co_qualname == mutant.function:
            return code
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]
    return None


def tests_of(name: str) -> tuple[str, ...]:
    """The stems of the tests of a file."""
    found = [TESTS[part] for part in reversed(Path(name).with_suffix("").parts) if part in TESTS]
    if not found:
        sys.exit(f"{name}: tools/mutate.py names no tests for it; add them to TESTS.")
    return found[0]


def verdict(code: int | None) -> str:
    """What the status of a process that ran tests says."""
    return {None: ENDLESS, 0: SURVIVED}.get(code, KILLED)


def report(rows: list[Row], mutant: Mutant, says: str) -> None:
    """Keep a verdict, and print it unless it is what all should be."""
    rows.append((mutant.file, mutant.line, says, mutant.change))
    if says in (SURVIVED, ENDLESS):
        print(f"{mutant.file}:{mutant.line}: {says}: {mutant.change}", file=SCREEN, flush=True)


def judged(place: Place, names: dict[str, set[int]], whole_runs: bool) -> list[Row]:
    """File, line, verdict and change of all mutants of some files."""
    stems = {stem for name in names for stem in tests_of(name)}
    tests = sorted(str(path) for path in (place.folder / "tests").rglob("test_*.py") if path.stem in stems)
    judge = Judge(place, names, whole_runs)
    place.forked(lambda: place.session(tests, judge))
    if not place.given.exists():
        sys.exit(f"pytest does not run:\n{(place.folder / '.output').read_text()[-3000:]}")
    rows, left, others = pickle.loads(place.given.read_bytes())
    for module in others:  # once for all, here
        with suppress(Exception):
            importlib.import_module(module)
    for mutant, which, limit in left:
        if time.monotonic() > place.deadline:
            report(rows, mutant, NO_TIME)
            continue
        file = place.folder / mutant.file
        source = file.read_text(encoding="utf-8")
        for cached in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            cached.unlink()
        file.write_text(mutant.source, encoding="utf-8")
        asked = sorted({name.partition("::")[0] for name in which})
        report(rows, mutant, verdict(place.forked(lambda: place.session(asked, Anew(which)), 60 + limit)))  # noqa: B023
        file.write_text(source, encoding="utf-8")
    return rows


def main() -> None:
    """Judge the files named on the command line."""
    parser = argparse.ArgumentParser(prog="tools/mutate.py", description=__doc__.partition("\n\n")[0])
    parser.add_argument("files", metavar="FILE[:LINE]", nargs="+", help="from here, or from the package in src/")
    parser.add_argument("--minutes", type=float, default=60.0, help="in all (default: %(default)g)")
    parser.add_argument("--whole-runs", action="store_true", help="with the tests that train a whole run: slow")
    parser.add_argument("--csv", type=Path, help="where what survives is written too")
    asked, names = parser.parse_args(), dict[str, set[int]]()
    for named in asked.files:
        path, _, line = named.partition(":")
        file = next((each for each in (ROOT / path, *(ROOT / "src").glob(f"*/{path}")) if each.is_file()), None)
        if file is None:
            parser.error(f"{path}: there is no such file")
        names.setdefault(str(file.relative_to(ROOT)), set()).update([int(line)] if line else [])
    with tempfile.TemporaryDirectory() as folder:
        rows = judged(Place(Path(folder).resolve(), time.monotonic() + 60 * asked.minutes), names, asked.whole_runs)
    counts, said = Counter((name, says) for name, _, says, _ in rows), list[str]()
    for name in names:
        said.append(f"{name}: " + ", ".join(f"{counts[name, says]} {says}" for says in VERDICTS))
        for verdict in (UNREACHED, NO_TIME):
            if found := sorted({line for file, line, says, _ in rows if (file, says) == (name, verdict)}):
                said.append(f"  {verdict}: line {', '.join(map(str, found))}")
    print("\n".join(said))
    if asked.csv:
        write(asked.csv, rows, said)


def write(path: Path, rows: list[Row], said: list[str]) -> None:
    """Write what survived as CSV. Why it may is for a person to say, in the last column: that stays if it is there."""
    from spikesparse.runs.result import machine

    known: dict[tuple[str, str], str] = {}
    with suppress(FileNotFoundError), path.open(newline="", encoding="utf-8") as before:
        lines = (line for line in before if not line.startswith("#"))
        known = {(row["file"], row["change"]): row["why"] for row in csv.DictReader(lines)}
    versions = {name: metadata.version(name) for name in ("mutmut", "pytest")}
    made = [f"{name} {value}" for name, value in (versions | machine()).items()]
    with path.open("w", newline="", encoding="utf-8") as out:
        for line in (f"tools/mutate.py {' '.join(sys.argv[1:])}", ", ".join(made), *said):
            print(f"# {line}", file=out)
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in sorted(row for row in rows if row[2] in (SURVIVED, ENDLESS)):
            writer.writerow([*row, known.get((row[0], row[3]), "")])


if __name__ == "__main__":
    main()
