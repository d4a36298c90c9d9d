"""The record of processing activities: GDPR Article 30(1), item by item, for each activity."""

from __future__ import annotations

from sfumato.agents.dossier import sections
from sfumato.agents.dossier.activities import Activity, activities
from sfumato.agents.dossier.facts import Facts
from sfumato.agents.dossier.markup import Lack, Page
from sfumato.schemas.controller import Controller

DATA = (
    "Pictures of people before they are masked, for a short time (topic frames.raw, uploads)",
    "Masked pictures and films; what masks miss stays visible (docs/privacy.md)",
    "Boxes, times and hashes of each frame, without pictures (topics audit, finds, ledger)",
    "Who used the API, when and for what (topic calls, the database)",
)
"""Categories of personal data that the system itself holds."""


def record(facts: Facts, controller: Controller) -> Page:
    page = Page(
        "Record of processing activities (GDPR Article 30(1))",
        *sections.introduction(facts, "What Article 30(1) of Regulation (EU) 2016/679 asks for, by its letters."),
    )
    _who(page, controller)
    found = activities(facts)
    page.heading("(b) Purposes: the processing activities")
    if not found:
        sections.policies(page, facts)
    for number, activity in enumerate(found, 1):
        _activity(page, number, activity, controller)
    _whose(page, controller)
    page.heading("(d) Recipients")
    _recipients(page, facts, controller)
    page.heading("(e) Transfers to third countries and international organisations")
    _transfers(page, controller)
    page.heading("(f) Time limits for erasure")
    sections.retention(page, facts)
    page.heading("(g) Technical and organisational measures (Article 32(1))")
    sections.measures(page, facts)
    _organisation(page, controller)
    page.heading("Appendix: masks by policy", 2)
    sections.policies(page, facts)
    page.heading("Appendix: cameras", 2)
    sections.cameras(page, facts)
    page.judge("Is this record complete? Processing outside of sfumato (recorders, screens, exports) is not in it.")
    return page


def _who(page: Page, controller: Controller) -> None:
    page.heading("(a) Controller, joint controllers, representative, data protection officer")
    rows = [sections.party("Controller", controller.controller)]
    if controller.joint_controllers is None:
        rows.append(("Joint controllers", Lack("joint controllers, or that there are none"), ""))
    rows += [sections.party("Joint controller", each) for each in controller.joint_controllers or ()]
    if controller.representative is not None:
        rows.append(sections.party("Representative", controller.representative))
    rows.append(sections.party("Data protection officer", controller.data_protection_officer))
    page.table(("Role", "Name", "Contact"), rows)
    if controller.representative is None:
        page.judge("Is a representative needed (Article 27)? None is named.")
    page.paragraph("From: the controller's file.")


def _activity(page: Page, number: int, activity: Activity, controller: Controller) -> None:
    page.heading(f"Activity {number}: {activity.purpose}", 3)
    rows = [
        ("Purpose", activity.purpose),
        ("Controller, as the policies say", activity.controller),
        ("Lawful basis, as the policies say", activity.basis),
        ("Impact assessment", activity.dpia),
        ("Policies", ", ".join(f"{policy.camera} version {policy.version}" for policy in activity.policies)),
    ]
    page.table(("Item", "Content"), rows)
    page.paragraph("From: the topic policies.")
    named = controller.controller
    if named is not None and named.name != activity.controller:
        page.judge(
            f"Activity {number}: the policies name {activity.controller} as controller, the controller's file "
            f"{named.name}. Which is right?"
        )
    page.judge(f"Activity {number}: does the lawful basis hold, and is the purpose specific enough (Articles 5, 6)?")


def _whose(page: Page, controller: Controller) -> None:
    page.heading("(c) Categories of data subjects and of personal data")
    subjects = controller.data_subjects
    page.heading("Data subjects", 3)
    page.items(subjects if subjects else [Lack("categories of data subjects")])
    page.heading("Personal data", 3)
    page.items([*(controller.personal_data or [Lack("categories of personal data, in the controller's words")]), *DATA])
    page.paragraph("From: the controller's file; the last four from how the system works.")
    if controller.special_categories is None:
        page.missing("whether special categories of personal data are processed (Article 9)")
    else:
        page.paragraph(f"Special categories: {controller.special_categories}")
    page.judge(
        "Pictures can show special categories of data (a place of worship, a wheelchair, a demonstration). Do these "
        "cameras? sfumato makes no biometric templates to identify anybody (docs/analyses.md)."
    )


def _recipients(page: Page, facts: Facts, controller: Controller) -> None:
    if controller.recipients is None:
        page.missing("categories of recipients, or that there are none")
    elif controller.recipients:
        page.table(("Recipient", "Receives"), [(each.name, each.receives) for each in controller.recipients])
        page.paragraph("From: the controller's file.")
    else:
        page.paragraph("None, says the controller's file.")
    if controller.processors is None:
        page.missing("processors, or that there are none (Article 28)")
    elif controller.processors:
        rows = [
            (each.name, each.task, each.contract or Lack(f"contract with the processor {each.name}"))
            for each in controller.processors
        ]
        page.table(("Processor", "Task", "Contract"), rows)
    sections.keys(page, facts, controller)
    page.judge(
        "Who reads the topics of Kafka directly, and who looks at the viewer's screens? Kafka's own access lists and "
        "rooms are not known from here."
    )


def _transfers(page: Page, controller: Controller) -> None:
    if controller.transfers is None:
        page.missing("transfers to third countries, or that there are none")
    elif controller.transfers:
        page.table(("To", "Safeguards"), [(each.to, each.safeguards) for each in controller.transfers])
    else:
        page.paragraph("None, says the controller's file.")
    page.judge("Where do brokers, buckets, webhooks and those who hold keys stand? Software does not know countries.")


def _organisation(page: Page, controller: Controller) -> None:
    if controller.organisational_measures:
        page.items(controller.organisational_measures)
        page.paragraph("From: the controller's file.")
    else:
        page.missing("organisational measures")
