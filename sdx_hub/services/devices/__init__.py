"""Devices: how they enrol, what they should run, what they say, and what the poll knows of them."""
