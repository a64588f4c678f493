"""How a command ends when it is told to."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = ("SIGTERM", "SIGHUP")  # the second is missing on Windows


@contextmanager
def clearing_up() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is inside as an error does, so that it removes what is half written.

    The exit status is 128 + the number of the signal. A second signal does not interrupt the clearing up. A signal that is
    ignored (SIGHUP under nohup) stays so. Outside of the main thread, where Python takes no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    numbers = [n for n in signals if signal.getsignal(n) not in (signal.SIG_IGN, None)]

    def end(number: int, frame: Any) -> None:
        for signal_number in numbers:
            signal.signal(signal_number, signal.SIG_IGN)
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
