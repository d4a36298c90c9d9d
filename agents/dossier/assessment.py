"""The annex to a data protection impact assessment: GDPR Article 35(7)(a) to (d), filled in as far as software can."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from sfumato.agents.dossier import frames, sections
from sfumato.agents.dossier.activities import activities, applied, policies
from sfumato.agents.dossier.facts import Absent, Facts
from sfumato.agents.dossier.markup import Page
from sfumato.schemas.controller import Controller
from sfumato.schemas.policy import Audio, LawfulBasis
from sfumato.schemas.zone import Rule

FLOW = (
    "Ingestors read cameras and publish encoded frames, not masked, to the topic frames.raw. Workers decode them, look "
    "for what the camera's policy names, mask it and publish to frames.anonymized; each frame gets one audit event. A "
    "frame whose detection failed, or that has no valid policy, is fully masked or dropped. Of the topics with "
    "pictures the API and the viewer read frames.anonymized alone. Files handed in over the API are sealed until they "
    "are masked, then deleted."
)


def assessment(facts: Facts, controller: Controller) -> Page:
    page = Page(
        "Annex to a data protection impact assessment (GDPR Article 35(7))",
        *sections.introduction(facts, "What Article 35(7) of Regulation (EU) 2016/679 asks for, by its letters."),
    )
    _description(page, facts, controller)
    _necessity(page, facts, controller)
    _risks(page, facts, controller)
    _measures(page, facts, controller)
    _decision(page, controller)
    return page


def _description(page: Page, facts: Facts, controller: Controller) -> None:
    page.heading("(a) The processing operations and their purposes")
    _own(page, "nature, scope and context of the processing", controller.assessment.description)
    page.paragraph(FLOW)
    rows = [(each.purpose, each.controller, each.basis, each.dpia) for each in activities(facts)]
    if rows:
        page.table(("Purpose", "Controller", "Lawful basis", "Reference"), rows)
        page.paragraph("From: the topic policies.")
    if any(each.lawful_basis is LawfulBasis.LEGITIMATE_INTERESTS for each in activities(facts)):
        _own(page, "the legitimate interest pursued", controller.assessment.legitimate_interest)
    page.heading("Cameras", 3)
    sections.cameras(page, facts)
    page.heading("What is masked", 3)
    sections.policies(page, facts)
    page.heading("By which detectors", 3)
    sections.detectors(page, facts)
    page.heading("For how long", 3)
    sections.retention(page, facts)


def _necessity(page: Page, facts: Facts, controller: Controller) -> None:
    page.heading("(b) Necessity and proportionality")
    own = controller.assessment
    for name, text in (("necessity", own.necessity), ("proportionality", own.proportionality)):
        _own(page, name, text)
    _own(page, "alternatives that were considered", own.alternatives)
    _own(page, "how people are informed (Articles 12 to 14)", controller.information)
    _own(page, "how people make use of their rights (Articles 15 to 22)", controller.requests)
    page.paragraph("What bears on it, as the policies say:")
    page.items(_bearing(facts))
    page.judge("Could the purpose be reached with fewer cameras, a narrower view, fewer hours, or more masked?")


def _bearing(facts: Facts) -> Iterator[str]:
    found = policies(facts)
    spared = [
        f"{policy.camera}: zone {zone.name} spares {', '.join(sorted(zone.spares))}"
        for policy in found
        for zone in policy.zones
        if zone.rule is Rule.NEVER_MASK
    ]
    yield f"Zones that spare something: {'; '.join(spared) or 'none'}."
    kept = [policy.camera for policy in found if policy.metadata.keep]
    yield f"Policies that keep metadata of files: {', '.join(kept) or 'none'}."
    heard = [policy.camera for policy in found if policy.audio is Audio.KEEP]
    yield f"Policies that keep the sound of films: {', '.join(heard) or 'none'}."
    unmasked = [camera for camera, policy in applied(facts) if policy is None]
    yield f"Cameras without a policy, fully masked: {', '.join(unmasked) or 'none'}."


def _risks(page: Page, facts: Facts, controller: Controller) -> None:
    page.heading("(c) Risks to the rights and freedoms of data subjects")
    page.paragraph("What can go wrong here, and what the running system says about it:")
    page.table(("Risk", "What was found", "From"), [*_found(facts)])
    page.judge("How likely and how severe is each of these risks for the people concerned? Software cannot know.")
    page.heading("What became of the frames", 3)
    sections.figures(page, facts)
    page.heading("What was seen unmasked", 3)
    sections.leaks(page, facts)
    page.heading("As the controller judges", 3)
    risks = controller.assessment.risks
    if risks:
        rows = [(each.risk, each.likelihood, each.severity, each.measures) for each in risks]
        page.table(("Risk", "Likelihood", "Severity", "Measures"), rows)
        page.paragraph("From: the controller's file.")
    else:
        page.missing("the controller's assessment of the risks: likelihood and severity")


def _found(facts: Facts) -> Iterator[tuple[str, str, str]]:
    yield (
        "Somebody is not detected and stays visible",
        "not measured here; measure it on your own cameras",
        "docs/privacy.md, `make eval`",
    )
    yield "A detected person is published unmasked", _leaks(facts), "topic finds"
    yield "A frame is lost, or published without a record", _missing(facts), "ledger or audit"
    yield "A mask can be undone", _weak(facts), "topic policies; docs/masks.md"
    yield "Raw footage is read by others", _raw(facts), "settings"
    yield "More is kept, or for longer, than was said", "see (a), for how long", "the broker"
    yield "Those with access use it for something else", _access(facts), "the database; topic calls"
    yield "Masked data identify people all the same (clothes, gait, places)", "not known to software", "docs/privacy.md"
    yield "Training data of the detectors favour some people", "not measured", "docs/privacy.md"


def _leaks(facts: Facts) -> str:
    if isinstance(facts.finds, Absent):
        return facts.finds.why
    return f"{sum(facts.finds.counts.values())} sightings in the span, by sampling"


def _missing(facts: Facts) -> str:
    if isinstance(facts.frames, Absent):
        return facts.frames.why
    every = frames.total(facts.frames)
    flaws = f"; {len(facts.frames.flaws)} flawed records" if facts.frames.flaws else ""
    return f"{every.missing} of {every.frames} frames without an outcome, {every.conflicting} conflicting{flaws}"


def _weak(facts: Facts) -> str:
    number = sum(len(policy.warnings()) for policy in policies(facts))
    return f"{number} warnings about the policies in force"


def _raw(facts: Facts) -> str:
    return next((each.state for each in facts.measures if each.measure == "Raw footage on Kafka"), "not known")


def _access(facts: Facts) -> str:
    if isinstance(facts.keys, Absent):
        return facts.keys.why
    valid = [key for key in facts.keys if key.valid(facts.at)]
    return f"{len(valid)} valid API keys, {sum(key.expires_at is None for key in valid)} of them without an end"


def _measures(page: Page, facts: Facts, controller: Controller) -> None:
    page.heading("(d) Measures to address the risks")
    sections.measures(page, facts)
    if controller.organisational_measures:
        page.items(controller.organisational_measures)
        page.paragraph("From: the controller's file.")
    else:
        page.missing("organisational measures")
    page.heading("What happens under faults", 3)
    sections.drills(page, facts)
    page.heading("Requests of data subjects", 3)
    if isinstance(facts.disclosures, Absent):
        page.missing(f"requests of data subjects: {facts.disclosures.why}")
    else:
        page.paragraph(f"{facts.disclosures} events of requests in the span. From: the topic disclosures.")
    page.heading("Who can read what through the API", 3)
    sections.keys(page, facts, controller)
    page.heading("What proves it", 3)
    page.paragraph(
        "docs/gdpr says for each Article which feature, setting and test stands for it. `sfumato verify` checks an "
        "export of the ledger without the system (docs/verify.md)."
    )
    page.judge("Do these measures bring the risks down far enough? What risk remains?")


def _decision(page: Page, controller: Controller) -> None:
    own = controller.assessment
    page.heading("Around the assessment")
    _own(page, "advice of the data protection officer (Article 35(2))", own.officers_advice)
    _own(page, "views of data subjects or their representatives (Article 35(9))", own.views_of_data_subjects)
    _own(page, "whether the authority was consulted (Article 36)", own.prior_consultation)
    _own(page, "conclusion", own.conclusion)
    _own(page, "who decided", own.decided_by)
    _own(page, "when it was decided", _day(own.decided_on))
    _own(page, "when it is to be reviewed (Article 35(11))", _day(own.review_by))


def _day(day: date | None) -> str | None:
    return day.isoformat() if day is not None else None


def _own(page: Page, name: str, text: str | None) -> None:
    """The controller's own words."""
    if text is None:
        page.missing(name)
    else:
        page.paragraph(f"{name[0].upper()}{name[1:]}, in the controller's words: {text}")
