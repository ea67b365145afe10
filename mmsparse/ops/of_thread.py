"""What belongs to a call, such as another budget, and not to a module."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class OfThread(threading.local, Generic[T]):
    """A value of which each thread has its own.

    ``torch.compile`` watches it, and compiles again for another value. A ``ContextVar`` it cannot trace; a default that
    hangs on the class it would not watch.
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
