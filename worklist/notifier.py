"""Sending of notices: each target has its own worker, so a target that does not answer delays no other.

A worker takes the due notices of its target one after the other and ends when there are none. A target that has not
answered after `timeout` seconds counts as failed; while its connection hangs, nothing else is sent to it.
"""

import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from itsdangerous import URLSafeTimedSerializer

from lungline import tracing
from lungline.errors import LunglineError
from lungline.settings import Settings
from worklist import metrics
from worklist.database import entries, notices
from worklist.database.access import signer
from worklist.database.notices import Due, Target
from worklist.database.session import Database
from worklist.rules import LOCAL_FILE, NoticeRule
from worklist.worker import Worker

TIMEOUT_SECONDS = 20.0
# Claimed at once: what a target that does not answer keeps from others for longest; the file answers at once.
BATCH, FILE_BATCH = 5, 50

_log = logging.getLogger(__name__)


class Notifier:
    """The workers of all targets."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        rules: Sequence[NoticeRule],
        address: str,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._database = database
        self._rules = {rule.name: rule for rule in rules}
        places: dict[str, list[Target]] = defaultdict(list)
        for rule in rules:
            for step, group in enumerate(rule.to):
                for number, url in enumerate(group):
                    places[url].append((rule.name, step, number))
        sender = _Sender(settings, address)
        self._workers = [_Worker(self, url, targets, sender, timeout) for url, targets in places.items()]
        self._targets = [target for targets in places.values() for target in targets]

    def send_due(self) -> float:
        """Escalate overdue notices, and start the workers of targets with due ones; returns without waiting.

        Returns after how many seconds there is more to do, unless the database changes.
        """
        with self._database.reading() as session:
            if (seconds := notices.seconds_to_next(session)) > 0:
                return seconds
        with self._database.writing() as session:
            notices.escalate(session, list(self._rules.values()))
            orphans = notices.claim_orphans(session, self._targets)
            for due in orphans:
                notices.mark_failed(session, due, "The rule no longer has this target.")
            waiting = notices.due_targets(session)
        for worker in self._workers:
            if waiting.intersection(worker.targets):
                worker.start()
        return 0.0

    def join(self, seconds: float) -> None:
        """Wait until the workers have ended, at most this long."""
        deadline = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    def claim(self, targets: Sequence[Target], most: int) -> list[Due]:
        """Take some due notices of targets for sending."""
        with self._database.writing() as session:
            return notices.claim(session, targets, most)

    def digest(self, identity: str) -> str | None:
        """The digest of an upload's result, for the link that acknowledges it."""
        with self._database.reading() as session:
            entry = entries.find(session, identity)
        return entries.result_digest(entry) if entry else None

    def settle(self, attempts: Sequence[tuple[Due, str | None]]) -> None:
        """Record how attempts ended: with an error, or without."""
        with self._database.writing() as session:
            for due, error in attempts:
                if error:
                    notices.mark_failed(session, due, error)
                else:
                    notices.mark_sent(session, due.number, self._escalates_after(due))
        for due, error in attempts:
            _log.info("notice failed" if error else "notice sent", extra={"identity": due.identity})
            metrics.notice_outcome("failed" if error else "sent").inc()

    def _escalates_after(self, due: Due) -> float | None:
        """Minutes; None when there is no further group."""
        rule = self._rules.get(due.rule)
        return rule.escalate_minutes if rule and due.step + 1 < len(rule.to) else None


class _Worker(Worker):
    """Sends the notices of one target."""

    def __init__(
        self, notifier: Notifier, url: str, targets: Sequence[Target], sender: "_Sender", timeout: float
    ) -> None:
        super().__init__("notices", self._send_all)
        self.targets = targets
        self._notifier = notifier
        self._url = url
        self._sender = sender
        self._timeout = timeout
        self._hanging: threading.Thread | None = None

    def _send_all(self) -> None:
        is_file = self._url == LOCAL_FILE
        try:
            while batch := self._notifier.claim(self.targets, FILE_BATCH if is_file else BATCH):
                if is_file:  # settled together: each would cost a transaction, and writing them takes no time
                    self._notifier.settle([self._traced(due, self._sender.write) for due in batch])
                    continue
                for due in batch:
                    self._notifier.settle([self._traced(due, self._send)])
        except LunglineError as exc:  # the database is away; the notices are due again later
            _log.warning("Notices are retried: %s", exc)

    def _traced(self, due: Due, send: Callable[[Due], str | None]) -> tuple[Due, str | None]:
        with tracing.span("notice", tracing.of_upload(due.identity), "client") as span:
            error = send(due)
            span.add(sent=not error)
        return due, error

    def _send(self, due: Due) -> str | None:
        if self._hanging and self._hanging.is_alive():
            return "The service still has not answered an earlier notice."
        digest = self._notifier.digest(due.identity)
        outcome: list[str | None] = []
        thread = threading.Thread(
            target=lambda: outcome.append(self._sender.send(self._url, due, digest)), name="notice", daemon=True
        )
        thread.start()
        thread.join(self._timeout)
        if thread.is_alive():
            self._hanging = thread
            return f"The service did not answer within {self._timeout:g} seconds."
        return outcome[0] if outcome else "The service failed."


class _Sender:
    """Writes a notice and hands it to Apprise or to the local file."""

    def __init__(self, settings: Settings, address: str) -> None:
        self._folder = settings.home / "worklist"
        self._address = address
        self._signer: URLSafeTimedSerializer = signer(settings, "acknowledge")

    def send(self, url: str, due: Due, digest: str | None) -> str | None:
        """Send one notice; return what went wrong, without the target's URL."""
        acknowledge = f"{self._address}/acknowledge/{self._signer.dumps([due.identity, digest])}"
        link = self._link(due)
        text = f"An X-ray on the worklist needs to be read.\n\nOpen it: {link}\nAcknowledge: {acknowledge}\n"
        return _notify(url, f"Lungline worklist: {due.rule}", text)

    def write(self, due: Due) -> str | None:
        """Write one notice to the local file; return what went wrong."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"at": at, "rule": due.rule, "step": due.step, "link": self._link(due)}
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self._folder / "notices.log").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as exc:
            return f"The file notices.log cannot be written: {exc.strerror}."
        return None

    def _link(self, due: Due) -> str:
        return f"{self._address}/x/{due.identity}"


def _notify(target: str, title: str, text: str) -> str | None:
    import apprise

    sender = apprise.Apprise()
    sender.add(target)
    try:
        accepted = sender.notify(body=text, title=title)
    except Exception as exc:  # noqa: BLE001 - each of a hundred services has its own errors
        return f"The service failed ({type(exc).__name__})."
    return None if accepted else "The service did not accept the notice."
