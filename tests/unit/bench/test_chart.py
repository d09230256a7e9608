"""A chart in the documentation stands by itself: it asks nobody for anything, and runs nothing."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"
# In a process of its own: pygal leaves an import hook behind that warns about itself for ever after.
DRAW = """
import sys
from pathlib import Path
from bench import chart
lines = {"a poll": [(1_000, 1.0), (1_000_000, 1.4)], "memory": [(1_000, 1.0), (1_000_000, 300.0)]}
chart.write(Path(sys.argv[1]), "How cost grows", ("devices", "times"), lines)
"""


def test_a_chart_names_nobody_and_has_no_script(tmp_path: Path) -> None:
    file = tmp_path / "growth.svg"
    subprocess.run([sys.executable, "-c", DRAW, str(file)], check=True, cwd=Path(__file__).parents[3])
    raw = file.read_text()
    assert set(re.findall(r"https?://[^\"'<> ]+", raw)) == {SVG.strip("{}")}
    assert not re.search(r"<script|@import|url\(|//kozea", raw, re.IGNORECASE)
    root = ET.fromstring(raw)  # noqa: S314 - our own
    said = {"".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")}
    assert {"How cost grows", "a poll", "memory", "devices", "times", "10,000", "1,000,000", "100"} <= said
