"""How a drill is to be run: on which kind of broker, how many times."""

from __future__ import annotations

from dataclasses import dataclass

from apache_kafka import ApacheKafka

from sfumato.agents.broker import BrokerProcess, EmbeddedBroker


@dataclass(frozen=True)
class Plan:
    """``kind``: ``embedded`` or ``kafka``."""

    kind: str
    times: int

    def broker(self) -> BrokerProcess:
        return EmbeddedBroker() if self.kind == "embedded" else ApacheKafka()
