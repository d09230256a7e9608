"""`sdx hub ...` as a process, with the settings of one hub and no others."""

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from tests.support.hub import SDX


def sdx_hub(*arguments: object, settings: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Run it; return its exit code and the document that it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")}
    command = [SDX, "hub", *map(str, arguments), "--json"]
    environment = clean | dict(settings or {})
    outcome = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    assert "Traceback" not in outcome.stderr, outcome.stderr
    return outcome.returncode, json.loads(outcome.stdout) if outcome.stdout else None
