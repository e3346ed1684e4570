"""Ctrl-C that reaches Python alone: libraries in C++ put handlers of their own in its place while they work.

RDKit does in every substructure match. It takes the signal, returns what it has found so far as if that were
the result, and tells nobody.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_listening = False


@contextmanager
def interrupts_for_python() -> Iterator[None]:
    """Give SIGINT to Python's handler, and to no other that is put in its place meanwhile.

    The signal is blocked in this thread and in those that begin meanwhile, so that no handler of C runs; a
    thread waits for it and calls Python's. Threads that were there before may still take it. Inside of
    another call, outside of the main thread and where signals cannot be blocked, this does nothing.
    """
    global _listening
    if (
        _listening
        or threading.current_thread() is not threading.main_thread()
        or not hasattr(signal, "pthread_sigmask")
    ):
        yield
        return
    ended = threading.Event()

    def listen() -> None:
        # only SIGINT is blocked elsewhere, so that nobody but this function sends SIGURG to this thread
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGURG})
        while not ended.is_set():
            if signal.sigwait({signal.SIGINT, signal.SIGURG}) == signal.SIGINT:
                _thread.interrupt_main(signal.SIGINT)  # nothing where it is ignored, as under nohup

    thread = threading.Thread(target=listen, daemon=True, name="interrupts")
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        _listening = True
        thread.start()
        yield
    finally:
        try:  # Python's handler may raise in here
            ended.set()
            signal.pthread_kill(thread.ident or 0, signal.SIGURG)
            thread.join()
        finally:
            _listening = False
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
