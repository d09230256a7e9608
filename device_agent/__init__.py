"""The device agent: polls light, verifies and installs in workers that exit, and proves health before it commits."""

AGENT_VERSION = "0.1.0"
