"""Sections that both documents have: tables of facts, each with where its figures come from."""

from __future__ import annotations

from sfumato.agents.access.keys import Key
from sfumato.agents.dossier import activities, frames
from sfumato.agents.dossier.activities import duration
from sfumato.agents.dossier.facts import Absent, Counts, Facts
from sfumato.agents.dossier.markup import Lack, Page
from sfumato.schemas.controller import Controller, Party
from sfumato.schemas.scope import ROLES, Scope
from sfumato.schemas.topics import TOPICS

CONTENTS = {
    "frames.raw": "pictures of people, not masked; sealed or not, as (g) says",
    "epochs": "when which camera ran; no pictures",
    "policies": "what is masked, and why; no personal data but the controller's",
    "frames.anonymized": "masked pictures",
    "audit": "what became of each frame: boxes, times, hashes; no pictures",
    "finds": "where something was seen unmasked: boxes; no pictures",
    "suspensions": "who suspended or lifted a camera",
    "calls": "who called the API, and what for",
    "jobs": "numbers of jobs",
    "job.events": "how jobs ended, and whose they were",
    "disclosures": "requests of data subjects, and who approved them",
    "ledger": "signed counts and hashes; no pictures",
    "ledger.heads": "the newest head of each log",
}


def introduction(facts: Facts, what: str) -> tuple[str, str, str]:
    span = f"{facts.since:%Y-%m-%d %H:%M} to {facts.at:%Y-%m-%d %H:%M} UTC"
    return (
        f"{what} Written by sfumato {facts.version} on {facts.at:%Y-%m-%d} at {facts.at:%H:%M:%S} UTC, from the system "
        f"on {facts.servers}. Figures are of {span}.",
        "Software wrote this from what it found. It is no legal advice, and nobody has judged it yet: what a person "
        "must judge, and what is missing, stands below and is marked where it belongs.",
        "It says what the pipeline recorded and how it is set. It does not say that a detector saw everything.",
    )


def party(name: str, who: Party | None) -> tuple[object, ...]:
    """A row: who, and how to reach them."""
    if who is None:
        return (name, Lack(f"{name}: name"), Lack(f"{name}: contact"))
    return (name, who.name, who.contact or Lack(f"{name}: contact"))


def policies(page: Page, facts: Facts) -> None:
    if isinstance(facts.policies, Absent):
        page.missing(f"the policies: {facts.policies.why}")
        return
    found = activities.policies(facts)
    if found:
        rows = [
            (
                policy.camera,
                policy.version,
                activities.masks(policy),
                activities.zones(policy),
                activities.further(policy),
                f"{policy.retention_hours} h",
            )
            for policy in found
        ]
        page.table(("Cameras", "Version", "Masked", "Zones", "Further", "Kept"), rows)
        page.paragraph("From: the topic policies.")
    else:
        page.missing("a valid policy: without one every frame is fully masked")
    for name, detail in activities.invalid(facts):
        page.paragraph(f"The policy {name} is not valid; its cameras are fully masked: {detail}")
    for warning in activities.weak_masks(found):
        page.judge(f"{warning}. Is that enough here?")


def cameras(page: Page, facts: Facts) -> None:
    if isinstance(facts.cameras, Absent):
        page.missing(f"the cameras: {facts.cameras.why}")
        return
    if not facts.cameras:
        page.paragraph("No camera was heard of in this span (topic epochs).")
        return
    suspended = {} if isinstance(facts.suspensions, Absent) else {each.camera: each for each in facts.suspensions}
    rows = []
    for camera, policy in activities.applied(facts):
        state = suspended.get(camera)
        shown = f"suspended: {state.note}" if state is not None and state.suspended else ""
        rows.append((camera, policy or "none: fully masked", shown))
    page.table(("Camera", "Policy that applies", "Suspended"), rows)
    page.paragraph(
        "From: the topics epochs, policies and suspensions. Where each camera stands is not known to software."
    )


def retention(page: Page, facts: Facts) -> None:
    """Article 30(1)(f)."""
    rows = []
    for topic in TOPICS:
        standing = facts.topics[topic]
        kept = duration(standing.retention_ms) if standing else "the topic is missing"
        rows.append((topic.name, CONTENTS[topic.name], kept, duration(facts.designed[topic])))
    page.table(("Topic", "Holds", "Kept, as the broker says", "As designed"), rows)
    if any(not each.says_all for each in facts.topics.values() if each is not None):
        page.judge(
            "This broker reports only what was set when a topic was made, and may not delete anything (the embedded "
            "broker does not). Is it the one that is in use?"
        )
    page.table(("Beside Kafka", "Kept", "From"), [(each.measure, each.state, each.source) for each in facts.limits])
    for fault in activities.retention_faults(facts):
        page.judge(f"{fault}. Which is right?")


def measures(page: Page, facts: Facts) -> None:
    page.table(("Measure", "As set here", "From"), [(each.measure, each.state, each.source) for each in facts.measures])
    page.paragraph("Settings are those of the environment in which this was written; other processes may have others.")


def detectors(page: Page, facts: Facts) -> None:
    rows = [
        (
            weight.detector,
            weight.used_for,
            weight.name,
            weight.sha256,
            weight.licence,
            weight.source,
            "yes" if weight.present else "no",
        )
        for weight in facts.weights
    ]
    page.table(("Detector", "For", "Weight", "SHA-256", "Licence", "Source", "Lies here, checked"), rows)
    page.paragraph("From: SFUMATO_DETECTORS, SFUMATO_INSPECT_DETECTORS and the table of weights.")
    if isinstance(facts.frames, Absent):
        return
    pinned = {weight.sha256 for weight in facts.weights}
    for name, hashes in sorted(facts.frames.weights.items()):
        for digest in sorted(set(hashes) - pinned):
            page.judge(
                f"Frames were looked at by {name} with the weight {digest}, which is none of these. Is it known?"
            )


def figures(page: Page, facts: Facts) -> None:
    found = facts.frames
    if isinstance(found, Absent):
        page.missing(f"the figures: {found.why}")
    else:
        every = frames.total(found)
        rows = [(camera, *_row(counts)) for camera, counts in sorted(found.cameras.items())]
        page.table(
            (
                "Camera",
                "Frames",
                "Masked",
                "Fully masked",
                "Dropped",
                "Missing",
                "Invalid",
                "Duplicates",
                "Conflicting",
            ),
            [*rows, ("all", *_row(every))],
        )
        page.paragraph(f"From: {found.source} ({found.records} records). {_signed(found.signed_by, found.source)}")
        if every.reasons:
            page.table(("Reason for a full mask or a drop", "Frames"), sorted(every.reasons.items()))
        for flaw in found.flaws:
            page.judge(f"A record of the ledger is flawed and is not counted: {flaw}. Why?")
        if every.missing:
            page.judge(f"Frames without an outcome (yet): {every.missing}. Why? `sfumato reconcile` counts them again.")
    if isinstance(facts.ingest_dropped, Absent):
        page.missing(f"what ingestors dropped: {facts.ingest_dropped.why}")
    else:
        dropped = ", ".join(f"{reason}: {number}" for reason, number in facts.ingest_dropped.items()) or "none"
        page.paragraph(f"Dropped by ingestors before they had a number: {dropped}. From: the topic epochs.")


def _row(counts: Counts) -> tuple[int, ...]:
    outcomes = (counts.outcomes.get(name, 0) for name in ("masked", "fully_masked", "dropped"))
    return (counts.frames, *outcomes, counts.missing, counts.invalid, counts.duplicates, counts.conflicting)


def _signed(keys: tuple[str, ...], source: str) -> str:
    if keys:
        return f"Each record's signature was checked with the key {' or '.join(keys)}"
    if "ledger" in source:
        return "Their signatures were not checked: give what `sfumato ledger-key` prints (--key)."
    return "There is no ledger of this span, so that nothing is signed."


def leaks(page: Page, facts: Facts) -> None:
    if isinstance(facts.finds, Absent):
        page.missing(f"finds of the second look: {facts.finds.why}")
    elif not facts.finds.counts:
        page.paragraph(
            "The second look found nothing unmasked in this span, or did not run: the topic finds holds nothing. "
            "Whether `sfumato inspect` runs is not known from here."
        )
    else:
        rows = [(camera, target, number) for (camera, target), number in facts.finds.counts.items()]
        page.table(("Camera", "Seen unmasked", "Times"), rows)
        page.paragraph("From: the topic finds. It samples, and counts sightings, not people (docs/inspect.md).")
    if isinstance(facts.suspensions, Absent):
        page.missing(f"suspensions: {facts.suspensions.why}")
    elif facts.suspensions:
        changes = [(f"{s.at:%Y-%m-%d %H:%M}", s.camera, s.state, s.by, s.note) for s in facts.suspensions]
        page.table(("When (UTC)", "Camera", "State", "By", "Note"), changes)
        page.paragraph("From: the topic suspensions, all that were ever made.")
    else:
        page.paragraph("No camera was ever suspended (topic suspensions).")


def keys(page: Page, facts: Facts, controller: Controller) -> None:
    """Who can read what through the API (Article 30(1)(d) by what software knows)."""
    if isinstance(facts.keys, Absent):
        page.missing(f"API keys: {facts.keys.why}")
        return
    if not facts.keys:
        page.paragraph("There is no API key.")
        return
    named = {name: each.name for each in controller.recipients or () for name in each.keys}
    rows = []
    for key in sorted(facts.keys, key=lambda key: (key.name, key.id)):
        rows.append(
            (
                key.name,
                key.id,
                _scopes(key),
                ", ".join(sorted(key.cameras)),
                key.purpose,
                _state(key, facts),
                f"{key.used_at:%Y-%m-%d}" if key.used_at else "never",
                named.get(key.name, ""),
            )
        )
    page.table(("Key", "Id", "May", "Cameras", "Purpose", "State", "Last used", "Recipient"), rows)
    page.paragraph("From: the database. Secrets are not kept there and not shown here.")
    unnamed = sorted({key.name for key in facts.keys if key.valid(facts.at)} - named.keys())
    if unnamed:
        page.judge(f"Whose are the keys {', '.join(unnamed)}? The controller's file names no recipient for them.")


def _scopes(key: Key) -> str:
    role = next((role.value for role, scopes in ROLES.items() if scopes == set(map(Scope, key.scopes))), "")
    return f"{role}: {', '.join(sorted(key.scopes))}" if role else ", ".join(sorted(key.scopes))


def _state(key: Key, facts: Facts) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    if key.expires_at is None:
        return "valid, without an end"
    return f"{'valid until' if key.valid(facts.at) else 'ended'} {key.expires_at:%Y-%m-%d}"


def drills(page: Page, facts: Facts) -> None:
    if isinstance(facts.drills, Absent):
        page.missing(f"results of the fault drills: {facts.drills.why}")
        return
    rows = [
        (
            drill.name,
            drill.lost,
            drill.unaccounted,
            drill.duplicates,
            drill.leaked,
            "" if drill.recovery_s is None else f"{drill.recovery_s:g}",
        )
        for drill in facts.drills.drills
    ]
    page.table(("Drill", "Lost", "Unaccounted", "Duplicates", "Leaked", "Recovery (s)"), rows)
    when = f"{facts.drills.at:%Y-%m-%d %H:%M}" if facts.drills.at else "at a time that the file does not say"
    page.paragraph(f"From: the file given by --drills, written {when}.")
    failed = [drill.name for drill in facts.drills.drills if not drill.passed]
    if failed:
        page.judge(f"The drills {', '.join(failed)} lost or leaked frames. What follows from that?")
