"""Models from a hub: what is downloaded, what is cached, and what is said when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import tiny, tiny_vision
from .hub_server import COMMIT, Hub, Repository, files_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Open = Callable[..., list[dict[str, Any]]]

CLIENT = Path(__file__).with_name("hub_client.py")
UQFF = Path(__file__).parents[2] / "parity/data/uqff"
SIDE = {
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"chat_template": "{{ a }}"}',
    "generation_config.json": b'{"top_k": 64}',
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("models")
    whole = files_of(tiny.write_hugging_face(folder / "whole"))
    sharded = tiny.write_hugging_face(folder / "sharded")
    (sharded / "model.safetensors").unlink()
    tiny.write_sharded(sharded, {"model." + name: weight for name, weight in tiny.weights().items()})
    q4 = tiny.write_gguf(folder / "q4.gguf").read_bytes()
    q8 = tiny.write_gguf(folder / "q8.gguf", metadata={"general.name": "other"}).read_bytes()
    mmproj = tiny_vision.write_mmproj(folder / "mmproj.gguf").read_bytes()
    other = tiny_vision.write_mmproj(
        folder / "mmproj-f32.gguf", metadata={"clip.vision.image_mean": [0.0, 0.0, 0.0]}
    ).read_bytes()
    extra = {"README.md": b"x" * 999, "pytorch_model.bin": b"x" * 999, "original/params.json": b"{}"}
    return {
        "whole": whole | SIDE | extra,
        "sharded": files_of(sharded) | SIDE | extra,
        "gguf": {"q4.gguf": q4, "sub/q8.gguf": q8, "README.md": b"x"},
        "seeing": {"q4.gguf": q4, "mmproj.gguf": mmproj},
        "choice": {"q4.gguf": q4, "mmproj.gguf": mmproj, "mmproj-f32.gguf": other},
        "uqff": files_of(UQFF) | {"q8_0-0.uqff": b"x" * 999, "README.md": b"x"},
        "vision": files_of(tiny_vision.write_hugging_face(folder / "vision"))
        | SIDE
        | {
            "preprocessor_config.json": b'{"image_mean": [0.1, 0.1, 0.1]}',
            "processor_config.json": b'{"image_seq_length": 9}',
        },
    }


@pytest.fixture
def hub(models: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    hub = Hub({f"org/{name}": Repository(dict(files)) for name, files in models.items()})
    yield hub
    hub.close()


@pytest.fixture
def opened(hub: Hub, tmp_path: Path) -> Open:
    """Open one model or several, each given by keyword arguments, in one new process."""

    def run(*arguments: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HF_") and "proxy" not in name.lower()
        }
        env = kept | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_ETAG_TIMEOUT": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            **environment,
        }
        command = [sys.executable, str(CLIENT), json.dumps(arguments)]
        done = subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_downloads_what_is_needed_once_and_then_works_offline(hub: Hub, opened: Open, tmp_path: Path) -> None:
    (result,) = opened({"model": "org/whole"})
    assert result["name"] == "org/whole"
    assert result["tensors"] == len(tiny.weights())
    assert result["chat_template"] == "{{ a }}"
    assert result["tokenizer"].startswith(str(tmp_path / "home" / "hub"))
    needed = {"config.json", "model.safetensors", *SIDE}
    assert sorted(hub.delivered()) == sorted(needed)
    assert hub.delivered()[-1] == "model.safetensors"
    size = len(hub.repositories["org/whole"].files["model.safetensors"])
    reports = [(done, total) for what, done, total in result["progress"] if what == "model.safetensors"]
    assert reports[-1] == (size, size)
    assert reports == sorted(reports)
    assert {what for what, _, _ in result["progress"]} == needed

    hub.log.clear()
    (again,) = opened({"model": "org/whole"})
    assert hub.delivered() == []
    assert again["tensors"] == result["tensors"]

    hub.log.clear()
    offline, unknown, revision = opened(
        {"model": "org/whole"},
        {"model": "org/sharded"},
        {"model": "org/whole", "revision": "other"},
        HF_HUB_OFFLINE="1",
    )
    assert hub.log == []
    assert offline["tensors"] == result["tensors"]
    assert unknown["error"] == revision["error"] == "Offline"
    assert unknown["message"].startswith(
        "org/sharded is not completely in the local cache, and HF_HUB_OFFLINE"
    )

    hub.close()
    cached, missing = opened({"model": "org/whole"}, {"model": "org/sharded"})
    assert cached["tensors"] == result["tensors"]
    assert missing["error"] == "HubError"
    assert f"org/sharded: {hub.url} did not deliver: Connect" in missing["message"]


def test_shards_and_revisions(hub: Hub, opened: Open) -> None:
    by_commit, other = opened(
        {"model": "org/sharded", "revision": COMMIT}, {"model": "org/sharded", "revision": "v9"}
    )
    assert by_commit["tensors"] == len(tiny.weights())
    assert {name for name in hub.delivered() if name.endswith(".safetensors")} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert other == {"error": "ModelNotFound", "message": f"org/sharded has no revision 'v9' on {hub.url}"}


def test_an_interrupted_download_is_resumed(hub: Hub, opened: Open) -> None:
    repository = hub.repositories["org/gguf"]
    # The library writes, and so resumes, in steps of 10 MiB.
    repository.files["q4.gguf"] += bytes(24 << 20)
    repository.fragile.add("q4.gguf")
    (result,) = opened({"model": "org/gguf", "gguf_file": "q4.gguf"})
    assert result["tensors"] == len(tiny.weights())
    ranges = [wanted for method, path, wanted in hub.log if method == "GET" and path.endswith("q4.gguf")]
    assert ranges == [None, f"bytes={10 << 20}-"]
    size = len(repository.files["q4.gguf"])
    assert [report[1:] for report in result["progress"]][-1] == [size, size]


def test_a_partial_copy_is_not_used_offline(hub: Hub, opened: Open) -> None:
    del hub.repositories["org/sharded"].files["model-00002-of-00002.safetensors"]
    (broken,) = opened({"model": "org/sharded"})
    assert broken["error"] == "CorruptFile"
    assert "names 'model-00002-of-00002.safetensors', which is not there" in broken["message"]
    (offline,) = opened({"model": "org/sharded"}, HF_HUB_OFFLINE="1")
    assert offline["error"] == "Offline"


def test_gguf_repositories(hub: Hub, opened: Open) -> None:
    unclear, wrong, right, nested = opened(
        {"model": "org/gguf"},
        {"model": "org/gguf", "gguf_file": "q2.gguf"},
        {"model": "org/gguf", "gguf_file": "q4.gguf"},
        {"model": "org/gguf", "gguf_file": "sub/q8.gguf", "tok_model_id": "org/whole"},
    )
    assert unclear["error"] == "BadConfig"
    assert (
        unclear["message"]
        == "org/gguf holds several GGUF models; choose one as gguf_file: q4.gguf, sub/q8.gguf"
    )
    assert wrong["error"] == "ModelNotFound"
    assert right["name"] == "org/gguf"
    assert right["tensors"] == nested["tensors"] == len(tiny.weights())
    assert nested["tokenizer"].endswith("tokenizer.json")
    assert nested["chat_template"] == "{{ a }}"
    assert set(hub.delivered()) == {"q4.gguf", "sub/q8.gguf", *SIDE}


def test_uqff_repositories(hub: Hub, opened: Open) -> None:
    unclear, wrong, right, file = opened(
        {"model": "org/uqff"},
        {"model": "org/uqff", "uqff_files": ["q6k"]},
        {"model": "org/uqff", "uqff_files": ["4"]},
        {"model": "org/uqff", "uqff_files": ["q4k-0.uqff"]},
    )
    assert unclear["message"] == (
        "org/uqff holds several UQFF models; choose one as from_uqff: q4k-0.uqff, q8_0-0.uqff"
    )
    assert wrong["error"] == "ModelNotFound"
    assert right["vision"] == file["vision"] == 32
    assert {"residual.safetensors", "config.json", "tokenizer.json"} < set(hub.delivered())
    assert hub.delivered()[-1] == "q4k-0.uqff"
    assert "q8_0-0.uqff" not in hub.delivered()
    (offline,) = opened({"model": "org/uqff", "uqff_files": ["q4k"]}, HF_HUB_OFFLINE="1")
    assert offline["tensors"] == right["tensors"]


def test_the_image_half_is_fetched_with_the_text_model(hub: Hub, opened: Open, tmp_path: Path) -> None:
    lone, folder = opened({"model": "org/seeing"}, {"model": "org/vision"})
    assert lone["vision"] == tiny_vision.HIDDEN
    assert (folder["vision"], folder["image_mean"]) == (tiny_vision.HIDDEN, [0.1, 0.1, 0.1])
    names = hub.delivered()
    assert names[:2] == ["mmproj.gguf", "q4.gguf"]
    assert {"preprocessor_config.json", "processor_config.json"} < set(names)
    (offline,) = opened({"model": "org/seeing"}, HF_HUB_OFFLINE="1")
    assert offline["vision"] == tiny_vision.HIDDEN


def test_image_halves_by_name(hub: Hub, opened: Open, tmp_path: Path) -> None:
    unclear, named, wrong, foreign, local = opened(
        {"model": "org/choice"},
        {"model": "org/choice", "mmproj_file": "mmproj-f32.gguf"},
        {"model": "org/choice", "mmproj_file": "mmproj-f16.gguf"},
        {"model": "org/vision", "mmproj_file": "mmproj.gguf"},
        {"model": "org/seeing", "mmproj_file": str(tiny_vision.write_mmproj(tmp_path / "eye.gguf"))},
    )
    assert unclear["vision"] is None
    assert named["image_mean"] == [0, 0, 0]
    assert wrong["error"] == "ModelNotFound"
    assert "has no file 'mmproj-f16.gguf': mmproj-f32.gguf, mmproj.gguf" in wrong["message"]
    assert foreign["error"] == "BadConfig"
    assert local["vision"] == tiny_vision.HIDDEN
    assert hub.delivered() == ["q4.gguf", "mmproj-f32.gguf", "q4.gguf"]


def test_gated_models_say_what_to_do(hub: Hub, opened: Open, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("good\n")
    repository = hub.repositories["org/whole"]
    repository.token = "good"
    without, wrong, by_file, by_variable = opened(
        {"model": "org/whole"},
        {"model": "org/whole", "token_source": "literal:bad"},
        {
            "model": "org/whole",
            "token_source": f"path:{tmp_path / 'token'}",
            "cache_dir": str(tmp_path / "one"),
        },
        {"model": "org/whole", "token_source": "env:MINE", "cache_dir": str(tmp_path / "two")},
        MINE="good",
    )
    for result in (without, wrong):
        assert result["error"] == "GatedModel"
        assert f"accept its licence at {hub.url}/org/whole" in result["message"]
        assert "set HF_TOKEN, run `hf auth login`, or give a token_source" in result["message"]
    assert by_file["tokenizer"].startswith(str(tmp_path / "one"))
    assert by_variable["tokenizer"].startswith(str(tmp_path / "two"))


def test_the_environments_token_is_used_unless_forbidden(hub: Hub, opened: Open) -> None:
    hub.repositories["org/whole"].token = "good"
    forbidden, allowed = opened(
        {"model": "org/whole", "token_source": "none"}, {"model": "org/whole"}, HF_TOKEN="good"
    )
    assert forbidden["error"] == "GatedModel"
    assert allowed["tensors"] == len(tiny.weights())


@pytest.mark.parametrize("refusal", [(403, "GatedRepo"), (403, None), (401, None), (401, "GatedRepo")])
def test_every_way_of_refusing_is_a_gate(hub: Hub, opened: Open, refusal: tuple[int, str | None]) -> None:
    repository = hub.repositories["org/whole"]
    repository.token, repository.refusal, repository.hidden = "good", refusal, refusal[1] is None
    (result,) = opened({"model": "org/whole"})
    assert result["error"] == "GatedModel"
    assert f"is gated (HTTP {refusal[0]})" in result["message"]


def test_unknown_and_failing_repositories(hub: Hub, opened: Open) -> None:
    hub.repositories["org/missing"] = Repository({}, broken=404)
    hub.repositories["org/failing"] = Repository({}, broken=500)
    hub.repositories["org/silent"] = Repository({}, broken="hang")
    hub.repositories["org/empty"] = Repository({"README.md": b""})
    unknown, missing, failing, silent, empty, invalid = opened(
        {"model": "org/unknown"},
        {"model": "org/missing"},
        {"model": "org/failing"},
        {"model": "org/silent"},
        {"model": "org/empty"},
        {"model": "org/a--b"},
    )
    for result in (unknown, missing):
        assert result["error"] == "ModelNotFound"
        assert (
            "there is no local file or folder of that name, and no such model at " + hub.url
            in result["message"]
        )
    assert failing["error"] == "HubError"
    assert "500" in failing["message"]
    assert silent["error"] == "HubError"
    assert "Timeout" in silent["message"]
    assert empty["error"] == "UnsupportedModel"
    assert "org/empty: no model in there" in empty["message"]
    assert invalid["error"] == "ModelNotFound"
