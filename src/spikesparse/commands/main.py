"""The command line: which command runs, and how it ends."""

from __future__ import annotations

import argparse
import errno
import io
import locale
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from spikesparse.commands.flags import with_flags
from spikesparse.commands.quiet import quiet
from spikesparse.commands.table import COMMANDS, help_text
from spikesparse.errors import UserError
from spikesparse.files.names import printable
from spikesparse.runs.peers import is_first_process, lost_peer, watch_parent
from spikesparse.runs.run_lock import lacks_folder, let_go, vanished_folder

_LONGEST = 4000  # characters of an error
_INTERRUPTED = 128 + signal.SIGINT  # status
_UNREAD = 128 + 13  # SIGPIPE's, where there is one: `| head` has read enough


def entry() -> NoReturn:
    """The console script: :func:`main` in UTF-8, whatever the locale.

    Configuration files, logs and tables are UTF-8, and the libraries that read and write them ask the locale.
    """
    asked = os.environ.get("PYTHONUTF8") == "1"  # and -X utf8=0 did not want it
    if not sys.flags.utf8_mode and not asked and locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8"):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})
    threading.excepthook = say_no_trace
    status = main()
    if status == _INTERRUPTED:  # by the signal itself: a shell then leaves its loop too
        sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(status)


def say_no_trace(thread: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread; what fails there reaches the run with its next value."""
    if lacks_folder(thread.exc_value):
        return  # the run says it, in its last line, and may already have let its folder go
    if isinstance(thread.exc_value, OSError) and thread.exc_value.errno in _OF_THE_PLACE:
        print(f"warning: a log cannot be written: {thread.exc_value}", file=sys.stderr, flush=True)
    else:
        threading.__excepthook__(thread)


def main(args: list[str] | None = None) -> int:
    """Dispatch a subcommand.

    Returns:
        0 if it went well, 2 for what the user can mend, 130 after Ctrl-C, 141 if nothing reads the output any more, 143
        if another signal stopped training, 1 if another process is gone.
    """
    from spikesparse.files.version import __version__

    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(help_text())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"spikesparse {__version__}")
        return 0
    watch_parent()
    _escape_output()
    try:
        command = COMMANDS.get(args[0])
        if command is None:
            raise UserError(f"{args[0]!r} is no subcommand. There are: {', '.join(COMMANDS)}.")
        quiet()
        if command.trains_itself:
            return _run_on_lightning(command.load(), args)
        command.load()(args[1:])
    except UserError as error:
        return _refuse(with_flags(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _output_is_unread():
            return _UNREAD
        if (folder := vanished_folder(error)) is not None:
            return _refuse(
                f"{folder}: the run's folder was deleted or moved while it trained, and with it what the run goes on "
                "from. The same command begins anew, or goes on if you put the folder back."
            )
        if error.errno not in _OF_THE_PLACE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror}. {_OF_THE_PLACE[error.errno]} The same command goes on.")
    except RuntimeError as error:
        from spikesparse.training.memory import ran_out

        if ran_out(error):
            return _refuse(f"memory ran out ({error}): lower --data.batch_size or --data.timesteps.")
        if (reason := lost_peer(error)) is None:
            raise
        return _refuse(reason, 1)
    except (KeyboardInterrupt, SystemExit) as leaving:
        lightnings = isinstance(leaving.__context__, KeyboardInterrupt) and getattr(leaving, "code", None) == 1
        if not isinstance(leaving, KeyboardInterrupt) and not lightnings:
            raise
        resumes = COMMANDS[args[0]].resumes
        goes_on = "; the same command goes on from the newest checkpoint, if there is one" if resumes else ""
        if is_first_process():  # Ctrl-C reaches all of them
            print(f"stopped{goes_on}", flush=True)
        return _INTERRUPTED
    finally:
        let_go()
    return 0


def _escape_output() -> None:
    """What the output's encoding has no letters for is escaped: a table is no reason to lose a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# What the place where files are written says, and what may be done.
_OF_THE_PLACE = {
    errno.ENOSPC: "Make room on the disk.",
    errno.EDQUOT: "Make room within the quota.",
    errno.EFBIG: "Files there may not grow that large.",
    errno.EROFS: "Nothing can be written there: work in another folder, or set --trainer.logger.init_args.save_dir.",
    errno.ENOTDIR: "A file stands where a folder is needed: move it away.",
    errno.EEXIST: "A file stands where a folder is needed: move it away.",
    errno.EACCES: "Nothing can be written there: work in another folder, or set --trainer.logger.init_args.save_dir.",
}


def _output_is_unread() -> bool:
    """Whether what reads standard output has closed it, as `head` and `less` do; what is left goes nowhere then."""
    try:
        os.write(1, b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    return False


def _run_on_lightning(command: Callable[[list[str]], object], args: list[str]) -> int:
    """Run a subcommand, and say its status; what Lightning and its parser refuse becomes a UserError.

    Apart, since their exceptions cannot be named without importing torch, which takes seconds.
    """
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    from spikesparse.ops.backends import named_backend
    from spikesparse.settings.class_paths import limited_imports
    from spikesparse.settings.command_line import CommandLine

    named_backend()  # refused now rather than in the first step
    allowed = CommandLine(args).allowed
    if allowed and (here := os.getcwd()) not in sys.path:  # last, so that it hides nothing installed
        sys.path.append(here)
    try:
        with limited_imports(allowed):
            _run_limited(command, args)
    except SIGTERMException:
        from spikesparse.training.interruption import Interruption

        if is_first_process():
            print(f"stopped by a signal; `spikesparse {args[0]}` with the same flags goes on from here", flush=True)
        return Interruption.status
    except MisconfigurationException as error:  # Lightning's word for settings that contradict each other
        raise UserError(" ".join(str(error).split())) from error
    return 0


def _run_limited(command: Callable[[list[str]], object], args: list[str]) -> None:
    try:
        command(args[1:])
    except argparse.ArgumentError as error:  # the parser's own: an unknown flag, a value of the wrong type
        from spikesparse.settings.words import plainly

        raise UserError(f"{plainly(error)} See `spikesparse {args[0]} --help`.") from error


def _refuse(reason: str, status: int = 2) -> int:
    reason = printable(" ".join(reason.split()))  # it may quote a stranger's file
    line = "".join(c if c.isprintable() else "\ufffd" for c in reason)
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
    print(f"spikesparse: error: {line}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    entry()
