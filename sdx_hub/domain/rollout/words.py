"""Figures in sentences."""

from datetime import datetime


def several(count: int, noun: str) -> str:
    """`1 device`, `1,200 devices`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """`14 %`; two digits below 1 %."""
    hundred = share * 100
    return f"{hundred:.0f} %" if hundred >= 1 or hundred == 0 else f"{hundred:.2g} %"


def number(value: float) -> str:
    """`12.3`, `4,310`, `2e+09`."""
    if value >= 1e6:
        return f"{value:.2g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def clock(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: int) -> str:
    """`90 s`, `15 min`, `8 h`, `3 days`."""
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 172_800 else f"{seconds // 86_400} days"
