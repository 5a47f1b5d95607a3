"""Writes objects into the embedded store by the hundred thousand: through its filer, with the content in the entry.

Through S3, 100,000 results with their uploads and heatmaps would take ten minutes. Listing and finding them makes no
difference; a read saves one step in the store.
"""

import hashlib
from collections import deque
from functools import cache
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from eventing.seaweedfs_log import BUCKETS
from eventing.seaweedfs_tls import Certificates
from laptop.home.ports import load_ports
from lungline.home import Home
from lungline.network import HOST
from lungline.settings import Settings

IN_FLIGHT = 64
FILE_MODE = 0o660
_PACKAGE = "filler_pb"
_FIELDS = {
    "Attributes": (("file_size", 1, "UINT64"), ("mtime", 2, "INT64"), ("file_mode", 3, "UINT32"), ("md5", 14, "BYTES")),
    "Entry": (("name", 1, "STRING"), ("attributes", 4, "Attributes"), ("content", 9, "BYTES")),
    "Request": (("directory", 1, "STRING"), ("entry", 2, "Entry")),
    "Response": (("error", 1, "STRING"),),
}


class Filler:
    """Writes objects into the store of a stack; a context manager, which exits when everything is written."""

    def __init__(self, settings: Settings) -> None:
        home = Home(settings.home)
        ports = load_ports(home)
        if ports is None:
            raise RuntimeError("No store runs in this home.")
        certificates = Certificates.of(home.file("store", "config"))
        secret = grpc.ssl_channel_credentials(
            certificates.authority.read_bytes(), certificates.key.read_bytes(), certificates.certificate.read_bytes()
        )
        direct = (("grpc.enable_http_proxy", 0),)
        self._channel = grpc.secure_channel(f"{HOST}:{ports.filer_grpc}", secret, direct)
        self._request, response = _messages()
        self._create = self._channel.unary_unary(
            "/filer_pb.SeaweedFiler/CreateEntry",
            request_serializer=self._request.SerializeToString,
            response_deserializer=response.FromString,
        )
        self._in_flight: deque[Any] = deque()

    def put(self, bucket: str, key: str, data: bytes, moment: int) -> None:
        """Write an object with `moment`, in seconds since 1970, as the time when it was stored."""
        folder, _, name = f"{BUCKETS}/{bucket}/{key}".rpartition("/")
        request = self._request(directory=folder)
        request.entry.name, request.entry.content = name, data
        attributes = request.entry.attributes
        attributes.file_size, attributes.mtime, attributes.file_mode = len(data), moment, FILE_MODE
        attributes.md5 = hashlib.md5(data, usedforsecurity=False).digest()
        self._in_flight.append(self._create.future(request))
        while len(self._in_flight) > IN_FLIGHT:
            self._finish_first()

    def _finish_first(self) -> None:
        if error := self._in_flight.popleft().result().error:
            raise RuntimeError(f"The store did not accept an object: {error}")

    def __enter__(self) -> Self:
        """The filler itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the writes in flight."""
        while self._in_flight:
            self._finish_first()
        self._channel.close()


@cache
def _messages() -> tuple[Any, Any]:
    """The messages of SeaweedFS's filer.proto that are needed here."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="benchmarks/filler.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL)
            if kind in _FIELDS:
                added.type_name = f".{_PACKAGE}.{kind}"
            else:
                added.type = kinds.Type.Value(f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    request, response = (pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in ("Request", "Response"))
    return message_factory.GetMessageClass(request), message_factory.GetMessageClass(response)
