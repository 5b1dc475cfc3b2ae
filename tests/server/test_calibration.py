"""An importance matrix from the server's own traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ostro.config import RuntimeConfig
from ostro.host import ModelHost
from ostro.quant.imatrix import read_imatrix
from tests.server.conftest import serving
from tests.server.fake_host import fake_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ostro.quant.importance import Importance
    from tests.server.conftest import Served


@pytest.fixture(scope="module")
def demo() -> Iterator[Served]:
    with serving(ModelHost.load(None, RuntimeConfig())) as running:
        yield running


def test_start_status_download_apply(demo: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Importance] = []
    monkeypatch.setattr(demo.host, "_requantize", lambda _, importance, __: got.append(importance))
    monkeypatch.setattr(demo.host, "_in_situ", True)
    with demo.http() as client:
        assert client.get("/calibration/status").json()["collecting"] is False
        refused = client.get("/calibration/imatrix")
        assert refused.status_code == 400
        assert "begin a calibration" in refused.json()["error"]["message"]
        begun = client.post("/calibration/start").json()
        assert begun["collecting"] is True
        assert begun["total_rows"] == 0
        client.post("/v1/completions", json={"prompt": "One two", "max_tokens": 3})
        status = client.get("/calibration/status").json()
        assert status["max_rows"] > 0
        assert set(status) == {
            "collecting",
            "layers",
            "layers_tracking",
            "total_rows",
            "min_rows",
            "max_rows",
        }

        file = client.get("/calibration/imatrix")
        (tmp_path / "imatrix.gguf").write_bytes(file.content)
        importance = read_imatrix(tmp_path / "imatrix.gguf")
        assert importance.rows["layers.0.mlp.up_proj.weight"] == status["max_rows"]

        assert client.post("/calibration/apply", json={}).json() == status
        assert got[0].rows == importance.rows
        assert client.get("/calibration/status").json()["collecting"] is False


def test_files_are_not_written_for_clients(demo: Served, tmp_path: Path) -> None:
    with demo.http() as client:
        answer = client.post("/calibration/apply", json={"save_cimatrix": str(tmp_path / "a.cimatrix")})
        assert answer.status_code == 422
        assert answer.json()["error"]["param"] == "save_cimatrix"
        assert client.post("/calibration/apply").status_code == 415
        assert client.post("/calibration/apply", json={"save": 1}).status_code == 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/calibration/start"), ("GET", "/calibration/imatrix"), ("POST", "/calibration/apply")],
)
def test_pages_of_strangers_are_refused(method: str, path: str) -> None:
    with serving(fake_host()) as running, running.http() as client:
        answer = client.request(method, path, json={}, headers={"Origin": "https://example.org"})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "own_machine_only"
