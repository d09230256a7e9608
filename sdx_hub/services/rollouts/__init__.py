"""Rollouts: planned, prepared, decided upon, offered, taken back and explained."""
