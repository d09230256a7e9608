"""Payloads on their way in, and releases: proposed, signed, published, yanked."""
