"""What belongs to a call, such as another budget, and not to a module."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class OfThread(threading.local, Generic[T]):
    """A value of which each thread has its own.

    What ``torch.compile`` makes depends on it: with another value it compiles again. A ``ContextVar`` is nothing that it
    can trace, and a default that hangs on the class is nothing that it watches.
    """

    def __init__(self, value: T) -> None:  # runs in each thread
        self.value = value

    @contextmanager
    def set(self, value: T) -> Iterator[None]:
        """Another value inside a with-block."""
        before, self.value = self.value, value
        try:
            yield
        finally:
            self.value = before
