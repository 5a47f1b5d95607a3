"""A data protection officer, who has uploads erased while others work."""

from random import Random

from laptop.erasing import site
from laptop.erasing.site import Whose
from lungline.errors import LunglineError
from lungline.events.uploads import Upload
from lungline.settings import Settings
from tests.support.history.operations import Journal

_ABSENT = "Nothing is stored"


class Officer:
    """Has some of the uploads that were sent erased, as `lungline erase` does: those of just now as those of before."""

    def __init__(self, settings: Settings, journal: Journal, seed: int, sent: dict[str, Upload], most: int) -> None:
        self._settings, self._journal, self._chance = settings, journal, Random(seed)
        self._sent, self._most = sent, most
        self._left: list[Upload] = []
        self._begun = 0

    @property
    def is_done(self) -> bool:
        """Whether as many uploads are erased as are to be."""
        return self._begun == self._most and not self._left

    def work(self) -> None:
        """Choose one more upload, which no longer counts as sent, and have erased what is not erased yet.

        Raises LunglineError while a part of the stack is away.
        """
        if self._begun < self._most and self._sent:
            newest, any_of_all = next(reversed(self._sent)), self._chance.choice(sorted(self._sent))
            # A predictor may be at the newest.
            self._left.append(self._sent.pop(self._chance.choice((newest, any_of_all))))
            self._begun += 1
        while self._left:
            self._erase(self._left[-1].identity)
            self._left.pop()

    def _erase(self, identity: str) -> None:
        with self._journal.attempt("officer erase", identity) as attempt:
            try:
                site.erase(self._settings, Whose(identity), by="Ada", reason="patient request")
            except LunglineError as exc:
                # An earlier attempt, of which nobody knew how it ended, has done it.
                if not str(exc).startswith(_ABSENT):
                    raise
            attempt.answer("ok")
