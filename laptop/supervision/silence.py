"""How long a service has given no sign, and when that means that it hangs.

A service that is only slow works: one of its threads runs, waits for a processor or for the disk. What is silent and
does nothing hangs; what is silent and works is given more time. The time during which the supervisor itself stood
still, as all processes do while a laptop sleeps, counts for nothing.
"""

import time

# Between two looks at a service there may be a pause and a probe; more than this is a pause of the supervisor itself,
# or of the whole machine.
LONGEST_STEP_SECONDS = 12.0
# How much longer than an idle service a working one may be silent: it may also work in circles.
PATIENCE_WITH_WORK = 10


class Silence:
    """One service's silence; `notice_seconds` is how long it lasts before a probe can say so."""

    def __init__(self, notice_seconds: float = 0.0) -> None:
        self._notice = notice_seconds
        self._looked = time.monotonic()
        self._begun = False
        self._charged = 0.0
        self.seconds = 0.0
        """For how long there has been no sign."""
        self.idle = 0.0
        """How much of this the service is to be blamed for: it did nothing, and waited for no other service."""

    def answered(self) -> None:
        """The latest look has shown a sign."""
        self._looked = time.monotonic()
        self._begun = False
        self.seconds = self.idle = self._charged = 0.0

    def lasted(self, *, works: bool, waits: bool) -> None:
        """The latest look has shown no sign, of a service that works, or that waits for another service."""
        now = time.monotonic()
        step, self._looked = now - self._looked, now
        if step > LONGEST_STEP_SECONDS:
            self.seconds = self.idle = self._charged = step = 0.0
        elif not self._begun:
            step = max(self._notice, step)
        self._begun = True
        self.seconds += step
        if waits:
            self.idle = self._charged = 0.0
            return
        self._charged += step
        self.idle += 0.0 if works else step

    def has_lasted(self, limit: float) -> bool:
        """Whether the service hangs, by a limit in seconds; 0 is none."""
        return limit > 0 and (self.idle >= limit or self._charged >= PATIENCE_WITH_WORK * limit)
