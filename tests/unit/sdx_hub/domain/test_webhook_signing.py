"""The signature by the published vector of the reference implementations, and by a receiver written from the text."""

import base64
import secrets

import pytest

from sdx_hub.domain.webhook_signing import SECRET_BYTES, headers, shown_secret
from tests.support.receiver import verify

SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""Of libraries/python/tests/test_webhooks.py (test_sign_function) of standard-webhooks/standard-webhooks."""


def test_the_published_vector() -> None:
    made = headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    verify(f"whsec_{SECRET}", made, b'{"test": 2432232314}', now_s=1614265330)


@pytest.mark.parametrize("change", ["webhook-id", "webhook-timestamp", "webhook-signature", "body", "secret"])
def test_a_receiver_notices_every_change(change: str) -> None:
    stored = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    body = b'{"type":"rollout.halted"}'
    made = headers(stored, "msg_1_2", 1_700_000_000, body)
    verify(shown_secret(stored), made, body, now_s=1_700_000_100)
    if change == "body":
        body += b" "
    elif change == "secret":
        stored = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    else:
        made[change] = {
            "webhook-id": "msg_1_3",
            "webhook-timestamp": "1700000001",
            "webhook-signature": "v1," + base64.b64encode(bytes(32)).decode(),
        }[change]
    with pytest.raises(AssertionError):
        verify(shown_secret(stored), made, body, now_s=1_700_000_100)


def test_an_old_message_is_not_believed() -> None:
    made = headers(SECRET, "msg_1_2", 1_700_000_000, b"{}")
    with pytest.raises(AssertionError):
        verify(shown_secret(SECRET), made, b"{}", now_s=1_700_000_301)
