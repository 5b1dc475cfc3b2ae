"""The documentation page: the OpenAPI description as plain HTML, which needs no other server."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: #8881; padding: .8rem; overflow-x: auto; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid #8884; padding: .2rem .8rem .2rem 0; text-align: left; }
:root { color-scheme: light dark; }
"""
_EXAMPLE = """curl http://localhost:1234/v1/chat/completions -H "content-type: application/json" \\
  -d '{"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64}'"""


def render_docs(openapi: dict[str, Any]) -> str:
    """HTML of an OpenAPI document: every route with the fields of its body."""
    info = openapi["info"]
    routes = [
        _route(method.upper(), path, operation, openapi)
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('description', ''))} "
        'For programs: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"<pre>{escape(_EXAMPLE)}</pre>{''.join(routes)}</body></html>"
    )


def _route(method: str, path: str, operation: dict[str, Any], openapi: dict[str, Any]) -> str:
    heading = (
        f"<h2><code>{method} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
    )
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return heading
    schema = _resolved(content["schema"], openapi)
    required = schema.get("required", [])
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' *' if name in required else ''}</td>"
        f"<td>{escape(_kind(_resolved(field, openapi), openapi))}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"{heading}<table><tr><th>field</th><th>type</th><th></th></tr>{''.join(rows)}</table>"


def _kind(schema: dict[str, Any], openapi: dict[str, Any]) -> str:
    if "anyOf" in schema:
        kinds = [_kind(_resolved(option, openapi), openapi) for option in schema["anyOf"]]
        return " or ".join(kind for kind in kinds if kind != "null")
    if schema.get("type") == "array":
        return f"list of {_kind(_resolved(schema.get('items', {}), openapi), openapi)}"
    return str(schema.get("type", "any"))


def _resolved(schema: dict[str, Any], openapi: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = openapi["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    return found
