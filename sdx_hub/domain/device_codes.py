"""Codes with which a device says why an update did not go on or did not end well, and what helps."""

from typing import Final

HELPS: Final = {
    "wrong_hardware": "Assign a release that lists this hardware.",
    "release_rollback": "A release counter never goes back on a device: publish a larger one.",
    "payload_digest_known_bad": "This very payload failed here before, and is remembered: publish a corrected one.",
    "component_unknown_type": "The agent has no handler for a component of the release: update the agent first.",
    "release_yanked": "The release was taken back: assign another one.",
    "budget_exhausted": "The byte budget is used up: wait for the next day, or raise it in agent.toml.",
    "director_image_mismatch": "The hub's two repositories disagree: ask its operator for `sdx hub doctor`.",
    "superseded": "A newer assignment took its place.",
    "trial_starts_used_up": "The new version did not stay up on trial, again and again: publish a corrected one.",
}
