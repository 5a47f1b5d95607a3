"""Follow a run on a Kubeflow Pipelines server: turn the states of its tasks into events."""

import time
from collections.abc import Callable
from typing import Any

from components.step_events import Event
from lungline.errors import PipelineFailed
from pipelines.arguments import STEPS

AWAY_SECONDS = 300.0
"""How long the server may be unreachable while a run is followed; the run itself continues."""


def follow(client: Any, run: str, link: str, on_event: Callable[[Event], None], poll_seconds: float) -> None:
    """Report each step's events until the run has succeeded. Raises PipelineFailed with the step and its cause."""
    tasks = _TaskStates(on_event)
    answered = time.monotonic()
    while True:
        try:
            response = client.get_run(run)
            answered = time.monotonic()
        except Exception as exc:  # the run continues whatever this is; the caller translates the error
            if time.monotonic() - answered > AWAY_SECONDS or getattr(exc, "status", 0) in {401, 403, 404}:
                raise
            time.sleep(poll_seconds)
            continue
        tasks.update(response)
        if response.state == "SUCCEEDED":
            return
        if response.state in {"FAILED", "CANCELED", "SKIPPED"}:
            raise PipelineFailed(tasks.failure(response.state, link))
        time.sleep(poll_seconds)


class _TaskStates:
    """Turns changes in the states of tasks into events."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._reported: dict[str, str] = {}
        self._errors: dict[str, str] = {}

    def update(self, run: Any) -> None:
        for task in run.run_details.task_details or () if run.run_details else ():
            step, state = (task.display_name or "").replace("-", "_"), task.state or ""
            if step not in STEPS or self._reported.get(step) == state:
                continue
            self._reported[step] = state
            if event := self._event(step, state, task):
                self._on_event(event)

    def _event(self, step: str, state: str, task: Any) -> Event | None:
        seconds = (task.end_time - task.start_time).total_seconds() if task.end_time and task.start_time else None
        if state == "RUNNING":
            return Event(step=step, kind="started")
        if state in {"SUCCEEDED", "CACHED"}:
            kind = "reused" if state == "CACHED" else "done"
            return Event(step=step, kind=kind, seconds=seconds)
        if state == "FAILED":
            self._errors[step] = str(task.error.message) if task.error and task.error.message else "it ended in failure"
            return Event(step=step, kind="failed", text=self._errors[step], seconds=seconds)
        return None

    def failure(self, state: str, link: str) -> str:
        """One sentence: why the run did not succeed."""
        for step, why in self._errors.items():
            return f"Step {step} failed: {why.strip().rstrip('.')}. Its log is at {link}"
        return f"The run was {state.lower()}; see {link}"
