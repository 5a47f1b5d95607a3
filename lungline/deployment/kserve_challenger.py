"""The InferenceService of a version that gives second opinions: unlike the one that serves, it may be stopped.

KServe's annotation `serving.kserve.io/stop` takes down the predictor and leaves the InferenceService. So the component
of the manifests stays, and Argo CD has nothing to correct: the manifest does not name this annotation.
"""

import time
from dataclasses import dataclass, replace

from lungline.deployment.inference_service import ModelFields
from lungline.deployment.kserve import ClusterDeployment
from lungline.deployment.status import conditions_of
from lungline.errors import ModelNotReady


@dataclass(frozen=True, slots=True)
class Standing:
    """Which version an InferenceService names, and how it is; `sentence` says it to a person."""

    version: str | None
    ready: bool
    stopped: bool
    sentence: str


class ChallengerDeployment(ClusterDeployment):
    """The predictor of second opinions. Every call raises ClusterUnavailable and ClusterRefused."""

    def stop(self) -> str | None:
        """Take down the predictor and wait until KServe says so; the version, None where none was at work.

        The next `deploy` starts it again. Raises ModelNotReady where KServe does not act in time.
        """
        service = self._patiently(self._service)
        fields = ModelFields.of(service)
        if service is None or fields.version is None or fields.stopped:
            return None
        self._patiently(lambda: self._apply(service, replace(fields, stopped=True)))
        deadline = time.monotonic() + self._ready_seconds
        while conditions_of(self._patiently(self._service) or {}).get("Stopped", {}).get("status") != "True":
            if time.monotonic() > deadline:
                raise ModelNotReady(f"KServe has not stopped {self._name} within {self._ready_seconds:.0f} s.")
            time.sleep(self._poll)
        return fields.version

    def standing(self) -> Standing:
        """The version that is named, and whether it is ready."""
        service = self._service()
        fields = ModelFields.of(service)
        if service is None or fields.version is None:
            return Standing(None, ready=False, stopped=False, sentence=f"No version is named in {self._name}.")
        version, status = fields.version, self._status(service)
        if fields.stopped:
            return Standing(version, ready=False, stopped=True, sentence=f"Version {version} is stopped.")
        if status.serves(version, 100):
            return Standing(version, ready=True, stopped=False, sentence=f"Version {version} is ready.")
        why = status.doubt(version) or status.sentence(version)
        return Standing(version, ready=False, stopped=False, sentence=f"Version {version} is not ready: {why}")
