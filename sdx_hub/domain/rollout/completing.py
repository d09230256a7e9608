"""From what a person wrote to a whole order: defaults filled in, and everything refused that makes no sense."""

import msgspec
from msgspec import Struct

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query import parse
from sdx_hub.domain.rollout import windows
from sdx_hub.domain.rollout.kinds import check_stratify
from sdx_hub.domain.rollout.policy import Order, Soak
from sdx_hub.domain.rollout.waves import parse_waves


class Defaults(Struct, frozen=True):
    """What the hub's settings say.

    Attributes:
        soak_s, silent_after_s: Of orders that do not say so.
        poll_s: Seconds between two polls of a device, at the most.
    """

    soak_s: int = 600
    silent_after_s: int = 3_600
    poll_s: int = 75


def complete(order: Order, defaults: Defaults) -> Order:
    """Fill in what the order leaves to the hub.

    Raises:
        BadInput: It makes no sense: codes `waves_invalid`, `stratify_invalid`, `window_invalid`, `gate_invalid`,
            `query_invalid`.
    """
    parse_waves(order.waves)
    check_stratify(order.stratify)
    for window in order.windows:
        windows.parse(window)
    if order.gate.halt_at < order.gate.pause_at:
        raise BadInput(
            f"The gate would halt at {order.gate.halt_at:g}, before it pauses at {order.gate.pause_at:g}. Let halt_at "
            "be the larger one.",
            "gate_invalid",
        )
    query = order.query.strip()
    if query:
        parse(query)
    return msgspec.structs.replace(
        order,
        query=query,
        soak=Soak(defaults.soak_s) if order.soak is None else order.soak,
        silent_after_s=defaults.silent_after_s if order.silent_after_s is None else order.silent_after_s,
        urgent=order.urgent.strip(),
        downgrade=order.downgrade.strip(),
    )
