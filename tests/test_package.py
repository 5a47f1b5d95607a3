import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungline.errors import PackageError
from lungline.imaging.preparation import Preparation
from lungline.package.bill_of_materials import BILL, write_bill
from lungline.package.card import (
    CARD,
    MODEL,
    Calibration,
    Card,
    ChestCheck,
    CodeFacts,
    DataFacts,
    Prior,
    Thresholds,
    amend_card,
    read_card,
)
from lungline.package.package import NOT_A_CHEST, Package, listed_digests
from lungline.settings import ModelSettings
from lungline.training.export import write_package
from lungline.training.train import build
from tests.support.cyclonedx import fault_of

SIZE = 32


def card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "preparation": Preparation(size=SIZE, normalisation="equalise"),
        "thresholds": Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand."),
        "data": DataFacts(name="phantom", digest="0" * 64, synthetic=True),
        "code": CodeFacts(version="0.1.0"),
    }
    return Card(**(values | changes))


@pytest.fixture(scope="module")
def network() -> Any:
    return build(ModelSettings(size=SIZE, width=4), seed=3)


@pytest.fixture(scope="module")
def written(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages") / "first"
    write_package(folder, keras_model=network, card=card())
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, SIZE, SIZE, 1), np.float32)


def test_a_package_answers_as_the_network_it_was_written_from(network: Any, written: Path) -> None:
    inputs = random_images(8)
    logits = Package.load(written).logits(inputs)
    expected = network.predict(inputs, verbose=0)["logit"].ravel()
    assert np.abs(logits - expected).max() < 1e-4


def test_a_result_does_not_depend_on_its_batch(written: Path) -> None:
    package, inputs = Package.load(written), random_images(5)
    together = package.predict(inputs)
    alone = [package.predict(image[np.newaxis])[0] for image in inputs]
    assert [prediction.probability for prediction in together] == [prediction.probability for prediction in alone]
    assert all(np.array_equal(a.cam, b.cam) for a, b in zip(together, alone, strict=True))


def test_the_map_covers_the_image_from_0_to_1(written: Path) -> None:
    (prediction,) = Package.load(written).predict(random_images(1))
    assert prediction.cam.shape == (8, 8)  # at least, however small the image
    assert prediction.cam.min() >= 0
    assert prediction.cam.max() <= 1


def test_many_threads_get_the_answers_that_one_gets(written: Path) -> None:
    package, inputs = Package.load(written), random_images(40)
    expected = [prediction.probability for prediction in package.predict(inputs)]
    results: dict[int, list[float]] = {}

    def work(number: int) -> None:
        results[number] = [prediction.probability for prediction in package.predict(inputs)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert list(results.values()) == [expected] * 6


def test_predicting_needs_no_tensorflow(written: Path) -> None:
    """A process without TensorFlow, Keras and MLflow loads the package and predicts the same."""
    inputs = random_images(4)
    expected = [prediction.probability for prediction in Package.load(written).predict(inputs)]
    program = (
        "import json, sys, numpy as np; from pathlib import Path; from lungline.package.package import Package\n"
        f"inputs = np.random.default_rng(0).random((4, {SIZE}, {SIZE}, 1), np.float32)\n"
        f"print(json.dumps([p.probability for p in Package.load(Path({str(written)!r})).predict(inputs)]))\n"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'mlflow')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


def test_images_of_the_wrong_shape_are_refused(written: Path) -> None:
    with pytest.raises(PackageError, match=r"shape \(N, 32, 32, 1\); got \(1, 64, 64, 1\)"):
        Package.load(written).predict(np.zeros((1, 64, 64, 1), np.float32))


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def describe(folder: Path, other: str | None) -> None:
    """Replace the bill by that of another file, or by none, and let the card list it."""
    listed = read_card(folder)[0]
    if other is None:
        (folder / BILL).write_text('{"components": 7}')
    else:
        write_bill(folder, listed, listed.files | {other: "0" * 64})
    amend_card(folder, files=listed_digests(folder))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a changed network": (lambda f: flip_a_byte(f / MODEL), "model.tflite .* is damaged"),
    "a truncated network": (lambda f: (f / MODEL).write_bytes((f / MODEL).read_bytes()[:999]), "is damaged"),
    "a missing network": (lambda f: (f / MODEL).unlink(), "model.tflite .* is missing"),
    "a changed saved model": (lambda f: flip_a_byte(f / "saved_model/saved_model.pb"), "saved_model.pb .* is damaged"),
    "a changed bill": (lambda f: flip_a_byte(f / BILL), "sbom.cdx.json .* is damaged"),
    "a bill of another network": (lambda f: describe(f, MODEL), "bill of materials .* does not fit: .* model.tflite"),
    "a bill of another file": (
        lambda f: describe(f, "saved_model/saved_model.pb"),
        "bill of materials .* does not fit: it has another saved_model/saved_model.pb",
    ),
    "a bill that is none": (lambda f: describe(f, None), "bill of materials .* cannot be read"),
    "a foreign file": (lambda f: (f / "extra.txt").write_text("x"), "extra.txt .* not listed"),
    "no card": (lambda f: (f / CARD).unlink(), "no readable card.json"),
    "an empty card": (lambda f: (f / CARD).write_text(""), "card.json .* is damaged"),
    "a card that is not a card": (lambda f: (f / CARD).write_text("[]"), "card.json .* is damaged"),
    "a card that lists nothing": (lambda f: amend_card(f, files={}), "does not list model.tflite"),
    "no folder": (shutil.rmtree, "no readable card.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_package_is_refused_in_one_sentence(damage: str, folder: Path) -> None:
    harm, sentence = DAMAGES[damage]
    harm(folder)
    with pytest.raises(PackageError, match=sentence) as caught:
        Package.load(folder)
    assert "\n" not in str(caught.value)


def test_the_bill_of_materials_is_valid_cyclonedx(written: Path) -> None:
    """By CycloneDX's own validator; it names the network by its digest, the data, the code and its libraries."""
    text = (written / BILL).read_text()
    assert fault_of(text) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["hashes"][0]["content"] == read_card(written)[0].files[MODEL]
    assert {part["name"] for part in bill["components"]} >= {"lungline", "phantom", "saved_model/saved_model.pb"}


def test_a_package_without_a_bill_is_of_an_earlier_release(folder: Path) -> None:
    (folder / BILL).unlink()
    amend_card(folder, files=listed_digests(folder))
    assert Package.load(folder).card.name == "pneumonia"


def test_an_unreadable_network_is_refused(folder: Path) -> None:
    """LiteRT cannot load it, though its digest is the card's."""
    import hashlib

    (folder / MODEL).write_bytes(b"not a network")
    described = read_card(folder)[0]
    write_bill(folder, described, described.files | {MODEL: hashlib.sha256(b"not a network").hexdigest()})
    amend_card(folder, files=listed_digests(folder))
    with pytest.raises(PackageError, match="LiteRT cannot load"):
        Package.load(folder)


def test_new_metrics_in_the_card_change_the_package_identity(folder: Path) -> None:
    """The package stays whole."""
    before = Package.load(folder).sha256
    amend_card(folder, version="7", metrics={"auc": 0.9})
    after = Package.load(folder)
    assert (after.card.version, after.card.metrics) == ("7", {"auc": 0.9})
    assert after.sha256 != before


def test_a_package_is_not_written_over_another(network: Any, folder: Path) -> None:
    with pytest.raises(PackageError, match="already holds files"):
        write_package(folder, keras_model=network, card=card())


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        write_package(tmp_path / "new", keras_model=object(), card=card())
    assert list(tmp_path.iterdir()) == []


def test_an_image_unlike_a_chest_is_unsure_with_the_reason(folder: Path) -> None:
    """This holds whatever its probability."""
    certain = Thresholds(low=0, high=0, operating=0, chosen="Everything is pneumonia.")
    amend_card(folder, thresholds=certain, chest=ChestCheck(threshold=1, chosen="Nothing is a chest."))
    (prediction,) = Package.load(folder).predict(random_images(1))
    assert (prediction.label, prediction.warnings) == ("Unsure", (NOT_A_CHEST,))
    amend_card(folder, chest=ChestCheck(threshold=0, chosen="Everything is a chest."))
    (prediction,) = Package.load(folder).predict(random_images(1))
    assert (prediction.label, prediction.warnings) == ("Pneumonia", ())


def test_labels_follow_the_thresholds() -> None:
    from lungline.package.answers import label_of

    thresholds = Thresholds(low=0.3, high=0.7, operating=0.5, chosen="By hand.")
    assert [label_of(p, thresholds) for p in (0.0, 0.29, 0.3, 0.69, 0.7, 1.0)] == [
        "Normal", "Normal", "Unsure", "Unsure", "Pneumonia", "Pneumonia",
    ]  # fmt: skip


def test_a_prior_shifts_risks_in_log_odds(folder: Path) -> None:
    """A package without one, as those of earlier releases, predicts the calibrated risk."""
    inputs, calibration = random_images(4), Calibration(kind="platt", scale=2, bias=0.5)
    amend_card(folder, calibration=calibration)
    former = Package.load(folder)
    plain = np.array([prediction.probability for prediction in former.predict(inputs)])
    assert former.card.prior is None
    assert plain == pytest.approx(calibration.probability(former.logits(inputs)))
    amend_card(folder, prior=Prior(calibrated=0.75, share=0.1, chosen="By hand."))
    shifted = np.array([prediction.probability for prediction in Package.load(folder).predict(inputs)])
    assert shifted / (1 - shifted) == pytest.approx(plain / (1 - plain) / 27)
