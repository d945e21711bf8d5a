"""A published policy set, made ready to run on CEL and RE2."""

from services.router.cel import CelConditions
from services.router.domain import PolicySet
from services.router.terms import Terms
from shared.contracts.events import PolicySetPublished


def compile_policy_set(published: PolicySetPublished) -> PolicySet:
    """The set ready to run; raises `cel.Refused` with every condition that does not compile, ValueError for terms."""
    return PolicySet(
        published,
        find_terms=Terms(published.terms).find,
        conditions=CelConditions([policy.when for policy in published.policies]),
    )
