"""Alerts fire when they should, each has its page, and nothing watches a series that the hub does not have."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.fleet import start_fleet

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
PAGES = ROOT / "docs" / "runbooks"
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = GRAFANA / "dashboards"
SERIES = re.compile(r"\bsdx_[a-z_]+")
SELECTED = re.compile(r'\b(sdx_[a-z_]+)\{(\w+)(=~?)"([^"]+)"\}')

RULES_READ = yaml.safe_load(RULES.read_text())
ALERTS = [rule for group in RULES_READ["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in ALERTS]

HUB = 'replica="hub-1"'
ON, OFF, GROWS, STAYS = "1x100", "0x100", "0+60x100", "0x100"
SHOWS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "HubDown": ({'up{job="hub"}': OFF}, {'up{job="hub"}': ON}),
    "RequestsFail": (
        {
            f'sdx_http_requests_total{{{HUB},status="500"}}': "0+3x100",
            f'sdx_http_requests_total{{{HUB},status="200"}}': "0+97x100",
        },
        {f'sdx_http_requests_total{{{HUB},status="500"}}': "0+1x100"},
    ),
    "LoadShed": (
        {
            f"sdx_http_requests_shed_total{{{HUB}}}": STAYS,
            f'sdx_polls_total{{{HUB},answer="shed"}}': GROWS,
        },
        {f'sdx_polls_total{{{HUB},answer="shed"}}': STAYS},
    ),
    "BackgroundWorkFails": (
        {'sdx_loop_failures_total{loop="metadata"}': "0+1x100"},
        {'sdx_loop_failures_total{loop="metadata"}': "0x80 1x20"},
    ),
    "ClockOff": ({"sdx_clock_offset_seconds": "-3600x100"}, {"sdx_clock_offset_seconds": "-2x100"}),
    "NoPolls": (
        {'sdx_polls_total{answer="unchanged"}': "7x100", 'sdx_devices{state="accepted"}': "9x100"},
        {'sdx_devices{state="accepted"}': OFF},
    ),
    "PollsRefused": (
        {'sdx_polls_total{answer="refused"}': "0+6x100", 'sdx_polls_total{answer="unchanged"}': "0+94x100"},
        {'sdx_polls_total{answer="refused"}': "0+2x100"},
    ),
    "FleetStale": (
        {"sdx_fleet_staleness_seconds": "11x100", "sdx_fleet_stale_after_seconds": "10x100"},
        {"sdx_fleet_staleness_seconds": "9x100"},
    ),
    "WriteBehindLags": ({"sdx_write_behind_lag_seconds": "61x100"}, {"sdx_write_behind_lag_seconds": "2x100"}),
    "ReportsRefused": (
        {'sdx_reports_total{status="refused"}': "0+6x100", 'sdx_reports_total{status="accepted"}': "0+94x100"},
        {'sdx_reports_total{status="refused"}': "0+2x100"},
    ),
    "MetadataExpired": (
        {'sdx_metadata_expiry_seconds{repository="image",role="timestamp"}': "-1x100"},
        {'sdx_metadata_expiry_seconds{repository="image",role="timestamp"}': "1x100"},
    ),
    "MetadataHalfLife": (
        {'sdx_metadata_alarms{repository="image"}': ON},
        {'sdx_metadata_alarms{repository="image"}': "0x80 1x20"},
    ),
    "SigningFails": (
        {f'sdx_step_failures_total{{{HUB},step="sign.director"}}': "0+1x100"},
        {
            f'sdx_step_failures_total{{{HUB},step="sign.director"}}': STAYS,
            f'sdx_step_failures_total{{{HUB},step="blob.read"}}': GROWS,
        },
    ),
    "DatabaseErrors": ({"sdx_database_errors_total": "0+3x100"}, {"sdx_database_errors_total": "0x88 1x12"}),
    "BlobStoreErrors": (
        {
            f'sdx_step_failures_total{{{HUB},step="blob.put"}}': STAYS,
            f"sdx_blob_store_errors_total{{{HUB}}}": "0+1x100",
        },
        {
            f"sdx_blob_store_errors_total{{{HUB}}}": STAYS,
            f'sdx_step_failures_total{{{HUB},step="database.read"}}': GROWS,
        },
    ),
    "RolloutHalted": (
        {f'sdx_rollouts{{{HUB},state="halted"}}': "1x100", f'sdx_rollouts{{{HUB},state="running"}}': "2x100"},
        {f'sdx_rollouts{{{HUB},state="halted"}}': OFF},
    ),
    "RolloutWaits": (
        {f'sdx_rollouts{{{HUB},state="approval"}}': ON, f'sdx_rollouts{{{HUB},state="paused"}}': OFF},
        {f'sdx_rollouts{{{HUB},state="approval"}}': "0x80 1x20"},
    ),
    "RolloutsNotLookedAfter": (
        {
            f'sdx_rollouts{{{HUB},state="running"}}': ON,
            "sdx_rollout_last_tick_timestamp_seconds": "0+60x50 3000x50",
        },
        {"sdx_rollout_last_tick_timestamp_seconds": "0+60x100"},
    ),
    "WebhooksFail": (
        {f'sdx_webhooks{{{HUB},state="failing"}}': ON, f'sdx_webhooks{{{HUB},state="enabled"}}': ON},
        {f'sdx_webhooks{{{HUB},state="failing"}}': "0x80 1x20"},
    ),
    "EventStreamsFull": (
        {f"sdx_event_streams_refused_total{{{HUB}}}": "0+1x100"},
        {f"sdx_event_streams_refused_total{{{HUB}}}": "0+1x50 50x50"},
    ),
    "StorageNearlyFull": (
        {'sdx_storage_free_bytes{folder="data"}': "9x100", 'sdx_storage_size_bytes{folder="data"}': "100x100"},
        {'sdx_storage_free_bytes{folder="data"}': "11x100"},
    ),
}
"""For each alert: series that make it fire, and what to change in them so that it does not."""


def page_of(alert: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"-\1", alert).lower() + ".md"


def dashboard_expressions() -> list[str]:
    found = []
    for file in DASHBOARDS.glob("*.json"):
        for panel in json.loads(file.read_text())["panels"]:
            found += [target["expr"] for target in panel.get("targets", ())]
    return found


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a real hub answers to Prometheus, after a release and a poll."""
    with start_fleet(tmp_path_factory.mktemp("hub")) as fleet:
        fleet.publish_next()
        token = fleet.enrol_key(Ed25519PrivateKey.generate(), "watched")
        httpx.get(f"{fleet.url}/device/v1/poll", headers={"authorization": f"Bearer {token}"}).raise_for_status()
        yield httpx.get(f"{fleet.url}/metrics").text


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(rule) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert {"summary", "description"} <= rule["annotations"].keys()
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{page_of(rule['alert'])}"


def test_each_alert_has_its_page_and_each_page_its_alert() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert {path.name for path in PAGES.glob("*.md")} == {page_of(name) for name in NAMES}


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_a_page_says_what_to_do(rule) -> None:
    text = (PAGES / page_of(rule["alert"])).read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    assert f"Severity: {rule['labels']['severity']}." in text
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["What it means", "What people notice", "How to look", "What to do"]
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (PAGES / target).exists(), target


def test_whatever_is_watched_is_there(figures: str) -> None:
    there = {line.partition("{")[0].partition(" ")[0] for line in figures.splitlines() if not line.startswith("#")}
    pages = [page.read_text() for page in PAGES.glob("*.md")]
    expressions = [rule["expr"] for rule in ALERTS] + dashboard_expressions()
    assert len(expressions) > 40
    watched = {name for text in [*expressions, *pages] for name in SERIES.findall(text)}
    assert watched - there == set()


def test_whatever_is_selected_has_such_a_label(figures: str) -> None:
    """A rule about `answer="refuse"` would never fire and never complain."""
    for text in [rule["expr"] for rule in ALERTS] + dashboard_expressions():
        for series, label, _, wanted in SELECTED.findall(text):
            if label in {"status", "le"} and series.startswith("sdx_http"):
                continue  # Nothing has failed yet.
            values = re.findall(rf'^{series}\{{[^}}]*\b{label}="([^"]*)"', figures, re.MULTILINE)
            assert any(re.fullmatch(wanted, value) for value in values), (series, label, wanted, set(values))


def test_no_series_has_an_id_for_a_label(figures: str) -> None:
    names = {name for labels in re.findall(r"\{([^}]*)\}", figures) for name in re.findall(r"(\w+)=", labels)}
    assert names - {"generation", "implementation", "major", "minor", "patchlevel", "version", "le"} == {
        *(
            "method",
            "path",
            "status",
            "answer",
            "state",
            "queue",
            "repository",
            "role",
            "step",
            "loop",
            "pool",
            "folder",
            "rule",
            "outcome",
        )
    }


def promtool(*arguments: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_prometheus_understands_its_configuration_and_the_rules() -> None:
    promtool("check", "config", str(RULES.with_name("prometheus.yml")))


def test_prometheus_understands_what_the_dashboard_asks(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "5m")}
        for number, text in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_the_dashboard_asks_the_provisioned_source_and_no_panel_hides_another() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    for file in DASHBOARDS.glob("*.json"):
        panels = json.loads(file.read_text())["panels"]
        asked = {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"}
        assert asked == {source["uid"] for source in sources}
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken: set[tuple[int, int]] = set()
        for place in (panel["gridPos"] for panel in panels):
            cells = {
                (column, row)
                for column in range(place["x"], place["x"] + place["w"])
                for row in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, place
            assert place["x"] + place["w"] <= 24
            taken |= cells


@pytest.mark.parametrize("alert", NAMES)
def test_an_alert_fires_where_it_should_and_nowhere_else(alert: str, tmp_path: Path) -> None:
    bad, good = SHOWS[alert]
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'

    def test(values: dict[str, str], expected: list[dict[str, object]]) -> dict[str, object]:
        check = {"expr": firing, "eval_time": "90m", "exp_samples": expected}
        series = [{"series": name, "values": text} for name, text in values.items()]
        return {"interval": "1m", "input_series": series, "promql_expr_test": [check]}

    once = [{"labels": "{}", "value": 1}]
    document = {"rule_files": [str(RULES)], "tests": [test(bad, once), test(bad | good, [])]}
    file = tmp_path / "firing.yml"
    file.write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(file))
