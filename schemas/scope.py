"""What a caller of the API may do: scopes, and the roles that bundle them."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """Carried by API keys and by the ``scope`` claim of access tokens (RFC 8693, section 4.2)."""

    CAMERAS_READ = "cameras:read"
    """See live anonymized frames of the caller's cameras."""
    IMAGES_ANONYMIZE = "images:anonymize"
    DETECTIONS_CREATE = "detections:create"
    ANALYSES_CREATE = "analyses:create"
    UPLOADS_WRITE = "uploads:write"
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    POLICIES_READ = "policies:read"
    POLICIES_WRITE = "policies:write"
    AUDIT_READ = "audit:read"
    PSEUDONYMS_REVEAL = "pseudonyms:reveal"
    SUBJECTS_READ = "subjects:read"
    SUBJECTS_REQUEST = "subjects:request"
    """Ask for clips of one person, and fetch one's own."""
    SUBJECTS_APPROVE = "subjects:approve"
    """Approve or refuse what others asked for."""
    USAGE_READ = "usage:read"
    """See the usage of all callers; one's own needs no scope."""
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    METRICS_READ = "metrics:read"


class Role(StrEnum):
    """Who uses the API: a name for a set of scopes, :data:`ROLES`."""

    VIEWER = "viewer"
    VENDOR = "vendor"
    DAM = "dam"
    DPO = "dpo"
    ADMIN = "admin"


ROLES: dict[Role, frozenset[Scope]] = {
    Role.VIEWER: frozenset({Scope.CAMERAS_READ}),
    Role.VENDOR: frozenset({Scope.CAMERAS_READ, Scope.IMAGES_ANONYMIZE, Scope.DETECTIONS_CREATE}),
    Role.DAM: frozenset(
        {
            Scope.IMAGES_ANONYMIZE,
            Scope.DETECTIONS_CREATE,
            Scope.UPLOADS_WRITE,
            Scope.JOBS_READ,
            Scope.JOBS_WRITE,
            Scope.POLICIES_READ,
        }
    ),
    Role.DPO: frozenset(Scope) - {Scope.KEYS_WRITE, Scope.METRICS_READ},
    Role.ADMIN: frozenset(Scope),
}
