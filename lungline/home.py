"""The folder that holds all state of one laptop stack.

home/
  credentials.json   generated keys (0600)
  site-key.pem       signs model packages and promotion history (0600); its public half is site-key.pub
  ports.json         addresses, the same after every start
  supervisor.json    what runs now: state, pid and address of each service (0600)
  lock               held by the supervisor for as long as it lives
  run/               state files of the bridge, the trigger and the gateway
  logs/              one file a service
  broker/            certificates of the Kafka broker; the login as files for Kafka clients (0600)
  store/             objects, and the store's own configuration
  mlflow/            MLflow's database
  predictor/         packages/<version>/, and `current`, a link to the one that serves; further models have the same in
                     models/<name>/, and versions that give second opinions in challengers/<purpose>/
  challengers.json   which versions those are
  gateway/           the DICOM gateway: objects in transfer, digests of those it has stored
  imports/           what `lungline import` has uploaded, as digests
  worklist/          its database, the secret of its cookies, notices on this machine
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungline.errors import StackError

FOLDERS = ("run", "logs", "broker", "store", "mlflow", "predictor", "gateway", "worklist")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where the packages of one model lie, and which of them serves."""

    path: Path

    @property
    def champion(self) -> Path:
        """The link to the package that serves."""
        return self.path / "current"

    def package(self, version: str) -> Path:
        """The folder of a version's package."""
        return self.path / "packages" / version

    def point(self, version: str) -> None:
        """Let the link lead to a version's package; who follows it sees the old or the new one, never none."""
        draft = self.champion.with_name(f".current-{os.getpid()}")
        draft.unlink(missing_ok=True)
        draft.symlink_to(self.package(version).relative_to(self.path))
        draft.replace(self.champion)


def models_in(folder: Path) -> list[ModelFolder]:
    """The models in a folder of models, also those whose package is gone: it is fetched again, or waited for."""
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    # Path.exists is false for a link that leads nowhere.
    return [model for model in map(ModelFolder, paths) if os.path.lexists(model.champion)]


@dataclass(frozen=True, slots=True)
class Home:
    """The folder and the names in it."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> "Home":
        """The home folder, made if it is not there. Raises StackError when it cannot be."""
        home = cls(path.absolute())
        try:
            home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            home.path.chmod(0o700)
            for folder in FOLDERS:
                (home.path / folder).mkdir(mode=0o700, exist_ok=True)
        except FileExistsError as exc:
            if Path(exc.filename) == home.path:
                raise StackError(f"The home folder {home.path} cannot be made: A file is in its place.") from exc
            sentence = f"{exc.filename} is a file where a folder should be: move it away, then `lungline up`."
            raise StackError(sentence) from exc
        except OSError as exc:
            raise StackError(f"The home folder {home.path} cannot be made: {exc.strerror}.") from exc
        return home

    def file(self, *names: str) -> Path:
        """A path inside the folder."""
        return self.path.joinpath(*names)

    def log(self, service: str) -> Path:
        """The log file of a service."""
        return self.file("logs", f"{service}.log")

    @property
    def first_model(self) -> ModelFolder:
        """The folder of the model that was the first to serve here."""
        return ModelFolder(self.file("predictor"))

    @property
    def models(self) -> Path:
        """The folder with a folder for each further model, by its name."""
        return self.file("predictor", "models")

    def further_models(self) -> list[ModelFolder]:
        """The folders of the further models that serve here."""
        return models_in(self.models)

    @property
    def champion(self) -> Path:
        """The link to the package of the first model that serves."""
        return self.first_model.champion

    def package(self, version: str) -> Path:
        """The folder of a version's package of the first model."""
        return self.first_model.package(version)


def write_private(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a file that only its owner may read; a reader sees the old or the new file, never half of one.

    `durable` waits for the disk, for what cannot be made again: after a power cut the name could else stand for an
    empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp makes the file 0600 from its first moment.
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(draft).replace(path)
        if durable:
            sync_folder(path.parent)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename last: the name is in the folder, not in the file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write JSON that only its owner may read, as `write_private` does."""
    write_private(path, json.dumps(value, indent=2), durable=durable)


def read_json(path: Path) -> Any | None:
    """The value in a file; None when there is none, or nothing readable in it."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
