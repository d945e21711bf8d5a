"""The account of a deployment (`piepowder account`): compares the journals, the topics and the audit logs, and
shows the result."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.table import Table

from deploy.local.accounting import Account, AuditCounts, ItemOutcome, Ledger, audit_counts
from deploy.local.topic_reader import TopicReader
from piepowder import console_output
from piepowder.client import Api
from piepowder.submission_files import read_journal

_SHOWN: Final = 12


async def account(api: Api, journals: Sequence[Path]) -> Account:
    """The account of the items that the journals list as accepted."""
    ledger, regions = Ledger(), api.profile.chosen(None)
    reader = TopicReader(api.profile.bootstrap(), regions, ledger)
    items = {item for journal in journals for entry in read_journal(journal) for item in entry.items()}
    try:
        counts = await audit_counts_of(api, regions)
        await reader.catch_up()
    finally:
        await reader.close()
    return ledger.account(items, counts)


async def audit_counts_of(api: Api, regions: Sequence[str]) -> dict[str, AuditCounts]:
    """The counts of each region's audit log."""
    totals = [await api.get(f"audit-{region}", "/v1/totals") for region in regions]
    return {total["region"]: audit_counts(total) for total in totals}


def show_account(result: Account, *, has_submitted: bool) -> None:
    """Show the missing items, the doubles and the gaps; then the account in one line. `has_submitted`: lines were
    submitted, whether or not any was accepted."""
    for item, reason in itertools.islice(result.missing.items(), _SHOWN):
        console_output.show(f"  missing: item {item.item_id} in {item.region}: {reason}", "red")
    for sentence in (*result.doubles[:_SHOWN], *result.gaps):
        console_output.show(f"  {sentence}", "red")
    audit = "" if result.gaps else f"; all {result.events:,} events of the topics are in the audit logs once"
    is_empty = "no submitted item was accepted" if has_submitted else "nothing was submitted from here"
    console_output.show(
        f"Account: {result.proof(is_empty=is_empty)}{audit}.", "bold green" if result.holds else "bold red"
    )


def queue_table(result: Account) -> Table:
    """The outcomes by region and queue."""
    outcomes = tuple(outcome for outcome in ItemOutcome if outcome is not ItemOutcome.MISSING)
    table = console_output.table("region", "queue", *map(str, outcomes), right=len(outcomes))
    for (region, queue), counts in sorted(result.by_queue.items()):
        table.add_row(region, queue, *(f"{counts.get(outcome, 0):,}" for outcome in outcomes))
    return table
