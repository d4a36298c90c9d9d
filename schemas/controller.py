"""What only the controller knows: the TOML file of ``sfumato dossier``. The rest is read from the running system.

Field by field what GDPR Articles 30(1) and 35 ask for and no software can find out. Left out: missing, and shown so.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sfumato.schemas.part import Day, Part, Text

Long = Annotated[str, Field(min_length=1, max_length=5_000)]


class Party(Part):
    """Somebody, and how to reach them."""

    name: Text
    contact: Text | None = None


class Processor(Part):
    """Who processes on the controller's behalf (Article 28). ``contract``: where the contract is."""

    name: Text
    task: Text
    contract: Text | None = None


class Recipient(Part):
    """To whom data are disclosed, and which. ``keys``: names of the API keys by which they read."""

    name: Text
    receives: Text
    keys: tuple[Text, ...] = ()


class Transfer(Part):
    """To a third country or an international organisation. ``safeguards``: of Article 46 or 49(1)."""

    to: Text
    safeguards: Text


class Risk(Part):
    """A risk to people as the controller judges it (Article 35(7)(c)), and what is done about it (d)."""

    risk: Text
    likelihood: Text
    severity: Text
    measures: Text


class Assessment(Part):
    """The controller's own words for the impact assessment. ``prior_consultation``: of the authority (Article 36)."""

    description: Long | None = None
    legitimate_interest: Long | None = None
    necessity: Long | None = None
    proportionality: Long | None = None
    alternatives: Long | None = None
    risks: tuple[Risk, ...] | None = None
    officers_advice: Long | None = None
    views_of_data_subjects: Long | None = None
    prior_consultation: Long | None = None
    conclusion: Long | None = None
    decided_by: Text | None = None
    decided_on: Day | None = None
    review_by: Day | None = None


class Controller(Part):
    """Lists: left out is missing, empty is none."""

    controller: Party | None = None
    joint_controllers: tuple[Party, ...] | None = None
    representative: Party | None = None
    data_protection_officer: Party | None = None
    processors: tuple[Processor, ...] | None = None
    data_subjects: tuple[Text, ...] | None = None
    personal_data: tuple[Text, ...] | None = None
    special_categories: Long | None = None
    recipients: tuple[Recipient, ...] | None = None
    transfers: tuple[Transfer, ...] | None = None
    information: Long | None = None
    requests: Long | None = None
    organisational_measures: tuple[Text, ...] | None = None
    assessment: Assessment = Assessment()
