"""``deliveries``: what is still to be delivered, and what is not tried any more."""

from __future__ import annotations

from collections.abc import Sequence

import click

from supervisor.cli import exits, table, text
from supervisor.cli.arguments import exclude
from supervisor.cli.front import Invocation, command
from supervisor.errors import InvalidArguments
from supervisor.jobs import deliveries as all_deliveries
from supervisor.model import from_ns
from supervisor.store.outbox import Delivery

__all__ = ["deliveries"]

_HEADS = ("ID", "STATE", "MADE", "FAILED", "NEXT", "TO", "ERROR")


@command("deliveries")
@click.option("--dead", is_flag=True, help="List only those that have failed for a day and are not tried any more.")
@click.option("--retry", metavar="ID", help="Try this one at once, and then for another day.")
@click.option("--rm", "drop", metavar="ID", help="Do not deliver this one.")
def deliveries(call: Invocation, *, dead: bool, retry: str | None, drop: str | None) -> int:
    """List the ends of jobs that are to be delivered by --on-end or --webhook, and those that could not be.

    An ID can be shortened to its first characters, at least four.
    """
    exclude({"--dead": dead, "--retry": retry is not None, "--rm": drop is not None})
    with call.catalog() as catalog:
        root = catalog.layout.root
        if retry is not None:
            delivery = all_deliveries.retry(root, all_deliveries.resolve(root, retry))
            if delivery is None:
                message = f"delivery {retry} was made at this moment"
                raise InvalidArguments(message)
            shape = {"ok": True, **all_deliveries.to_json(delivery)}
            call.answer(lambda: shape, f"Delivery {delivery.delivery_id} is tried again.")
            return exits.OK
        if drop is not None:
            delivery_id = all_deliveries.resolve(root, drop)
            all_deliveries.drop(root, delivery_id)
            call.answer(lambda: {"ok": True, "removed": delivery_id}, f"Removed delivery {delivery_id}.")
            return exits.OK
        found = all_deliveries.deliveries(root, only_dead=dead)
    call.answer(
        lambda: {"ok": True, "deliveries": [all_deliveries.to_json(each) for each in found]},
        *(table.aligned([_HEADS, *map(_cells, found)]) if found else ["No deliveries."]),
    )
    return exits.OK


def _cells(delivery: Delivery) -> Sequence[str]:
    return (
        delivery.delivery_id,
        "dead" if delivery.is_dead else "waiting",
        text.clock(from_ns(delivery.made_ns)),
        str(delivery.failures),
        text.clock(from_ns(delivery.due_ns)) if delivery.due_ns else "-",
        text.one_line(all_deliveries.receiver_of(delivery)),
        text.one_line(delivery.error or "-"),
    )
