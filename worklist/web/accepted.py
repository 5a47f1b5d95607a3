"""The Accept header of a DICOMweb request: which media type, in how many parts, in which transfer syntax."""

from dataclasses import dataclass

from fastapi import Request

from lungline.errors import LunglineError


class NotAcceptable(LunglineError):
    """The client takes nothing that is served here."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a client takes; without transfer syntaxes, any."""

    media_type: str
    syntaxes: frozenset[str]

    def takes(self, syntax: str) -> bool:
        """Whether the client takes a transfer syntax: nothing is converted."""
        return not self.syntaxes or syntax in self.syntaxes


def accepted(request: Request, *media_types: str, multipart: bool = False) -> Accepted:
    """What the client takes of these media types, alone or as parts of multipart/related. Raises NotAcceptable."""
    # `accept` as a parameter of the query is for browsers (PS3.18 8.3.3.1).
    given = request.query_params.get("accept") or request.headers.get("accept") or "*/*"
    ranges = [_range(part) for part in given.split(",")]
    for media_type in media_types:
        matching = [parameters for kind, parameters in ranges if _fits(kind, parameters, media_type, multipart)]
        if matching:
            syntaxes = {parameters.get("transfer-syntax", "*") for parameters in matching}
            return Accepted(media_type, frozenset() if "*" in syntaxes else frozenset(syntaxes))
    offered = " or ".join(f'multipart/related; type="{each}"' if multipart else each for each in media_types)
    raise NotAcceptable(f"The answer is {offered}.")


def _range(text: str) -> tuple[str, dict[str, str]]:
    kind, *parameters = (part.strip() for part in text.split(";"))
    pairs = (parameter.partition("=") for parameter in parameters)
    return kind.lower(), {name.strip().lower(): value.strip().strip('"').lower() for name, _, value in pairs}


def _fits(kind: str, parameters: dict[str, str], media_type: str, multipart: bool) -> bool:
    if kind == "*/*":
        return True
    if multipart:
        return kind in {"multipart/related", "multipart/*"} and parameters.get("type", media_type) in {
            media_type,
            "*/*",
        }
    return kind in {media_type, f"{media_type.partition('/')[0]}/*"}
