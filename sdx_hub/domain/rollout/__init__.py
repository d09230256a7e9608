"""How a rollout decides: pure. Time, chance and counts come in from outside, decisions with their reasons come out."""
