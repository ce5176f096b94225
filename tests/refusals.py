"""What a class refuses, as the command line prints it: with flags in the place of arguments."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spikesparse.commands.flags import with_flags
from spikesparse.errors import UserError


@contextmanager
def refused_with(match: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """What happens within is refused, and the line that is printed matches."""
    with pytest.raises(UserError) as raised:
        yield raised
    line = with_flags(raised.value)
    assert re.search(match, line), f"{match!r} does not match {line!r}"
