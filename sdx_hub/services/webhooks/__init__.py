"""Webhooks: addresses outside that are told of events, and the deliveries to them."""
