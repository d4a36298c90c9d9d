"""What became of a frame. Every ingested frame ends as exactly one outcome."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    MASKED = "masked"
    """Detection ran; what the policy names is masked."""
    FULLY_MASKED = "fully_masked"
    """One grey rectangle of the frame's size: detection failed or no policy is valid."""
    DROPPED = "dropped"
    """Nothing was published."""


class Reason(StrEnum):
    """Why a frame was fully masked or dropped; the words appear in audit events and metrics."""

    # fully masked (and TOO_LARGE, where the masked picture outgrew the topic)
    NO_POLICY = "no_policy"
    INVALID_POLICY = "invalid_policy"
    POLICY_EXPIRED = "policy_expired"
    POLICY_NOT_YET_VALID = "policy_not_yet_valid"
    SCHEDULED = "scheduled"
    SUSPENDED = "suspended"
    TARGET_UNAVAILABLE = "target_unavailable"
    DETECTOR_ERROR = "detector_error"
    DETECTOR_TIMEOUT = "detector_timeout"
    TRACKING_ERROR = "tracking_error"
    MASK_ERROR = "mask_error"
    TOO_SMALL = "too_small"
    TOO_MANY_DETECTIONS = "too_many_detections"
    DAMAGED = "damaged"
    TOO_MANY_CAMERAS = "too_many_cameras"
    LEARNING_BACKGROUND = "learning_background"
    TOO_MUCH_HELD = "too_much_held"
    # dropped by the anonymizer
    INVALID_ENVELOPE = "invalid_envelope"
    EMPTY = "empty"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    ENCODE_ERROR = "encode_error"
    NO_KEYFRAME = "no_keyframe"
    DISCARDED = "discarded"
    LATE = "late"
    NOT_SEALED = "not_sealed"
    KEY_SHREDDED = "key_shredded"
    KEY_MISSING = "key_missing"
    SEAL_BROKEN = "seal_broken"
    # dropped by the ingestor, before Kafka (besides UNDECODABLE, TOO_LARGE, EMPTY, NO_KEYFRAME, KEY_SHREDDED): counted
    # in the epoch's record
    QUEUE_FULL = "queue_full"
    KEY_UNAVAILABLE = "key_unavailable"
