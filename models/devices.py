"""Which GPU a detector runs on."""

from __future__ import annotations

import re

from sfumato.models.detectors import DetectorError


def choose(asked: str, gpus: int) -> str:
    """``cpu`` or ``cuda:N`` for ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` where so many GPUs are present."""
    if asked == "cpu" or (asked == "auto" and not gpus):
        return "cpu"
    index = cuda_index(asked)
    if index >= gpus:
        raise DetectorError(
            f"SFUMATO_DETECTOR_DEVICE: {asked} asked for, but {gpus} CUDA device(s) found: check `nvidia-smi` and that "
            "the container is given the GPU, or set it to cpu"
        )
    return f"cuda:{index}"


def cuda_index(asked: str) -> int:
    """N for ``cuda:N``, 0 for ``auto`` and ``cuda``. :class:`DetectorError` for what names no GPU."""
    match = re.fullmatch(r"auto|cuda(?::(\d{1,3}))?", asked)
    if not match:
        raise DetectorError(
            f"SFUMATO_DETECTOR_DEVICE: {asked!r} is not auto, cuda or cuda:N, nor the cpu of ultralytics"
        )
    return int(match[1] or 0)
