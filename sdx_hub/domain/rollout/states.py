"""The states of a rollout and of its members, and what they count as."""

from typing import Final

ROLLOUT_STATES: Final = (
    "approval",
    "preparing",
    "running",
    "paused",
    "halted",
    "reverting",
    "reverted",
    "finished",
    "cancelled",
)
"""`approval` waits for a second person, `preparing` writes the list of members. `paused` offers nothing new and lets go
on what is under way; `halted` takes open offers back. `reverting` brings every touched device back."""

ACTIVE: Final = ("preparing", "running", "paused", "halted", "reverting")
"""The engine looks after these; of a halted one, after what still comes in."""
ENDED: Final = ("reverted", "finished", "cancelled")

IN_FLIGHT: Final = ("offered", "downloading", "verified", "waiting", "installing", "trial")
"""Under way on the device. `waiting` waits for the ground: the flight gate is closed."""
GOOD: Final = ("committed",)
BAD: Final = ("rolled_back", "failed", "refused", "silent", "lost")
"""What counts against the release. `silent` heard the offer and was not heard of again; `lost` went silent after it had
begun to install."""
NEUTRAL: Final = ("off_duty", "superseded", "withdrawn")
"""Counts neither way. `off_duty` has not polled since the offer: it is off, and may yet take it. `superseded` was
assigned something else; `withdrawn` had its offer taken back."""
OUT: Final = ("pinned", "skipped")
BACK: Final = ("reverting", "reverted", "revert_failed")

MEMBER_STATES: Final = ("queued", *IN_FLIGHT, *GOOD, *BAD, *NEUTRAL, *OUT, *BACK)

AFTER_SWITCH: Final = ("installing", "trial")
"""A device that goes silent here is lost and not merely silent."""

FROM_REPORT: Final = {
    "OFFERED": "offered",
    "DOWNLOADING": "downloading",
    "VERIFIED": "verified",
    "READY": "waiting",
    "INSTALLING": "installing",
    "SWITCHED": "installing",
    "TRIAL": "trial",
}
"""States as the agent reports its progress, to states of a member."""
FROM_RESULT: Final = {
    "success": "committed",
    "failed": "failed",
    "rolled_back": "rolled_back",
    "refused": "refused",
    "cancelled": "superseded",
}
"""Final results of an action, to states of a member."""
