"""Use cases: one a method, each owning its transaction. Commit first, answer then."""
