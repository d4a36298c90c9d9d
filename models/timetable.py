"""Which form of a policy holds for a frame: whether its time has come and is not over, and its schedules."""

from __future__ import annotations

from datetime import datetime

from sfumato.models.task import NoPolicy
from sfumato.schemas.outcome import Reason
from sfumato.schemas.policy import Policy
from sfumato.schemas.schedule import Schedule


class Timetable:
    """A policy with all its forms, made once, so that a frame only chooses. Thread-safe.

    Two clocks: the policy's validity is a right to look and goes by ``now``, so that an old recording read again is
    not looked at by a right that has ended; its schedules say what was to be seen, and go by the time of capture, so
    that a frame comes out the same whenever it is read.
    """

    def __init__(self, policy: Policy, value: bytes | None = None) -> None:
        """``value``: of the message that put the policy in force; its forms are then known by it."""
        self.policy = policy
        self._own = policy if value is None else policy.from_text(value)
        self._forms = [(schedule, self._form(schedule)) for schedule in policy.schedules]

    def at(self, captured_at: datetime, now: datetime) -> Policy | NoPolicy:
        """The form for a frame captured then and read now; both with a time zone. Never raises."""
        policy = self.policy
        if policy.valid_until is not None and now >= policy.valid_until:
            return self._none(Reason.POLICY_EXPIRED, "valid_until: has passed")
        if policy.valid_from is not None and now < policy.valid_from:
            return self._none(Reason.POLICY_NOT_YET_VALID, "valid_from: has not come")
        try:
            return next((form for schedule, form in self._forms if schedule.covers(captured_at)), self._own)
        except OverflowError:
            return self._none(Reason.INVALID_POLICY, "schedules: the frame's capture time is beyond the calendar")

    def _form(self, schedule: Schedule) -> Policy | NoPolicy:
        if schedule.full_mask:
            return self._none(Reason.SCHEDULED, schedule=schedule.name)
        return self._own.under(schedule)

    def _none(self, reason: Reason, detail: str | None = None, schedule: str | None = None) -> NoPolicy:
        policy = self._own
        return NoPolicy(reason, detail, policy.camera, policy.version, schedule, policy.output, policy.sha256)
