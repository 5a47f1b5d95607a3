"""Every error that Lungline raises on purpose.

    LunglineError
    ├── SettingsError            a setting is unknown or out of range
    ├── TaskError                a task file is wrong
    ├── DataError                a data set cannot be used
    │   └── ContractBreached     it can be read, but breaks the data contract
    ├── ImageRefused             an image cannot be judged; carries a reason code
    ├── EventMalformed           a message is not an upload event
    ├── PackageError             a model package is damaged or does not answer
    ├── RegistryError            the model registry refuses
    │   ├── PromotionRefused     the gate or the policy forbids it, or no person is named
    │   └── PromotionConflict    somebody else promoted at the same time
    ├── PipelineFailed           a step of the pipeline failed
    ├── StackError               a service of the laptop stack cannot start or stop
    ├── ObjectGone               an object was deleted before it could be read
    ├── ObjectTooLarge           an object is larger than the limit
    ├── UploadErased             an upload was erased, and its event came late
    └── Unavailable              a service is down for now: the same call may succeed later
        ├── StorageUnavailable
        ├── KafkaUnavailable
        ├── RegistryUnavailable
        ├── ModelNotReady
        └── Busy                 other work has taken what this needs

Errors of other libraries are translated where they enter. The message is one sentence for a person.
"""


class LunglineError(Exception):
    """Anything that Lungline refuses; `str()` of it is one sentence for a person."""


class SettingsError(LunglineError):
    """A setting is unknown or out of range."""


class TaskError(LunglineError):
    """A task file is wrong; the message says in which line, what was expected and what is there."""


class DataError(LunglineError):
    """A data set cannot be used; the message says what was expected and what was found."""


class ContractBreached(DataError):
    """A data set breaks the data contract; the message names expectation, count and first offenders."""


class ImageRefused(LunglineError):
    """An image cannot be judged.

    `reason` is one word or a few joined by hyphens, for counters and records: `not-an-image`, `truncated`, `empty`, ...
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class EventMalformed(LunglineError):
    """A message is not an upload event."""


class PackageError(LunglineError):
    """A model package is damaged, incomplete, or does not answer."""


class RegistryError(LunglineError):
    """The model registry refuses."""


class PromotionRefused(RegistryError):
    """The gate or the policy forbids a promotion, or no person is named."""


class PromotionConflict(RegistryError):
    """Somebody else promoted at the same time; nothing was changed by this call."""


class PipelineFailed(LunglineError):
    """A step of the pipeline failed; the message names the step and its cause."""


class StackError(LunglineError):
    """A part of the laptop stack cannot start or stop."""


class ObjectGone(LunglineError):
    """An object was deleted before it could be read."""


class ObjectTooLarge(LunglineError):
    """An object is larger than the limit."""


class UploadErased(LunglineError):
    """An upload was erased for good; what its late event asks for must not be done."""


class Unavailable(LunglineError):
    """A service is down for now: the same call may succeed later."""


class StorageUnavailable(Unavailable):
    """The object store does not answer, or answers that it cannot."""


class KafkaUnavailable(Unavailable):
    """The Kafka broker does not answer."""


class RegistryUnavailable(Unavailable):
    """The MLflow server does not answer."""


class ModelNotReady(Unavailable):
    """No model package is loaded yet."""


class Busy(Unavailable):
    """Other work has taken the slots or the memory that this needs."""
