"""Models, documentation, cross-origin access."""

from __future__ import annotations

import html.parser
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from tests.server.conftest import Served


def test_models(served: Served) -> None:
    client = served.openai()
    assert [model.id for model in client.models.list()] == ["default", "fake-org/fake-gemma"]
    for name in ("default", "fake-org/fake-gemma", "gemma3"):
        model = client.models.retrieve(name)
        assert model.model_dump(exclude_unset=True) == {
            "id": name,
            "object": "model",
            "created": served.host.created,
            "owned_by": "local",
            "root": "fake-org/fake-gemma",
            "max_model_len": 2000,
        }


def test_index_and_health(served: Served) -> None:
    assert httpx.get(f"{served.url}/").json() == {
        "name": "ostro",
        "model": "fake-org/fake-gemma",
        "docs": "/docs",
        "openapi": "/openapi.json",
    }
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok", "model": "fake-org/fake-gemma"}


def test_openapi_is_complete(served: Served) -> None:
    description = httpx.get(f"{served.url}/openapi.json").json()
    assert set(description["paths"]) == {
        "/",
        "/calibration/apply",
        "/calibration/imatrix",
        "/calibration/start",
        "/calibration/status",
        "/health",
        "/tokenize",
        "/detokenize",
        "/re_isq",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{model}",
    }
    schemas = description["components"]["schemas"]
    assert {"messages", "temperature", "top_k", "max_completion_tokens"} <= set(
        schemas["ChatBody"]["properties"]
    )
    assert schemas["ChatBody"]["required"] == ["messages"]
    assert "usage" in schemas["ChatCompletionResponse"]["properties"]

    def refs(node: object) -> list[str]:
        if isinstance(node, dict):
            here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return here + [ref for value in node.values() for ref in refs(value)]
        if isinstance(node, list):
            return [ref for value in node for ref in refs(value)]
        return []

    assert {ref.rsplit("/", 1)[-1] for ref in refs(description)} <= set(schemas)


def test_docs_page_needs_no_other_server(served: Served) -> None:
    page = httpx.get(f"{served.url}/docs").text
    assert "<code>POST /v1/chat/completions</code>" in page
    assert "<code>repetition_penalty</code>" in page
    sources: list[str] = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            sources.extend(str(value) for name, value in attrs if name in {"src", "href"})

    Parser().feed(page)
    assert sources == ["/openapi.json"]


def test_pages_of_other_origins_may_ask(served: Served) -> None:
    headers = {
        "origin": "http://elsewhere.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    allowed = httpx.options(f"{served.url}/v1/chat/completions", headers=headers)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "*"
    answered = httpx.get(f"{served.url}/health", headers={"origin": "http://elsewhere.example"})
    assert answered.headers["access-control-allow-origin"] == "*"
