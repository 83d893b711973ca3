import signal
from collections.abc import Iterator

import pytest

from strongroom.agent.stop import Stop


@pytest.fixture
def stop() -> Iterator[Stop]:
    """Installed in this process while a test runs."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)}
    made = Stop()
    made.install()
    yield made
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)
