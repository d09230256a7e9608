"""The byte budget: what the link may carry in a day, remembered across restarts.

A day is 24 hours of time that surely passed: within one boot by its clock; a reboot continues from what was known. So a
budget may last longer than a day, never shorter.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from device_agent.core.errors import BudgetExhausted
from device_agent.ports.clock import Clock
from device_agent.ports.storage import Storage, read_optional, replace_file

DAY_S = 86_400
_SAVE_EVERY_BYTES = 1 << 20


class _Spent(Struct, frozen=True):
    used_bytes: int = 0
    passed_s: int = 0
    boot_id: str = ""
    since_boot_s: int = 0


class ByteBudget:
    """Counts bytes; a limit of 0 counts nothing.

    Args:
        path: STATE/budget.json.
        per_day: Bytes in 24 hours.
    """

    def __init__(self, path: Path, per_day: int, storage: Storage, clock: Clock) -> None:
        self._path, self._per_day, self._storage, self._clock = path, per_day, storage, clock
        self._unsaved = 0
        self._spent = self._load() if per_day else _Spent()

    def charge(self, count: int) -> None:
        """Count bytes that have arrived.

        Raises:
            BudgetExhausted: The day's budget is used up; `retry_after_s` says when it is worth asking again.
        """
        if not self._per_day:
            return
        self._spent = self._aged()
        self._spent = msgspec.structs.replace(self._spent, used_bytes=self._spent.used_bytes + count)
        self._unsaved += count
        if self._spent.used_bytes > self._per_day:
            self.save()
            raise BudgetExhausted(
                f"The byte budget of {self._per_day} bytes a day is used up.",
                retry_after_s=float(max(DAY_S - self._spent.passed_s, 1)),
            )
        if self._unsaved >= _SAVE_EVERY_BYTES:
            self.save()

    def save(self) -> None:
        """Make the count durable."""
        if self._unsaved:
            replace_file(self._storage, self._path, msgspec.json.encode(self._spent))
            self._unsaved = 0

    def _load(self) -> _Spent:
        try:
            spent = msgspec.json.decode(read_optional(self._path, 4096) or b"{}", type=_Spent)
        except (msgspec.DecodeError, ValueError):
            spent = _Spent(used_bytes=self._per_day)  # A damaged count is no reason to spend more.
        if spent.boot_id != self._clock.boot_id():
            spent = msgspec.structs.replace(
                spent, boot_id=self._clock.boot_id(), since_boot_s=self._clock.since_boot_s()
            )
        return spent

    def _aged(self) -> _Spent:
        now_s = self._clock.since_boot_s()
        passed_s = self._spent.passed_s + max(now_s - self._spent.since_boot_s, 0)
        if passed_s >= DAY_S:
            return _Spent(0, 0, self._spent.boot_id, now_s)
        return msgspec.structs.replace(self._spent, passed_s=passed_s, since_boot_s=now_s)
