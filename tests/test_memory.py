import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from lungline.errors import Busy, ImageRefused
from lungline.imaging import grey
from lungline.imaging.decoding import decode
from lungline.imaging.image import Limits
from lungline.memory import MemoryBudget, budget_of_process, memory_limit
from tests.support.image_files import encoded, png_of

MB = 2**20


class TestBudget:
    def test_work_waits_for_what_others_hold(self) -> None:
        budget, order = MemoryBudget(100), list[str]()
        held, released = threading.Event(), threading.Event()

        def first() -> None:
            with budget.work():
                budget.take(80)
                held.set()
                released.wait(10)
                order.append("first")

        def second() -> None:
            held.wait(10)
            with budget.work():
                released.set()
                budget.take(30)
                order.append("second")

        run(first, second)
        assert order == ["first", "second"]
        assert budget.free == 100

    def test_waiting_ends_in_busy(self) -> None:
        budget = MemoryBudget(100, wait_seconds=0.05)
        with budget.work():
            budget.take(80)
            with ThreadPoolExecutor(1) as pool, pytest.raises(Busy):
                pool.submit(take, budget, 30).result(10)
        assert budget.free == 100

    def test_work_larger_than_the_budget_runs_alone(self) -> None:
        budget = MemoryBudget(100, wait_seconds=0.05)
        with budget.work():
            budget.take(1000)
            assert budget.free == 0
        assert budget.free == 100

    def test_work_that_would_wait_for_itself_is_busy(self) -> None:
        """Each of two holds a part and wants more than the rest."""
        budget, both = MemoryBudget(100, wait_seconds=30), threading.Barrier(2)
        outcomes: list[str] = []

        def work() -> None:
            try:
                with budget.work():
                    budget.take(50)
                    both.wait(10)
                    budget.take(30)
                    outcomes.append("done")
            except Busy:
                outcomes.append("busy")

        start = time.monotonic()
        run(work, work)
        assert sorted(outcomes) == ["busy", "done"]
        assert time.monotonic() - start < 10
        assert budget.free == 100

    def test_small_work_does_not_pass_large_work_that_waits(self) -> None:
        budget, order = MemoryBudget(100), list[str]()
        with ThreadPoolExecutor(2) as pool:
            with budget.work():
                budget.take(60)
                large = pool.submit(lambda: (take(budget, 90), order.append("large")))
                wait_until(lambda: len(budget._queue) == 1)  # noqa: SLF001
                small = pool.submit(lambda: (take(budget, 10), order.append("small")))
                wait_until(lambda: len(budget._queue) == 2)  # noqa: SLF001
            large.result(10)
            small.result(10)
        assert order == ["large", "small"]

    def test_a_process_has_a_share_of_its_limit(self) -> None:
        assert budget_of_process(0.5).size == round(memory_limit() / 2)
        assert memory_limit() > 64 * MB


class TestDecoding:
    def test_a_decoder_takes_memory_by_pixels_and_returns_it(self) -> None:
        budget = Recorded(1000 * MB)
        decode(encoded(Image.new("L", (1000, 1000), 7), "PNG"), Limits(memory=budget))
        assert budget.most >= 2_000_000
        assert budget.free == budget.size

    def test_a_refused_image_returns_its_memory(self) -> None:
        budget = Recorded(1000 * MB)
        with pytest.raises(ImageRefused):
            decode(png_of(1500, 1500, b"\0" * 20_000), Limits(memory=budget))
        assert budget.free == budget.size

    def test_a_progressive_jpeg_takes_memory_for_its_coefficients(self) -> None:
        image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (1600, 1600, 3), np.uint8))
        most = {}
        for progressive in (False, True):
            budget = Recorded(1000 * MB)
            decode(encoded(image, "JPEG", progressive=progressive), Limits(memory=budget), at_least=192)
            most[progressive] = budget.most
        assert most[True] - most[False] > 1600 * 1600 * 6 * 0.9


KINDS = [
    *[(mode, {}) for mode in ("L", "LA", "RGB", "RGBA", "1", "I;16")],
    ("L", {"transparency": 5}),
    ("RGB", {"transparency": (5, 10, 15)}),
    ("P", {}),
    ("P", {"transparency": bytes((0, 255, 100))}),
    ("P13", {}),
]


class TestBands:
    """A large image is converted band by band, a PNG also decoded so; no pixel may differ for that."""

    @pytest.mark.parametrize(("mode", "options"), KINDS, ids=str)
    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize("size", [(301, 413), (40, 1200), (28, 900)])
    def test_bands_change_no_pixel(
        self,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        mode: str,
        options: dict[str, object],
        size: tuple[int, int],
    ) -> None:
        if kind == "TIFF" and (options or mode in {"LA", "P13"}):
            pytest.skip("TIFF as it is written here has none of this")
        data = encoded(picture(mode, size), kind, **options)
        whole = decode(data)
        monkeypatch.setattr(grey, "WHOLE_PIXELS", 1000)
        monkeypatch.setattr(grey, "_BAND_PIXELS", 5000)
        banded = decode(data)
        assert np.array_equal(whole.pixels, banded.pixels)
        assert (whole.colour, whole.warnings, whole.notes) == (banded.colour, banded.warnings, banded.notes)

    @pytest.mark.parametrize("samples", [1, 2, 3, 4])
    def test_bands_change_no_pixel_of_16_bits(self, monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
        import imagecodecs

        values = np.random.default_rng(samples).integers(0, 60_000, (300, 200, samples), np.uint16)
        data = bytes(imagecodecs.png_encode(values[..., 0] if samples == 1 else values))
        whole = decode(data)
        monkeypatch.setattr(grey, "WHOLE_PIXELS", 1000)
        monkeypatch.setattr(grey, "_BAND_PIXELS", 5000)
        assert np.array_equal(whole.pixels, decode(data).pixels)

    @pytest.mark.parametrize("damage", ["cut", "bent"])
    def test_damage_in_a_later_strip_is_refused(self, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
        import zlib

        rows = b"".join(b"\0" + bytes((at * 7 % 256,)) * 200 for at in range(300))
        body = zlib.compress(rows[:30_000] if damage == "cut" else rows)
        data = png_of(200, 300, body if damage == "cut" else body[:-300] + b"\xff" * 300)
        monkeypatch.setattr(grey, "WHOLE_PIXELS", 1000)
        monkeypatch.setattr(grey, "_BAND_PIXELS", 5000)
        with pytest.raises(ImageRefused) as refusal:
            decode(data)
        assert refusal.value.reason == ("truncated" if damage == "cut" else "corrupt")


class Recorded(MemoryBudget):
    """A budget that remembers the most that was taken."""

    most = 0

    def take(self, size: int) -> None:
        super().take(size)
        self.most = max(self.most, self.size - self.free)


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    levels = np.cumsum(np.random.default_rng(1).integers(-3, 4, (size[1], size[0])), axis=1) + 128
    if mode == "I;16":
        return Image.fromarray((levels * 37 % 50_000).astype(np.uint16))
    channels = np.stack([(levels * (at + 1)) % 256 for at in range(4)], axis=2).astype(np.uint8)
    image = Image.fromarray(channels)
    if mode.startswith("P"):
        return image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=int(mode[1:] or 200))
    return image if mode == "RGBA" else image.convert("RGB" if mode == "RGB" else mode)


def take(budget: MemoryBudget, size: int) -> None:
    with budget.work():
        budget.take(size)


def run(*tasks: Callable[[], None]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
