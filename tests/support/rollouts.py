"""Rollouts over HTTP, as a pipeline orders them."""

from typing import Any

import httpx


def start(client: httpx.Client, release: str, **order: Any) -> str:
    """Order one; return its id.

    Args:
        client: With a token that may.
        release: `PRODUCT@VERSION`.
        order: More of `domain.rollout.policy.Order`.
    """
    answer = client.post("/api/v1/rollouts", json={"release": release, **order})
    assert answer.status_code in {200, 201}, answer.text
    return str(answer.json()["id"])


def show(client: httpx.Client, rollout: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/rollouts/{rollout}").raise_for_status().json()
    return found


def command(client: httpx.Client, rollout: str, name: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/api/v1/rollouts/{rollout}/{name}", json=body)
    assert answer.is_success, answer.text
    done: dict[str, Any] = answer.json()
    return done
