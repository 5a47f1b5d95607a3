"""What a reader confirms is the result that was on the screen, once, and nothing else."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from lungline.results.records import ResultRecord
from tests.support.worklist_site import START, Site, home, record, running_site, wait
from worklist.database.access import signer
from worklist.database.models import Notice, ReadingRow

IDENTITY = record().upload.identity
CHOICES = ["confirmed", "Normal", "Pneumonia", "Not usable", "read", "reopened"]
LATER = START + timedelta(hours=1)
CHANGES = {
    "other-label": {"probability": 0.1, "version": "2"},
    "same-label": {"probability": 0.8, "version": "2"},
    "unsure": {"probability": 0.5, "version": "2"},
    "older-version-predicts-later": {"probability": 0.1, "version": "0"},
}


def replaced(change: str, number: int = 0) -> ResultRecord:
    """A later result of the same upload."""
    return record(number, done=LATER, **CHANGES[change])


def shown_form(client: httpx.Client, path: str = f"/x/{IDENTITY}") -> dict[str, str]:
    """The hidden fields of the forms on a page."""
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', client.get(path).text))


def post(
    client: httpx.Client, form: dict[str, str], choice: str, identity: str = IDENTITY, **changes: Any
) -> httpx.Response:
    return client.post(f"/x/{identity}/readings", data=form | {"say": choice} | changes)


def stored(site: Site) -> list[tuple[str, str | None, str, str | None]]:
    with site.database.reading() as session:
        rows = session.scalars(select(ReadingRow).order_by(ReadingRow.number))
        return [(row.action, row.verdict, row.version, row.label) for row in rows]


@pytest.mark.parametrize("change", CHANGES)
def test_reading_of_a_replaced_result_asks_again(site: Site, change: str) -> None:
    """Every choice; the comment is kept, and the choice can be repeated for the new result."""
    with site.client() as client:
        for number, choice in enumerate(CHOICES):
            first, newer = record(number), replaced(change, number)
            identity = first.upload.identity
            site.send(first)
            form = shown_form(client, f"/x/{identity}")
            site.send(newer)
            response = post(client, form, choice, identity, comment="left base")
            assert response.status_code == 409
            assert f"from Pneumonia (model 1) to {newer.label} (model {newer.model.version})" in response.text
            assert "left base</textarea>" in response.text
            assert len(stored(site)) == number
            again = "Not usable" if choice == "confirmed" else choice
            assert post(client, shown_form(client, f"/x/{identity}"), again, identity).status_code == 303
            assert stored(site)[-1][2:] == (newer.model.version, newer.label)


def test_confirmation_stores_the_label_of_the_button(site: Site) -> None:
    site.send(record())
    with site.client() as client:
        assert post(client, shown_form(client), "confirmed").status_code == 303
    assert stored(site) == [("confirmed", "Pneumonia", "1", "Pneumonia")]


def test_refused_image_that_was_predicted_later_asks_again(site: Site) -> None:
    """The record keeps its id, but it now has another label."""
    site.send(record(outcome="refused"))
    with site.client() as client:
        form = shown_form(client)
        site.send(record())
        assert post(client, form, "read").status_code == 409
    assert stored(site) == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"record": ""}, 400),
        ({"record": f"{IDENTITY}-9"}, 409),
        ({"label": "Normal"}, 409),
        ({"label": ""}, 409),
        ({"say": "corrected"}, 400),
        ({"say": "Pneumonia "}, 400),
        ({"say": "pneumonia"}, 400),
    ],
)
def test_form_posted_by_hand_is_compared(site: Site, fields: dict[str, str], status: int) -> None:
    site.send(record())
    with site.client() as client:
        assert post(client, shown_form(client), "confirmed", **fields).status_code == status
        only = {"csrf": site.csrf(client), "say": "confirmed"}
        assert client.post(f"/x/{IDENTITY}/readings", data=only).status_code == 400
    assert stored(site) == []


def test_double_click_and_lost_response_store_one_reading(site: Site) -> None:
    """Also when a newer result arrives before the second attempt."""
    site.send(record())
    with site.client() as client:
        form = shown_form(client)
        assert [post(client, form, "confirmed").status_code for _ in range(3)] == [303] * 3
        site.send(replaced("other-label"))
        assert post(client, form, "confirmed").status_code == 303
    assert stored(site) == [("confirmed", "Pneumonia", "1", "Pneumonia")]


def test_another_choice_after_the_back_button_is_another_reading(site: Site) -> None:
    site.send(record())
    with site.client() as client, site.client(who="dr.berg") as other:
        form = shown_form(client)
        post(client, form, "confirmed")
        assert post(client, form, "Normal").status_code == 303
        form["csrf"] = site.csrf(other)  # another reader with the same form id: a second opinion
        assert post(other, form, "Normal").status_code == 303
    assert [row[:2] for row in stored(site)] == [("confirmed", "Pneumonia"), *[("corrected", "Normal")] * 2]


def test_scripts_get_the_next_page_or_the_error_as_json(site: Site) -> None:
    site.send(record())
    with site.client() as client:
        form, headers = shown_form(client), {"accept": "application/json"}
        url = f"/x/{IDENTITY}/readings"
        answer = client.post(url, data=form | {"say": "Normal"}, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"next": "/"})
        site.send(replaced("same-label"))
        answer = client.post(url, data=form | {"say": "read"}, headers=headers)
        assert answer.status_code == 409
        assert "Nothing was saved" in answer.json()["error"]


def acknowledged(site: Site) -> list[bool]:
    with site.database.reading() as session:
        return [notice.acknowledged is not None for notice in session.scalars(select(Notice))]


@pytest.mark.parametrize("path", [f"/x/{IDENTITY}", "/notices"])
def test_acknowledgement_of_a_replaced_result_asks_again(tmp_path: Path, path: str) -> None:
    with running_site(home(tmp_path, notice_max_age=10**6)) as site, site.client() as client:
        site.send(record())
        site.app.state.jobs.send_notices()
        wait(lambda: "/acknowledge" in client.get(path).text)  # sending takes a thread of its own
        form = shown_form(client, path)
        site.send(replaced("other-label"))
        assert client.post(f"/x/{IDENTITY}/acknowledge", data=form).status_code == 409
        assert acknowledged(site) == [False]
        assert client.post(f"/x/{IDENTITY}/acknowledge", data=shown_form(client)).status_code == 303
        assert acknowledged(site) == [True]


def test_notice_link_of_a_replaced_result_asks_again(tmp_path: Path) -> None:
    with running_site(home(tmp_path, notice_max_age=10**6)) as site, site.client(None) as client:
        site.send(record())
        path = f"/acknowledge/{signer(site.settings, 'acknowledge').dumps(IDENTITY)}"
        form = shown_form(client, path)
        site.send(replaced("other-label"))
        assert "The result has changed" in client.post(path, data=form).text
        assert acknowledged(site) == [False]
        assert "Acknowledged" in client.post(path, data=shown_form(client, path)).text
        assert acknowledged(site) == [True]


def test_viewer_shows_the_heatmap_of_its_own_result(site: Site) -> None:
    site.send(record(heatmap=True))
    with site.client() as client:
        assert f'/heat?record={IDENTITY}-1"' in client.get(f"/x/{IDENTITY}").text
        site.send(replaced("other-label"))  # which has no heatmap
        assert client.get(f"/x/{IDENTITY}/heat?record={IDENTITY}-1").status_code == 503  # asked of the store
        assert client.get(f"/x/{IDENTITY}/heat").status_code == 404
