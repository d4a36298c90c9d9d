"""A failure that a person can mend."""

from __future__ import annotations


class Fault(Exception):
    """Its text says what is wrong and what to do, without pixels and secrets; the command line ends with it."""
