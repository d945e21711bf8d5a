"""Compiles a published policy set, with CEL for conditions and RE2 for word lists."""

from services.router.cel.conditions import CelConditions
from services.router.domain.routing import PolicySet
from services.router.terms import Terms
from shared.contracts.events import PolicySetPublished


def compile_policy_set(published: PolicySetPublished) -> PolicySet:
    """Compile a policy set; raises InvalidConditions with all faults, and ValueError for unusable word lists."""
    return PolicySet(
        published,
        find_terms=Terms(published.terms).find,
        conditions=CelConditions([policy.when for policy in published.policies]),
    )
