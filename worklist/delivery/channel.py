"""A connection to a destination that is used for one delivery after the other.

It is opened when something is to be sent. A destination may close it between two deliveries, which shows only when the
next is sent: then that is sent once more on a new connection. Nothing is there twice by that, because the same delivery
has the same UIDs, identifiers or message control id.
"""

from abc import ABC, abstractmethod
from typing import Any, Generic, Self, TypeVar

from worklist.delivery.refusals import NotTaken, Rejected

Content = TypeVar("Content")
Connection = TypeVar("Connection")


class Lost(NotTaken):
    """The connection has ended, or never was, before there was an answer."""


class Channel(ABC, Generic[Content, Connection]):
    """Sends to one destination; for one thread, and closed at the end of its context."""

    def __init__(self) -> None:
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, content: Content) -> None:
        """Send, and wait until it is taken. Raises NotTaken, Rejected, SettingsError, DataError."""
        was_open = self._connection is not None
        try:
            self._send_once(content)
        except Lost:
            if not was_open:
                raise
            self._send_once(content)

    def close(self) -> None:
        """Close the connection; the next delivery opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._close(connection)

    def _send_once(self, content: Content) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
        try:
            self._exchange(connection, content)
        except Rejected:
            raise
        except BaseException:
            self.close()  # whatever it was, an answer may still come
            raise

    @abstractmethod
    def _open(self) -> Connection:
        """Connect. Raises NotTaken, SettingsError."""

    @abstractmethod
    def _exchange(self, connection: Connection, content: Content) -> None:
        """Send over a connection and wait for the answer. Raises Lost when it has ended, NotTaken, Rejected."""

    @abstractmethod
    def _close(self, connection: Connection) -> None:
        """Close a connection, whatever its state; never raises."""


AnyChannel = Channel[Any, Any]
