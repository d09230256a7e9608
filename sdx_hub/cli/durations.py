"""Lengths of time on the command line, as in queries: `90s`, `15m`, `2h`, `7d`, `4w`."""

import re
from typing import Any

import click

_SHAPE = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Duration(click.ParamType[int]):
    """Seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SHAPE.fullmatch(str(value).strip())
        if not found:
            self.fail(f"{value!r} is no length of time: write 90s, 15m, 2h, 7d or 4w.", param, ctx)
        return int(found[1]) * _SECONDS[found[2]]


class Percentage(click.ParamType[float]):
    """`3%`, or `0.03`: a share."""

    name = "percentage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is no share: write 3% or 0.03.", param, ctx)
        return round(share, 9)


DURATION = Duration()
PERCENTAGE = Percentage()
