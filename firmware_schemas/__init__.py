"""The contract that publishers, hub and craft share: ids, bounds, release manifests, device messages.

Depends on msgspec and the standard library only, does no I/O, and is imported by everybody.
"""
