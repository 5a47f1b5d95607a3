"""The parts of a task: what an image must be, and a finding with all that follows from it."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Shape = Literal["circle", "triangle", "square", "pentagon", "hexagon", "star", "plus"]
Urgency = Literal["urgent", "soon", "routine"]

_FINDING = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9 -]{0,31}")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_LONGEST = 400


def like(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    """A check that a text has this pattern; `expected` says so in words."""

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(expected)
        return value

    return AfterValidator(check)


def _sentence(value: str) -> str:
    value = value.strip()
    if not value:
        raise ValueError("expected a text")
    if len(value) > _LONGEST or not value.isprintable():
        raise ValueError(f"expected one line of up to {_LONGEST} characters")
    return value


def _listed(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(f'expected a list, such as ["{value}"]')  # noqa: TRY004 - pydantic expects it
    return value


FindingName = Annotated[str, like(_FINDING, "expected capital letters, digits and _, such as EFFUSION")]
Label = Annotated[str, like(_LABEL, "expected up to 32 letters, digits, blanks and hyphens, such as Effusion")]
Colour = Annotated[str, like(_COLOUR, 'expected # and six digits 0 to f, such as "#b1271b"')]
Key = Annotated[str, like(re.compile(r"[1-9]"), 'expected a digit from 1 to 9, such as "2"')]
Sentence = Annotated[str, AfterValidator(_sentence)]
Word = Annotated[str, AfterValidator(_sentence)]
Words = Annotated[tuple[Word, ...], BeforeValidator(_listed)]
Share = Annotated[float, Field(ge=0, le=1)]
Prevalence = Annotated[float, Field(gt=0, lt=1)]


class Part(BaseModel):
    """A table of a task file; frozen, and closed to unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Images(Part):
    """What an image must be, besides a frontal chest X-ray: values of the DICOM header, any of which will do.

    An empty list takes all, and so does a header without the element.
    """

    modality: Words = Field(default=(), description="Modality (0008,0060).")
    body_part: Words = Field(default=(), description="Body Part Examined (0018,0015).")
    view: Words = Field(default=(), description="View Position (0018,5101).")


class Use(Part):
    """What the model card says of a model's use."""

    meant_for: Sentence = Field(description="What a model of this task is meant for.")
    not_meant_for: Sentence = Field(description="What it must not be used for.")


class Code(Part):
    """A coded concept, for FHIR, HL7 and DICOM."""

    scheme: Literal["SCT", "RADLEX", "LN", "DCM"] = Field(description="SCT is SNOMED CT, LN is LOINC.")
    value: Word = Field(description="The code.")
    meaning: Word = Field(description="The code's own text.")


class Targets(Part):
    """What the thresholds of a finding aim at; a value that is left out is that of the train settings."""

    sensitivity: Annotated[float, Field(gt=0, le=1)] | None = None
    specificity: Annotated[float, Field(gt=0, le=1)] | None = None
    unsure_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    prevalence: Prevalence | None = None


class Floors(Part):
    """What a finding must reach on the test split; a value that is left out is not asked for."""

    auc: Share | None = None
    sensitivity: Share | None = None
    specificity: Share | None = None


class Finding(Part):
    """A finding, and what it is called in data, on pages and in other systems."""

    name: FindingName = Field(description="Name of the class in folders, reports and logs.")
    label: Label = Field(description="What people read.")
    negative: bool = Field(
        default=False, description="Whether it is what is there when nothing else is: the first finding, and only it."
    )
    colour: tuple[Colour, Colour] = Field(description="On the light and on the dark page.")
    shape: Shape = Field(description="Mark on the worklist, for those who do not see the colour.")
    urgency: Urgency = Field(default="routine", description="Place on the worklist, and priority in messages.")
    key: Key = Field(description="Digit that a reader presses for it.")
    code: Code | None = Field(default=None, description="Coded concept in FHIR, HL7 and DICOM.")
    folders: Words = Field(default=(), description="Names of folders with its images, in upper or lower case.")
    files: Words = Field(
        default=(), description="Parts of file names that decide where a folder's name fits several findings."
    )
    columns: Words = Field(default=(), description="Column of a table, or value in its label column, that means it.")
    number: int | None = Field(
        default=None,
        ge=0,
        description="Its number, or its column, in the labels of an .npz; left out, its place among the findings.",
    )
    kinds: dict[str, Words] = Field(
        default_factory=dict,
        description="Subgroups in the report, each with parts of folder or file names that tell them.",
    )
    targets: Targets = Field(default_factory=Targets, description="What its thresholds aim at.")
    floors: Floors = Field(default_factory=Floors, description="What it must reach to pass the gate.")

    def is_named_by(self, words: frozenset[str]) -> bool:
        """Whether the words of a folder's name are one of `folders`, perhaps with words of its kinds beside."""
        beside = {word.lower() for kind in self.kinds.values() for word in kind}
        return any(names <= words <= names | beside for names in map(words_of, self.folders))


def words_of(name: str) -> frozenset[str]:
    """The words of a name in lower case, without a number before them: `01_SmallNodule` has small and nodule."""
    words = [word for word in re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()) if word]
    return frozenset(words[1:] if len(words) > 1 and words[0].isdigit() else words)
