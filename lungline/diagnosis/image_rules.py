"""Which images the model is meant for: rules on the DICOM header. Others are kept, and say why they were not judged.

    [[rule]]
    name = "bedside"                   # the first rule that fits decides
    manufacturer = ["ACME MEDICAL"]    # any of these, in upper or lower case; "" is a header without the element
    intent = ["FOR PROCESSING"]        # all fields of a rule must fit
    frontal = false                    # whether the header allows a frontal chest X-ray
    judge = false

Fields: modality, body_part, view, intent, burned_in, manufacturer, sop_class; and frontal. What no rule fits is judged.
Files other than DICOM say nothing of themselves, so rules do not apply to them.
"""

import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lungline.errors import SettingsError
from lungline.imaging.dicom_facts import NAMES, DicomFacts
from lungline.task.finding import Images


def _folded(value: object) -> object:
    if not isinstance(value, list):
        raise ValueError('expected a list of texts, such as ["LATERAL", ""]')  # noqa: TRY004 - pydantic expects it
    return [" ".join(each.upper().split()) if isinstance(each, str) else each for each in cast("list[object]", value)]


Values = Annotated[tuple[str, ...], BeforeValidator(_folded), Field(min_length=1)]


class ImageRule(BaseModel):
    """One rule; a field that is not given fits every image."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")
    judge: bool
    modality: Values | None = Field(default=None, strict=False)
    body_part: Values | None = Field(default=None, strict=False)
    view: Values | None = Field(default=None, strict=False)
    intent: Values | None = Field(default=None, strict=False)
    burned_in: Values | None = Field(default=None, strict=False)
    manufacturer: Values | None = Field(default=None, strict=False)
    sop_class: Values | None = Field(default=None, strict=False)
    frontal: bool | None = None

    @model_validator(mode="after")
    def _check_whole(self) -> "ImageRule":
        if self.frontal is None and all(getattr(self, name) is None for name in NAMES):
            raise ValueError("the rule has no condition, so it would decide about every image")
        return self

    def fits(self, facts: DicomFacts) -> bool:
        """Whether the rule is about an image."""
        if self.frontal is not None and self.frontal != (facts.not_frontal is None):
            return False
        wanted = ((facts.values[name], getattr(self, name)) for name in NAMES)
        return all(values is None or value in values for value, values in wanted)


DEFAULT = (ImageRule(name="another view or body part", frontal=False, judge=False),)
_FIELDS = tuple(ImageRule.model_fields)


def reason_not_meant(facts: DicomFacts, rules: Sequence[ImageRule], images: Images = Images()) -> str | None:  # noqa: B008 - frozen
    """Why an image is not judged, in a sentence without anything from its header; None when it is.

    `images` is what the model's task asks of an image; what the header does not say is not held against it.
    """
    rule = next((rule for rule in rules if rule.fits(facts)), None)
    if rule is None or rule.judge:
        others = [name for name, wanted in images if _is_other(facts.values[name], wanted)]
        return (
            f"The image is kept, and is not meant for this model: its {_in_words(others[0])} is another."
            if others
            else None
        )
    why = facts.not_frontal if rule.frontal is False and facts.not_frontal else f"the rule '{rule.name}' sets it aside"
    return f"The image is kept, and is not meant for this model: {why}."


def _in_words(name: str) -> str:
    return name.replace("_", " ")


def _is_other(value: str, wanted: Sequence[str]) -> bool:
    return bool(value and wanted) and value not in [" ".join(each.upper().split()) for each in wanted]


def load_image_rules(path: Path | None) -> tuple[ImageRule, ...]:
    """The rules of a file; the default without one. A changed file is read again. Raises SettingsError."""
    if path is None:
        return DEFAULT
    try:
        return _loaded(path, path.stat().st_mtime_ns)
    except OSError as exc:
        raise SettingsError(f"The image rules in {path} cannot be read: {exc.strerror}.") from exc


@lru_cache(maxsize=4)
def _loaded(path: Path, _: int) -> tuple[ImageRule, ...]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"The image rules in {path} are not valid TOML: {exc}.") from None
    tables: Any = document.get("rule", [])
    if set(document) - {"rule"} or not isinstance(tables, list):
        raise SettingsError(f"The image rules in {path} hold more than [[rule]] tables.")
    return tuple(_rule(path, number, table) for number, table in enumerate(cast("list[Any]", tables), 1))


def _rule(path: Path, number: int, table: Any) -> ImageRule:
    try:
        return ImageRule.model_validate(table)
    except ValidationError as exc:
        error = exc.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, error["loc"]))
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            near = get_close_matches(field, _FIELDS, 1)
            message = f"unknown field; did you mean {near[0]}?" if near else f"unknown field; expected {_FIELDS}"
        raise SettingsError(f"The image rules in {path} are wrong in rule {number}: {field} {message}.") from None
