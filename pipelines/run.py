"""Run the training pipeline on this machine, and tell what happens while it happens."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from components.step_events import Event, read
from lungline.datasets.opening import open_dataset
from lungline.errors import PipelineFailed
from lungline.evaluation.gate import Verdict
from lungline.evaluation.metrics import Evaluation
from lungline.registry.provenance import code_version
from lungline.settings import PREFIX, Settings, setting_names, variable
from pipelines.arguments import STEPS, arguments

GRACE_SECONDS = 5


class DataSummary(BaseModel):
    """What the run was about."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    synthetic: bool
    notice: str | None


class RunSummary(BaseModel):
    """What came of a pipeline run; a gate that did not pass is a result, not an error."""

    model_config = ConfigDict(frozen=True)

    run: str = Field(description="Name of the pipeline run.")
    data: DataSummary
    evaluation: Evaluation
    verdict: Verdict
    mlflow_run: str
    mlflow_url: str
    version: str | None = Field(default=None, description="The registered version; None when the gate did not pass.")
    champion: bool = Field(default=False, description="Whether that version is in service now.")
    next: str = Field(description="One sentence: what became of the version, or what to do next.")
    reused: tuple[str, ...] = Field(description="Steps that did not run, because nothing they depend on has changed.")
    seconds: dict[str, float] = Field(description="Of each step that ran, and `total`.")
    report: str
    log: str


def run_local(
    settings: Settings, on_event: Callable[[Event], None] = lambda _: None, *, reuse: bool = True
) -> RunSummary:
    """Run the pipeline with kfp.local; `on_event` hears of each step and epoch as it happens.

    Steps whose data, settings and code have not changed are reused unless `reuse` is False. Raises DataError for data
    that cannot be opened, and PipelineFailed, which names the step and its cause.
    """
    started = time.monotonic()
    dataset = open_dataset(settings.data, settings=settings, feedback=settings.feedback)
    if dataset.notice:
        on_event(Event(step="data", kind="progress", text=dataset.notice))
    on_event(Event(step="data", kind="done", text=f"{len(dataset.examples)} images of {dataset.name}"))
    asked = arguments(settings, data=settings.data, data_digest=dataset.digest, code_version=code_version())
    folder = settings.home.absolute() / "pipeline"
    run = folder / "runs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S-%f}"
    run.mkdir(parents=True)
    watch = _Watch(on_event)
    request = {"folder": str(folder), "run": str(run), "reuse": reuse, "arguments": asked}
    log = run / "pipeline.log"
    with log.open("w") as sink, _running(request, _environment(settings, run)) as process:
        for line in cast("IO[str]", process.stdout):
            sink.write(line)
            watch.hear(line)
        code = process.wait()
    shutil.rmtree(run / "tmp")
    if code:
        raise PipelineFailed(watch.failure(log))
    return watch.summary(settings, log, time.monotonic() - started)


class _Watch:
    """Makes sense of a run's output, line by line."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._last: dict[str, Event] = {}
        self._pages: dict[str, str] = {}
        self._line = ""

    def hear(self, line: str) -> None:
        event = read(line)
        if event is None:
            self._line = line.strip() or self._line
            return
        if event.kind == "started":
            # kfp.local runs no process for a step that it reuses, and says nothing that a program could read.
            for step in STEPS[: STEPS.index(event.step)]:
                if step not in self._last:
                    self._tell(Event(step=step, kind="reused", text="nothing it depends on has changed"))
        if page := event.figures.get("page"):
            self._pages[event.step] = page
        self._tell(event)

    def _tell(self, event: Event) -> None:
        self._last[event.step] = event
        self._on_event(event)

    def failure(self, log: Path) -> str:
        """One sentence on why the run failed."""
        for step, event in self._last.items():
            if event.kind == "failed":
                place = f" See {self._pages.get(step, log)}." if not event.ours or step in self._pages else ""
                return f"Step {step} failed: {event.text}{place}"
            if event.kind in {"started", "progress"}:
                return f"Step {step} ended without a word, perhaps for lack of memory; see {log}."
        return f"The pipeline did not start ({self._line}); see {log}."

    def summary(self, settings: Settings, log: Path, total: float) -> RunSummary:
        """What the steps have told."""
        judged = self._last["gate"].figures
        registered, promoted = self._last.get("register"), self._last.get("promote")
        version = registered.figures["version"] if registered else None
        seconds = {step: event.seconds for step, event in self._last.items() if event.seconds is not None}
        return RunSummary(
            run=judged["pipeline_run"],
            data=judged["data"],
            evaluation=judged["evaluation"],
            verdict=judged["verdict"],
            mlflow_run=judged["mlflow_run"],
            mlflow_url=judged["mlflow_url"],
            version=version,
            champion=promoted is not None,
            next=promoted.text if promoted else _next(settings, version, self._last["gate"].text),
            reused=tuple(step for step, event in self._last.items() if event.kind == "reused"),
            seconds=seconds | {"total": total},
            report=judged["report"],
            log=str(log),
        )


def _next(settings: Settings, version: str | None, verdict: str) -> str:
    if version is None:
        return f"Nothing was registered: {verdict}"
    return (
        f"Version {version} of {settings.model_name} is the challenger; "
        f"`lungline promote {version} --by NAME --reason TEXT` puts it into service."
    )


@contextmanager
def _running(request: dict[str, Any], environment: dict[str, str]) -> Generator[subprocess.Popen[str]]:
    """The process of `pipelines.local`, which does not outlive this context, nor do its steps."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        # A group of its own: Ctrl-C comes to us alone, and all steps end together.
        start_new_session=True,
    )
    try:
        # Left open: its end tells the other side that this process is gone.
        stdin = cast("IO[str]", process.stdin)
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
            break
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _environment(settings: Settings, run: Path) -> dict[str, str]:
    """The steps' environment: these settings and no other, secrets included."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    # Each step leaves its source in the temporary folder; there they go with the run.
    temporary = run / "tmp"
    temporary.mkdir()
    quiet = {"PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary), "TF_CPP_MIN_LOG_LEVEL": "2"}
    return inherited | quiet | {variable(name): value for name, value in _leaves(settings)}


def _leaves(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in setting_names():
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        elif isinstance(value, Path):
            # Steps run where the pipeline runs, but home is where this process means it to be.
            value = value.absolute()
        if value is not None:
            yield name, json.dumps(value) if isinstance(value, bool | list | tuple | dict) else str(value)
