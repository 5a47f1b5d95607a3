"""The page of a dossier: the answer and the pictures, then the timeline, then each part in full."""

from collections.abc import Iterator, Sequence
from typing import Any

from lungline.dossier import model_sections
from lungline.dossier.page import Code, Markup, bullets, cell, facts, figure, paragraph, section, standalone, table
from lungline.dossier.parts import Dossier, HoldFacts, OpinionFacts, WorklistPart
from lungline.dossier.pictures import XRAY, Picture
from lungline.dossier.timeline import timeline
from lungline.events.uploads import readable_key
from lungline.results.patients import PatientRecord, readable
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from lungline.wording import count


def dossier_page(dossier: Dossier, pictures: Sequence[Picture], document: dict[str, Any]) -> str:
    """The dossier as HTML that stands alone; `document` is its signed JSON value."""
    kicker = f"Dossier, made {dossier.made:%Y-%m-%d %H:%M:%S} UTC for {dossier.by}"
    return standalone(f"Upload {dossier.subject}", kicker, _sections(dossier, pictures), document)


def _sections(dossier: Dossier, pictures: Sequence[Picture]) -> Iterator[Markup]:
    yield _summary(dossier, pictures)
    if dossier.missing:
        yield section("What is not here", bullets(each.sentence for each in dossier.missing))
    moments = [(moment.at, moment.what, moment.who or Markup(""), moment.source) for moment in timeline(dossier)]
    yield section("Timeline (UTC)", table(("When", "What", "Who", "Where it is noted"), moments))
    yield _object(dossier)
    if dossier.patient:
        yield _patient(dossier.patient)
    for record in dossier.results:
        yield _result(record, is_shown=record is dossier.latest and len(dossier.results) > 1)
    yield _opinions(dossier.opinions)
    yield from model_sections.sections(dossier)
    yield _holds(dossier.holds)
    yield _events(dossier)
    yield _readings(dossier.readings)
    if dossier.worklist:
        yield from _worklist(dossier.worklist)


def _summary(dossier: Dossier, pictures: Sequence[Picture]) -> Markup:
    record = dossier.latest
    if record is None:
        return section("Answer", paragraph("There is no result.", "notice bad"))
    finding = record.task_terms.labelled(record.label)
    kind = finding.urgency if finding else "soon"
    risk = f"<small>risk {record.probability:.1%}</small>" if record.probability is not None else ""
    answer = Markup(f'<p class="answer {kind}">{cell(record.label or record.outcome.capitalize())}{risk}</p>')
    verdicts = [reading for reading in dossier.readings if reading.verdict]
    last = verdicts[-1] if verdicts else None
    rows = [
        ("Task", record.task_terms.title),
        ("Model", f"{record.model.name} {record.model.version}"),
        ("Reader", f"{last.verdict} ({last.action} by {last.reader})" if last else "no reader has given a verdict"),
        ("Uploaded", record.times.uploaded),
        ("Result after", _took(record)),
        ("Promotion in force", _promotion(dossier)),
    ]
    films = "".join(_film(picture, record) for picture in pictures)
    warnings = "".join(paragraph(f"{text[:1].upper()}{text[1:]}", "notice") for text in record.warnings)
    body = f'<div class="summary"><div>{answer}{facts(rows)}{warnings}</div><div class="films">{films}</div></div>'
    return section("Answer", Markup(body))


def _took(record: ResultRecord) -> str | None:
    if record.times.uploaded is None:
        return None
    return f"{(record.times.done - record.times.uploaded).total_seconds() * 1000:,.0f} ms from the store's date"


def _promotion(dossier: Dossier) -> str | None:
    latest = dossier.latest
    sheet = next((each for each in dossier.models if latest and each.sha256 == latest.model.sha256), None)
    entry = sheet.in_force if sheet else None
    if sheet is None or entry is None:
        return None
    other = "" if entry.version == sheet.version else f"; the result is by version {sheet.version}"
    return f"version {entry.version}, entry {entry.number} of the history, by {entry.by}: {entry.reason}{other}"


def _film(picture: Picture, record: ResultRecord) -> Markup:
    over = ""
    if record.lungs and (picture.title != XRAY or not record.has_heatmap):
        lines = "".join(f'<polygon points="{" ".join(map(str, points))}"/>' for points in record.lungs.outlines)
        over = f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">{lines}</svg>'
    title = f"{picture.title}, with the outline of the lungs" if over else picture.title
    return figure(picture.data, picture.media_type, title, over)


def _object(dossier: Dossier) -> Markup:
    latest, stored = dossier.latest, dossier.object
    if latest is None:
        return section("Object", paragraph("No record names it.", "none"))
    upload, read = latest.upload, latest.read
    rows = [
        ("Bucket", upload.bucket),
        ("Key", Code(readable_key(upload.key)) if upload.key else Markup("left out")),
        ("ETag in the event", upload.etag and Code(upload.etag)),
        ("Version in the event", upload.version_id and Code(upload.version_id)),
        ("Sequencer in the event", upload.sequencer and Code(upload.sequencer)),
        ("ETag when it was judged", read and Code(read.etag)),
        ("Size when it was judged", read and f"{read.size:,} bytes"),
        ("Stored", read and read.modified),
        ("SHA-256 now", stored and Code(stored.sha256)),
        ("The same as judged", stored.as_judged if stored else None),
    ]
    return section("Object", facts(rows))


def _patient(patient: PatientRecord) -> Markup:
    rows = [
        ("Name", readable(patient.name)),
        ("Patient ID", patient.patient_id),
        ("Issued by", patient.issuer),
        ("Accession number", patient.accession),
        ("Study date", patient.study_date),
        ("View", patient.view),
        ("Study", patient.study_uid and Code(patient.study_uid)),
        ("Series", patient.series_uid and Code(patient.series_uid)),
        ("Instance", patient.instance_uid and Code(patient.instance_uid)),
    ]
    return section("Patient", facts(rows))


def _result(record: ResultRecord, *, is_shown: bool) -> Markup:
    points, image = record.thresholds, record.image
    band = f"absent below {points.low:.4f}, present from {points.high:.4f}, operating point {points.operating:.4f}"
    rows: list[tuple[str, Any]] = [
        ("Record", Code(record.key)),
        ("Outcome", f"{record.outcome}{f' ({record.reason})' if record.reason else ''}"),
        ("Message", record.message or Markup("none")),
        ("Label", record.label),
        ("Risk", None if record.probability is None else f"{record.probability:.6f}"),
        ("Thresholds", band),
        ("Image", image and f"{image.width} × {image.height} pixels, {image.format.upper()}"),
        ("Heatmap", _heat(record)),
        ("Decoding warnings", bullets(record.warnings) or Markup("none")),
        ("Notes", bullets(record.notes) or Markup("none")),
        ("Doubts", ", ".join(record.doubts) or Markup("none")),
        ("Received", record.times.received),
        ("Written", record.times.done),
        ("Time by stage", ", ".join(f"{name} {value:.1f} ms" for name, value in record.timings.items())),
    ]
    findings = [(each.label, f"{each.probability:.4f}", each.presence) for each in record.findings]
    more = [table(("Finding", "Probability", "Presence"), findings)] if findings else []
    shown = " (shown on the worklist)" if is_shown else ""
    return section(f"Result of version {record.model.version}{shown}", facts(rows), *more)


def _opinions(opinions: Sequence[OpinionFacts]) -> Markup:
    rows = [
        (
            each.record.times.done,
            each.purpose,
            each.record.model.version,
            each.record.label or each.record.outcome,
            None if each.record.probability is None else f"{each.record.probability:.6f}",
            ", ".join(each.record.warnings) or Markup(""),
        )
        for each in opinions
    ]
    titles = ("When (UTC)", "Purpose", "Version", "Label", "Risk", "Warnings")
    return section("Second opinions", table(titles, rows, "No other version has judged this upload."))


def _heat(record: ResultRecord) -> str:
    if not record.has_heatmap:
        return "none"
    inside = record.lungs.heat_inside if record.lungs else None
    where = f"drawn from a map of {record.evidence.width} × {record.evidence.height}" if record.evidence else "stored"
    return where if inside is None else f"{where}, {inside:.0%} of the heat inside the lungs"


def _holds(holds: Sequence[HoldFacts]) -> Markup:
    rows = [(each.at, each.id, each.on, each.by, each.reason) for each in holds]
    titles = ("Since (UTC)", "Hold", "On", "By", "Reason")
    return section("Legal holds", table(titles, rows, "None: it may be erased."))


def _events(dossier: Dossier) -> Markup:
    rows = [(each.at, each.topic, each.partition, each.offset, each.kind, each.remark) for each in dossier.events]
    titles = ("When (UTC)", "Topic", "Partition", "Offset", "Kind", "Remark")
    return section("Events in Kafka", table(titles, [(*row[:5], row[5] or Markup("")) for row in rows], "None."))


def _readings(readings: Sequence[ReadingRecord]) -> Markup:
    rows = [
        (
            each.at,
            each.reader,
            each.action,
            each.verdict or Markup("none"),
            f"{each.label} by version {each.version}",
            each.comment or Markup(""),
        )
        for each in readings
    ]
    titles = ("When (UTC)", "Reader", "Action", "Verdict", "Result that was shown", "Comment")
    return section("Readings", table(titles, rows, "Nobody has read it."))


def _worklist(part: WorklistPart) -> Iterator[Markup]:
    notices = [
        (each.created, each.rule, each.step + 1, each.state, each.sent, each.acknowledged, each.acknowledged_by)
        for each in part.notices
    ]
    titles = ("Queued (UTC)", "Rule", "Step", "State", "Sent", "Acknowledged", "By")
    yield section("Notices", table(titles, notices, "No rule selected it."))
    deliveries = [
        (each.created, each.destination, each.state, each.sent, each.attempts, each.error or Markup(""))
        for each in part.deliveries
    ]
    titles = ("Queued (UTC)", "Destination", "State", "Delivered", "Attempts", "Error")
    error = [paragraph(f"No DICOM result: {part.capture_error}", "notice")] if part.capture_error else []
    yield section("Deliveries", *error, table(titles, deliveries, "No destination takes it."))
    audit = [
        (e.number, e.at, e.who, e.role, e.act, e.detail or Markup(""), e.hash and Code(e.hash[:16])) for e in part.audit
    ]
    titles = ("Entry", "When (UTC)", "User", "Role", "Action", "Detail", "Hash")
    looks = f"{count(len(audit), 'entry', 'entries')} of the worklist's audit log name this upload."
    yield section("Who looked, read and exported", paragraph(looks), table(titles, audit, "Nobody."))
