"""The bound on bytes in flight: kept whatever comes, and fair."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from sfumato.agents.admission import Admission

CAMERAS = ("a", "b", "c", "d")
LIMIT = 1000
steps = st.lists(st.tuples(st.sampled_from(CAMERAS), st.integers(1, 600), st.booleans()), max_size=200)


@given(steps)
def test_bounded_and_fair_whatever_comes(steps: list[tuple[str, int, bool]]) -> None:
    """Each step releases the camera's oldest frame (if it has one and is told to) or tries to send one."""
    admission = Admission(LIMIT, len(CAMERAS))
    held: dict[str, list[int]] = {camera: [] for camera in CAMERAS}
    for camera, size, release in steps:
        if release and held[camera]:
            admission.release(camera, held[camera].pop(0))
        else:
            own, total = sum(held[camera]), sum(map(sum, held.values()))
            admitted = admission.admit(camera, size)
            if total + size <= LIMIT:
                assert admitted, "refused although there was room"
            elif total + size <= 2 * LIMIT and own + size <= LIMIT // len(CAMERAS):
                assert admitted, "refused within its fair share"
            elif own and own + size > LIMIT // len(CAMERAS):
                assert not admitted, "let in beyond its share of a full queue"
            if admitted:
                held[camera].append(size)
        assert admission.total == sum(map(sum, held.values())) <= 2 * LIMIT


def test_a_noisy_camera_does_not_starve_a_quiet_one_with_large_frames() -> None:
    admission = Admission(LIMIT, 100)  # a share of 10 bytes
    while admission.admit("noisy", 50):
        pass
    assert admission.total == LIMIT
    assert admission.admit("quiet", 200)
    assert not admission.admit("quiet", 200)
    admission.release("quiet", 200)
    assert admission.admit("quiet", 200)
    assert not admission.admit("noisy", 50)


def test_even_first_frames_are_refused_beyond_twice_the_limit() -> None:
    admission = Admission(LIMIT, 100)
    admitted = [admission.admit(f"camera-{number}", 300) for number in range(10)]
    assert admitted == [True] * 6 + [False] * 4
    assert admission.total == 1800


def test_drained_waits_for_that_camera_alone() -> None:
    admission = Admission(LIMIT, 2)
    admission.admit("a", 100)
    admission.admit("b", 100)
    assert not admission.drained("a", 0)
    waiting = threading.Thread(target=lambda: admission.release("a", 100))
    waiting.start()
    assert admission.drained("a", 10)
    waiting.join()
    assert not admission.drained("b", 0)


def test_counts_are_right_across_threads() -> None:
    admission = Admission(LIMIT, 4)

    def work(camera: str) -> None:
        for _ in range(2000):
            if admission.admit(camera, 7):
                admission.release(camera, 7)

    threads = [threading.Thread(target=work, args=(camera,)) for camera in CAMERAS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admission.total == 0
