"""``python -m drills.workers anonymize --workers N``: as ``sfumato anonymize``, but detectors can misbehave."""

from __future__ import annotations

import os
import sys

from sfumato.agents.settings import load
from sfumato.agents.supervise import supervise

if __name__ == "__main__":
    count, port = int(sys.argv[-1]), load().metrics_port
    command = [sys.executable, "-m", "faust", "-A", "drills.detector", "worker", "--without-web", "-l", "info"]
    environments = [{**os.environ, "SFUMATO_METRICS_PORT": str(port + number)} for number in range(count)]
    sys.exit(supervise(command, environments))
