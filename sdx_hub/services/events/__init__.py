"""What happened, for those who want to be told: the outbox, the live feed and webhooks."""
