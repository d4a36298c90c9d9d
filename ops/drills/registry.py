"""Every drill by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from drills import failures, ledgers, outages, processes, readers, stores
from drills.plan import Plan
from drills.report import Row

DRILLS: dict[str, Callable[[Plan], Row]] = {
    "kill-worker": processes.kill_worker,
    "kill-ingestor": processes.kill_ingestor,
    "kill-ledger": ledgers.kill_ledger,
    "kill-bridge": processes.kill_bridge,
    "kill-share": readers.kill_share,
    "kill-inspector": readers.kill_inspector,
    "kill-archive": stores.kill_archive,
    "terminate": processes.terminate,
    "zombie": processes.zombie,
    "rebalance-storm": processes.rebalance_storm,
    "kill-while-held": processes.kill_while_held,
    "wedge": processes.wedge,
    "broker-restart": outages.broker_restart,
    "broker-paused": outages.broker_paused,
    "one-of-three": outages.one_of_three,
    "network-cut": outages.network_cut,
    "disk-full": outages.disk_full,
    "detector-hangs": failures.detector("hang", "detector_timeout"),
    "detector-raises": failures.detector("raise", "detector_error"),
    "detector-broken": failures.detector_broken,
    "detector-slow": failures.detector("slow", None, 10.0),
    "detector-nan": failures.detector("nan", "detector_error"),
    "detector-outside": failures.detector("outside", "detector_error"),
    "queues-full": failures.queues_full,
    "clock-jump": failures.clock_jump,
    "policy-topic-missing": failures.policy_topic_missing,
    "key-store-missing": failures.key_store_missing,
    "signing-key-missing": ledgers.signing_key_missing,
    "database-gone": stores.database_gone,
    "database-hangs": stores.database_hangs,
    "redis-gone": stores.redis_gone,
    "redis-hangs": stores.redis_hangs,
    "overload": failures.overload,
}
KAFKA_ONLY = frozenset({"broker-restart", "one-of-three", "network-cut", "disk-full"})
"""The embedded broker keeps nothing, has no copies, no disk, and is for loopback alone."""
