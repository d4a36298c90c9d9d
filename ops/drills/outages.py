"""Drills of what the processes stand on: the broker, the network, the disk. All but one want Apache Kafka."""

from __future__ import annotations

import time

from apache_kafka import ApacheKafka

from drills import brokers
from drills.plan import Plan
from drills.proxy import Network
from drills.report import Row
from drills.site import Site

PAUSED = 30.0
"""Seconds for which a broker stands still, or a network is cut."""
DOWN = 3.0
"""Seconds between the end of a broker and its next start."""


def broker_restart(plan: Plan) -> Row:
    """kill -9 of the only broker; it comes back with its disk."""
    broker = ApacheKafka()
    with Site(broker) as site:
        for _ in range(_few(plan)):
            site.now_and_then()
            broker.kill()
            time.sleep(DOWN)
            with site.recovering():
                broker.start()
        return site.row()


def broker_paused(plan: Plan) -> Row:
    """SIGSTOP of the broker for 30 s."""
    broker = plan.broker()
    with Site(broker) as site:
        for _ in range(min(plan.times, 2)):
            site.now_and_then()
            brokers.pause(broker)
            time.sleep(PAUSED)
            with site.recovering():
                brokers.go_on(broker)
        return site.row()


def one_of_three(plan: Plan) -> Row:
    """kill -9 of one broker of three, each in turn; the recovery is that of the two that are left."""
    cluster = brokers.Cluster()
    with Site(cluster, replication_factor=3) as site:
        for number in range(_few(plan)):
            node = cluster.nodes[number % 3]
            site.now_and_then()
            with site.recovering():
                node.kill()
            node.start()
            site.await_flow(time.monotonic(), lambda arrival: True)
            time.sleep(10.0)  # its copies catch up: two must have a message before the next may go
        return site.row()


def network_cut(plan: Plan) -> Row:
    """The network between all processes and the broker is silent for 30 s; likewise it refuses connections."""
    broker = brokers.Networked()
    with Site(broker) as site:
        for kind in (Network.SILENT, Network.REFUSING) * min(plan.times, 2):
            site.now_and_then()
            broker.become(kind)
            time.sleep(PAUSED)
            with site.recovering():
                broker.become(Network.WHOLE)
        return site.row()


def disk_full(plan: Plan) -> Row:
    """The broker's disk is filled until it gives up; then there is room again, and it is started."""
    broker = brokers.Cramped()
    with Site(broker) as site:
        for _ in range(min(plan.times, 2)):
            site.now_and_then()
            broker.fill()
            site.wait(lambda: not broker.alive, "the broker went on with a full disk")
            broker.kill()
            broker.empty()
            with site.recovering():
                broker.start()
        return site.row()


def _few(plan: Plan) -> int:
    """Of what takes half a minute each."""
    return min(plan.times, 6)
