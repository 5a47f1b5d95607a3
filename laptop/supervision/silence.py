"""How long a service has given no sign, counted so that the supervisor's own pauses are not held against it."""

import time

# Between two looks at a service there may be a pause and a probe; more than this is a pause of the supervisor itself,
# or of the whole machine.
LONGEST_STEP_SECONDS = 12.0


class Silence:
    """One service's silence; `notice_seconds` is how long it lasts before a probe can say so."""

    def __init__(self, notice_seconds: float) -> None:
        self._notice = notice_seconds
        self._looked = time.monotonic()
        self.seconds = 0.0

    def note(self, *, answers: bool) -> None:
        """What the latest look has shown."""
        now = time.monotonic()
        step, self._looked = min(now - self._looked, LONGEST_STEP_SECONDS), now
        if answers:
            self.seconds = 0.0
        else:
            self.seconds = self.seconds + step if self.seconds else max(self._notice, step)
