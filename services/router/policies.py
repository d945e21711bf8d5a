"""Compiles a published policy set, with CEL for conditions and RE2 for word lists."""

from services.router.cel.conditions import CelConditions
from services.router.domain.routing import PolicySet
from services.router.terms import Terms, term_lists
from shared.contracts.events import PolicySetPublished


def compile_policy_set(published: PolicySetPublished) -> PolicySet:
    """Compile a policy set; raises InvalidConditions or InvalidTerms with all faults."""
    terms = Terms(term_lists(published.terms, published.term_options))
    conditions = CelConditions([policy.when for policy in published.policies])
    return PolicySet(
        published,
        find_terms=terms.find,
        term_faults=terms.faults,
        conditions=conditions,
        condition_faults=conditions.refused,
    )
