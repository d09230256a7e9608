"""A clock that moves only when somebody sleeps, and boots when a test says so."""

from dataclasses import dataclass, field


@dataclass
class FakeClock:
    """The agent's clock port.

    Attributes:
        now_s: Seconds since boot.
        boot: Names the boot.
        slept: Every sleep, in order.
    """

    now_s: float = 1000.0
    boot: str = "boot-1"
    slept: list[float] = field(default_factory=list)

    def monotonic_s(self) -> float:
        return self.now_s

    def since_boot_s(self) -> int:
        return int(self.now_s)

    def boot_id(self) -> str:
        return self.boot

    def wall_s(self) -> int:
        return 0

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def reboot(self) -> None:
        self.boot, self.now_s = f"{self.boot}+", 5.0
