"""The reasons for rejected commands. Each one is a problem of the REST API."""

from typing import Final

from shared.validation.faults import IN_FLIGHT, KEY_REUSED, RETRY_AFTER, RejectionType

_CASE: Final = "case 0a5fdbb3-6a3d-5f6e-8f9e-3b1c61f0a0de"

LEASE_EXPIRED: Final = RejectionType(
    "lease-expired", 409, "Lease expired", f"Lease 1 of {_CASE} has expired. Claim again."
)
LEASE_RELEASED: Final = RejectionType(
    "lease-released", 409, "Lease released", f"Lease 1 of {_CASE} was released. Claim again."
)
WRONG_LEASE_TOKEN: Final = RejectionType(
    "wrong-lease-token", 409, "Lease not held", f"Token 1 does not hold {_CASE} (any more)."
)
SUPERSEDED: Final = RejectionType(
    "superseded", 409, "Case superseded", "The case was superseded by an item, a newer version."
)
WITHDRAWN: Final = RejectionType(
    "withdrawn", 409, "Item withdrawn", "The case was closed because its item was withdrawn."
)
CLOSED: Final = RejectionType("closed", 409, "Case closed", "The case was closed without a decision.")
ALREADY_DECIDED: Final = RejectionType(
    "already-decided", 409, "Case already decided", "The case was decided already: reject, by a policy."
)
OWN_DECISION: Final = RejectionType(
    "own-decision", 409, "Own decision", "Reviewer 'r-71' made the decision that the appeal is about."
)
REPLACED: Final = RejectionType(
    "replaced", 409, "Decision not in force", "The decision is not in force, so it cannot be overturned."
)
WRONG_ACTION: Final = RejectionType(
    "wrong-action", 422, "Action not allowed", "The case is of type 'item': expected approve or reject."
)
REASONS_NEEDED: Final = RejectionType(
    "reasons-needed", 422, "Reason code missing", "A reject needs at least one reason code."
)
UNKNOWN_REASON: Final = RejectionType(
    "unknown-reason",
    422,
    "Unknown reason code",
    "Policy set ps-1-5f70bf18a086, in force, has no reason code 'Q': expected COUNTERFEIT, OTHER, WEAPONS"
    " (GET /v1/reasons).",
)
NO_POLICY_SET: Final = RejectionType(
    "no-policy-set",
    503,
    "No policy set in force",
    "No policy set is in force in this process yet, so no reason code can be checked. Send the same call again.",
    RETRY_AFTER,
)

TOO_MANY_LEASES: Final = RejectionType(
    "too-many-leases",
    429,
    "Too many open leases",
    "Reviewer 'r-71' holds 50 open leases, which is the limit. Decide or release cases, then claim again.",
    RETRY_AFTER,
)
LOST_IN_RESTORE: Final = RejectionType(
    "lost-in-restore",
    409,
    "Lease lost in a restore",
    f"Lease 1 of {_CASE} was lost when the database was restored. Claim again.",
)
RECOVERING: Final = RejectionType(
    "recovering",
    503,
    "Recovering after a restore",
    "Claims and decisions are closed until the database contains again what the service has published before.",
    RETRY_AFTER,
)

OF_CLAIM: Final = (IN_FLIGHT, KEY_REUSED, TOO_MANY_LEASES, RECOVERING)
OF_LEASE: Final = (
    LOST_IN_RESTORE,
    RECOVERING,
    LEASE_EXPIRED,
    LEASE_RELEASED,
    WRONG_LEASE_TOKEN,
    SUPERSEDED,
    WITHDRAWN,
    CLOSED,
    ALREADY_DECIDED,
)
OF_DECISION: Final = (
    *OF_LEASE,
    OWN_DECISION,
    REPLACED,
    WRONG_ACTION,
    REASONS_NEEDED,
    UNKNOWN_REASON,
    NO_POLICY_SET,
)
"""The reasons by command."""
