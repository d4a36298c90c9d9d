"""At least 10,000 made-up requests to the API, on the embedded broker: cases, checks and failures as one JSON object.

python ops/bench_api_cases.py [--cases 10000]; exit status 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

import api_cases
import uvicorn
from stack import demonstration_policy

from sfumato.agents import policies, provision
from sfumato.agents.access.keys import Keys
from sfumato.agents.bridge import make_app
from sfumato.agents.broker import EmbeddedBroker, free_port
from sfumato.agents.settings import Settings
from sfumato.schemas.scope import Scope


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    options = parser.parse_args()
    begin = datetime.now(UTC)
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as folder:
        settings = Settings(bootstrap_servers=broker.bootstrap_servers, state_dir=Path(folder), partitions=2)
        provision.create(settings)
        policies.publish(settings, [demonstration_policy("north")])
        report = _run(settings, options.cases)
    seconds = (datetime.now(UTC) - begin).total_seconds()
    failures = [{"check": check, "text": text} for check, text in report.failures.items()]
    statuses = {str(status): number for status, number in sorted(report.statuses.items())}
    figures = {
        "cases": report.cases,
        "operations": len(report.operations),
        "checks": report.checks,
        "statuses": statuses,
        "failures": failures,
        "errors": report.errors,
        "seconds": round(seconds),
    }
    print(json.dumps(figures))
    return 1 if report.failures or report.errors or report.cases < options.cases else 0


def _run(settings: Settings, cases: int) -> api_cases.Report:
    """Rounds with ever other seeds, until there are so many cases."""
    app, port = make_app(settings), free_port()
    new = Keys(app.state.database).create("cases", tuple(Scope), purpose="tests", rate=10_000)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False))
    serving = threading.Thread(target=server.run)
    serving.start()
    whole = api_cases.Report()
    try:
        for seed in range(1, 100):
            found = api_cases.run(f"127.0.0.1:{port}", new.secret, examples=30, seed=seed)
            whole.add(found)
            print(f"{whole.cases} cases, {len(whole.failures)} failures", file=sys.stderr, flush=True)
            if whole.cases >= cases:
                break
    finally:
        server.should_exit = True
        serving.join(30)
    return whole


if __name__ == "__main__":
    sys.exit(main())
