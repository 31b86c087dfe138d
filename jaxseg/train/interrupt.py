"""SIGTERM and SIGINT: noted while there is something to save, and obeyed at once while there is not."""

import contextlib
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """Notes the first signal; a second one ends the program as if this were not there.

    A program that XLA compiles for minutes runs no signal handler of Python's until that is done, so a thread hears of
    the signal too: as long as no update was made, it ends the process itself.

    Args:
      when: what that thread says of when it ended the process.

    Attributes:
      signal: number of the signal that came; None before.
      unsaved: whether updates were made since training began here.
    """

    def __init__(self, when: str = "before the first update") -> None:
        self.signal: int | None = None
        self.unsaved = False
        self._when = when
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is not threading.main_thread():
            return self  # Only the main thread of a program may handle signals.
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._woken = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        self._restore()
        signal.set_wakeup_fd(self._woken)
        with contextlib.suppress(OSError):
            self._read.shutdown(socket.SHUT_RDWR)  # Ends the thread.
        self._read.close()
        self._write.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _watch(self) -> None:
        while True:
            try:
                heard = self._read.recv(1)
            except OSError:
                return
            if not heard:
                return
            if heard[0] in SIGNALS and not self.unsaved:
                print(f"jaxseg: stopped by {name(heard[0])} {self._when}.", file=sys.stderr, flush=True)
                os._exit(128 + heard[0])


def name(number: int) -> str:
    """SIGTERM or SIGINT."""
    return signal.Signals(number).name
