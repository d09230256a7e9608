"""Measurements beside the programs that people use today; run one with `make bench B=NAME`."""
