"""The benchmark of ``POST /v1/images:anonymize``: how long callers wait, beside the bare model. ``make bench`` runs it.

One JSON object is the last line on stdout. A bridge process answers over HTTP, with its default settings and targets,
to 1, 8 and 32 callers, each of whom sends the next picture once the last one has come back. ``p50`` and ``p99`` are
milliseconds from the first byte sent to the last one received. ``bare`` is the median of the same detectors on the same
decoded picture, called in this process with the same number of threads, while nobody calls the bridge; ``p50_by_bare``
and ``p99_by_bare`` divide by it. ``rate``: pictures a second. ``refused``: answers that were no picture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from bench import decoded, say
from stack import Stack

from sfumato.agents import rules
from sfumato.agents.fetch import fetch_weights
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.models.detectors import Image

GOAL = {"p50_one_caller": [50, 300]}
CLIP = "bikes"
SIZES = ((640, 480), (1920, 1080))
CALLERS = (1, 8, 32)
PICTURES = 10
QUALITY = 85
WARM_UP = 12
"""Calls before each measurement: a size is compiled at its ninth picture."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="for each size and number of callers")
    parser.add_argument("--broker", default="embedded", help="embedded, kafka or host:port")
    options = parser.parse_args()
    frames = list(islice(decoded(CLIP), PICTURES))
    with tempfile.TemporaryDirectory() as folder, Stack(options.broker, Path(folder)) as stack:
        list(fetch_weights(stack.settings))
        stack.start("bridge")
        stack.wait_for_bridge()
        found = {}
        for width, height in SIZES:
            pictures = [images.resize(frame, width, height) for frame in frames]
            found[f"{width}x{height}"] = measure(stack, pictures, options.requests)
    print(json.dumps({"goal": GOAL, **found}))
    return 0


def measure(stack: Stack, pictures: list[Image], requests: int) -> dict[str, Any]:
    bare = statistics.median(detection(stack.settings, pictures))
    payloads = [images.encode(picture, QUALITY) for picture in pictures]
    call(stack, payloads, 1, WARM_UP)
    result: dict[str, Any] = {"bare": round(bare, 1)}
    for callers in CALLERS:
        began = time.perf_counter()
        waits, refused = call(stack, payloads, callers, max(1, requests // callers))
        rate = len(waits) / (time.perf_counter() - began)
        p50, p99 = statistics.median(waits), statistics.quantiles(waits, n=100, method="inclusive")[98]
        result[f"{callers} callers"] = {
            "p50": round(p50, 1),
            "p99": round(p99, 1),
            "p50_by_bare": round(p50 / bare, 2),
            "p99_by_bare": round(p99 / bare, 2),
            "rate": round(rate, 1),
            "refused": refused,
        }
        say(f"{pictures[0].shape[1]}x{pictures[0].shape[0]}, {callers} callers: {result[f'{callers} callers']}")
    return result


def detection(settings: Settings, pictures: list[Image]) -> list[float]:
    """Milliseconds of the detectors alone, by picture."""
    policy = rules.chosen(settings, None, None, None).policy
    ensemble = rules.load(settings, policy)
    waits = []
    for number in range(WARM_UP + 3 * len(pictures)):
        picture = pictures[number % len(pictures)]
        began = time.perf_counter()
        ensemble.detect([picture], [policy])
        waits.append((time.perf_counter() - began) * 1000)
    return waits[WARM_UP:]


def call(stack: Stack, payloads: list[bytes], callers: int, each: int) -> tuple[list[float], int]:
    """What ``callers`` waited for ``each`` pictures, in milliseconds; and how many answers were no picture."""
    waits: list[float] = []
    refused: list[int] = []

    def one(number: int) -> None:
        headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "image/jpeg", "Accept": "image/jpeg"}
        with httpx.Client(base_url=stack.bridge_url, headers=headers, timeout=120) as client:
            for turn in range(each):
                began = time.perf_counter()
                answer = client.post("/v1/images:anonymize", content=payloads[(number + turn) % len(payloads)])
                if answer.headers.get("sfumato-outcome") == "masked":
                    waits.append((time.perf_counter() - began) * 1000)
                else:
                    refused.append(answer.status_code)

    _ = stack.key  # made once, before the threads
    threads = [threading.Thread(target=one, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stack.check()
    return waits, len(refused)


if __name__ == "__main__":
    sys.exit(main())
