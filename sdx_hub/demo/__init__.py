"""The main job on real input: a hub, a ceremony, a small fleet of real agents, two real releases and a broken one.

Everything here goes through the two commands that people use, `sdx` and `sdx-agent`, as processes of their own.
"""
