"""A training run that ends when the worker that started it does: python -m spikesparse.commands.pareto.child fit ...

Standard input is a pipe whose other end the worker holds. The system closes it however the worker ends, also by
kill -9; and the run, which nobody waits for any more, must not go on writing where another worker takes the trial up.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def _end_with_worker() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_worker, daemon=True).start()
    from spikesparse.commands.main import main

    sys.exit(main())
