"""A challenger on the laptop: it judges live uploads unseen, old ones beside their answers, and leaves nothing."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from eventing.rejudge import Wanted, chosen
from laptop import challengers, stack
from laptop.home.challengers import Challenger, drop_challenger, folder_of, keep_challenger
from laptop.home.challengers import challengers as named
from laptop.rejudging import rejudge_uploads
from laptop.services.broker_log import BrokerLog, Change
from laptop.services.broker_pruning import Kept, prune
from lungline.datasets.phantom import jpeg
from lungline.errors import RegistryError, StackError
from lungline.home import Home
from lungline.package.card import amend_card
from lungline.results import opinions, record_store
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.laptop_stack import running_stack, s3_client
from tests.support.waiting import eventually
from worklist.commands import compare_opinions

RESULTS = Settings().results_bucket
OLD = {f"old/{number}.jpg": jpeg(number, opacities=bool(number % 2)) for number in range(3)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, versions: Path) -> Iterator[Settings]:
    """A running stack in which version 1 serves and has answered; version 2 is registered."""
    folder = tmp_path_factory.mktemp("challengers")
    second = shutil.copytree(versions / "2", folder / "2")
    amend_card(second, version="2")
    with running_stack(folder, versions / "1") as settings:
        connected = stack.connect(settings)
        storage = Storage.from_settings(connected)
        storage.ensure_buckets(connected.models_bucket)
        storage.upload_folder(second, connected.models_bucket, f"{connected.model_name}/2")
        storage.close()
        upload(settings, OLD)
        yield settings


@pytest.fixture(scope="module")
def storage(settings: Settings) -> Iterator[Storage]:
    storage = Storage.from_settings(stack.connect(settings))
    yield storage
    storage.close()


def upload(settings: Settings, images: dict[str, bytes]) -> None:
    """Upload images and wait for their answers."""
    client = s3_client(stack.env(settings, scanner=True))
    for key, data in images.items():
        client.put_object(Bucket=settings.uploads_bucket, Key=key, Body=data)
    storage = Storage.from_settings(stack.connect(settings))
    eventually(lambda: images.keys() <= {record.upload.key for record in record_store.latest(storage, RESULTS, 20)}, 30)
    storage.close()


def priorities(settings: Settings) -> dict[str, int]:
    return {
        service.name: os.sched_getscheduler(service.pid) for service in stack.status(settings).services if service.pid
    }


def services(settings: Settings) -> set[str]:
    return {service.name for service in stack.status(settings).services if service.state == "ready"}


@pytest.mark.stack
def test_a_shadow_judges_what_is_uploaded_from_now_on(settings: Settings, storage: Storage) -> None:
    started = challengers.start(settings, "2", "shadow")
    assert started.recorded == "2"
    assert {name for name in services(settings) if "shadow" in name} == {"shadow-predictor", "shadow-trigger"}
    upload(settings, {"live/a.jpg": jpeg(7, opacities=True)})

    def judged() -> set[str]:
        given = opinions.every(storage, RESULTS)
        return {opinion.record.upload.key for opinion in given if opinion.purpose == "shadow"}

    eventually(lambda: judged() == {"live/a.jpg"}, 30)
    eventually(lambda: compare_opinions(stack.connect(settings), "shadow", "2").results == 1, 30)
    assert {record.model.version for record in record_store.every(storage, RESULTS)} == {"1"}
    assert challengers.start(settings, "2", "shadow") == started, "nothing is started twice"
    _register(settings, storage)
    with pytest.raises(StackError, match="Version 1 serves"):
        challengers.start(settings, "1", "shadow")
    with pytest.raises(RegistryError, match="There is no version 9"):
        challengers.start(settings, "9", "shadow")


def _register(settings: Settings, storage: Storage) -> None:
    """Let the registry have the version that serves, too."""
    folder = Home(settings.home).package("1")
    storage.upload_folder(folder, settings.models_bucket, f"{settings.model_name}/1")


@pytest.mark.stack
@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux has processes that take what others leave.")
def test_a_shadow_leaves_the_processor_to_live_uploads(settings: Settings) -> None:
    expected = {"shadow-predictor": os.SCHED_IDLE, "shadow-trigger": os.SCHED_IDLE, "predictor": os.SCHED_OTHER}
    assert priorities(settings) | expected == priorities(settings)


@pytest.mark.stack
def test_a_shadow_comes_back_with_the_stack(settings: Settings, storage: Storage) -> None:
    stack.down(settings)
    stack.up(settings, attached=True)
    stack.wait(settings, "shadow-predictor")
    stack.wait(settings, "shadow-trigger")
    upload(settings, {"live/b.jpg": jpeg(8, opacities=False)})
    eventually(lambda: len(list(opinions.places(storage, RESULTS, "shadow", "2"))) == 2, 30)


@pytest.mark.stack
def test_what_has_stopped_leaves_nothing_running(settings: Settings) -> None:
    stopped = challengers.stop(settings, "shadow")
    assert stopped
    assert stopped.version == "2"
    assert not {service.name for service in stack.status(settings).services if "shadow" in service.name}
    assert not folder_of(Home(settings.home), "shadow").path.exists()
    assert challengers.stop(settings, "shadow") is None


@pytest.mark.stack
def test_old_uploads_are_judged_once_and_chosen_by_label(settings: Settings, storage: Storage) -> None:
    everything = list(chosen(storage, RESULTS, Wanted("2", "pneumonia")))
    assert OLD.keys() <= {answer.upload.key for answer in everything}
    label = everything[0].label or ""
    some = [answer for answer in everything if answer.label == label]
    wanted = {"since": None, "until": None, "most": None, "rate": 100.0}
    first = rejudge_uploads(settings, "2", labels=frozenset({label}), **wanted)
    assert (first.chosen, first.before, first.sent, first.judged) == (len(some), 0, len(some), len(some))
    again = rejudge_uploads(settings, "2", labels=frozenset(), **wanted)
    assert (again.chosen, again.before) == (len(everything), len(some))
    assert again.judged == again.sent == len(everything) - len(some)
    kept = {place.identity for place in opinions.places(storage, RESULTS, "rejudged", "2")}
    assert kept == {answer.upload.identity for answer in everything}
    assert not {service.name for service in stack.status(settings).services if "rejudged" in service.name}
    eventually(lambda: compare_opinions(stack.connect(settings), "rejudged", "2").results == len(everything), 30)


def test_a_damaged_file_names_no_challenger(tmp_path: Path) -> None:
    home = Home.make(tmp_path / "home")
    challenger = Challenger.now("shadow", "pneumonia", "4", "4")
    keep_challenger(home, challenger)
    assert named(home) == {"shadow": challenger}
    assert drop_challenger(home, "rejudged") is None
    assert drop_challenger(home, "shadow") == challenger
    home.file("challengers.json").write_text('{"shadow": {"version": 4}}')
    assert named(home) == {}


def test_a_command_with_a_task_leaves_the_shadow_of_another(tmp_path: Path) -> None:
    """Whether the stack runs or not; a task whose file is not at hand is a name."""
    home = Home.make(tmp_path / "home")
    keep_challenger(home, Challenger.now("shadow", "pneumonia-kind", "4", "pneumonia-kind.4"))

    def stopped(*task: str) -> str:
        return CliRunner().invoke(app, ["shadow", "stop", "--home", str(home.path), *task]).output.strip()

    for other in ("pneumonia", "rib-fracture"):
        assert stopped("--task", other) == f"No version of {other} is in the shadow."
    assert stopped("--task", "pneumonia-kind") == "Version 4 judges no more uploads."
    assert stopped() == "No version is in the shadow."


class TestWhatTheBrokerKeeps:
    """Of uploads that the shadow has not read."""

    KEPT = Kept("uploads", 0, "trigger", 1, "shadow")

    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[BrokerLog]:
        log = BrokerLog(tmp_path / "log.db")
        records_of = "clusters/tansu_cluster/topics/uploads/partitions/0000000000/records"
        log.write([Change(f"{records_of}/{number:020}.batch", b"") for number in range(10)])
        self.commit(log, "trigger", 10)
        yield log
        log.close()

    def commit(self, log: BrokerLog, group: str, offset: int) -> None:
        key = f"clusters/tansu_cluster/groups/consumers/{group}/offsets/uploads/partitions/0000000000.json"
        log.write([Change(key, b'{"offset": %d}' % offset)])

    def test_what_the_shadow_has_not_read_is_kept(self, log: BrokerLog) -> None:
        self.commit(log, "shadow", 4)
        assert prune(log, [self.KEPT]) == 4

    @pytest.mark.parametrize("position", [None, 2**62])
    def test_without_a_shadow_nothing_is_kept_for_it(self, log: BrokerLog, position: int | None) -> None:
        if position is not None:
            self.commit(log, "shadow", position)
        assert prune(log, [self.KEPT]) == 9

    def test_a_command_line_names_both_groups(self) -> None:
        assert Kept.parse(str(self.KEPT)) == self.KEPT
