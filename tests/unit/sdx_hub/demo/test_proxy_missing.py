"""What somebody is told whose machine has no nginx, or no checkout."""

import shutil
from pathlib import Path

import pytest

from sdx_hub.cli.failures import FAILED, exit_code_of
from sdx_hub.demo.cluster import proxy
from sdx_hub.demo.errors import DemoError


def test_without_nginx_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_named: None)
    with pytest.raises(DemoError) as refused:
        proxy.find_nginx()
    assert refused.value.code == "nginx_missing"
    assert "apt-get install" in str(refused.value)
    assert exit_code_of(refused.value) == FAILED


def test_without_a_checkout_it_says_where_the_template_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proxy, "TEMPLATE", tmp_path / "nginx.conf.template")
    with pytest.raises(DemoError) as refused:
        proxy.find_template()
    assert refused.value.code == "not_a_checkout"
    assert "make cluster" in str(refused.value)
