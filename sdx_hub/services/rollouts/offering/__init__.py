"""A release is offered to the next members."""
