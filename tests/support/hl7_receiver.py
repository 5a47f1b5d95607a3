"""An interface engine for tests: hl7apy's MLLP server, which parses each message strictly and answers as wanted."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.mllp import AbstractHandler, MLLPRequestHandler, MLLPServer
from hl7apy.parser import parse_message


@dataclass
class Receiver:
    """What arrives; `answers` are the codes of the next acknowledgements, after them AA, and None for no answer."""

    answers: list[str | None] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    """Parsed and validated."""
    port: int = 0
    connections: int = 0

    def accept(self, text: str) -> str:
        """Keep a message and acknowledge it. Raises for one that does not follow the standard."""
        message = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
        message.validate()
        self.messages.append(message)
        code = self.answers.pop(0) if self.answers else "AA"
        if code is None:
            raise ConnectionError
        control_id = _control_id(message)
        head = f"MSH|^~\\&|ENGINE|SITE|LUNGLINE||20260301080000||ACK^R01^ACK|{control_id}|P|2.5.1"
        return f"\x0b{head}\rMSA|{code}|{control_id}\r\x1c\r"

    @property
    def control_ids(self) -> list[str]:
        """The message control ids, in their order."""
        return [_control_id(message) for message in self.messages]


def _control_id(message: Any) -> str:
    return str(message.msh.msh_10.to_er7())


class _Unclosed:
    """A connection that is not closed after a message."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def close(self) -> None:
        pass


@contextmanager
def running_receiver(*answers: str | None, tls: ssl.SSLContext | None = None, messages: int = 1) -> Iterator[Receiver]:
    """A receiver on a free port, until the context ends; it closes a connection after so many messages."""
    receiver = Receiver(list(answers))

    class Handler(AbstractHandler):
        def reply(self) -> str:
            return receiver.accept(self.incoming_message)

    class Connection(MLLPRequestHandler):
        """Takes one message after the other, where the library's takes one; `messages` of them."""

        def handle(self) -> None:
            receiver.connections += 1
            connection, self.request = self.request, _Unclosed(self.request)
            for _ in range(messages):
                if not connection.recv(1, socket.MSG_PEEK):
                    break
                super().handle()

    kind = MLLPRequestHandler if messages == 1 else Connection
    handlers = {"ORU^R01^ORU_R01": (Handler,)}
    with MLLPServer("127.0.0.1", 0, handlers, request_handler_class=kind) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join(10)
