from __future__ import annotations

import pytest
from jinja2 import TemplateError

from ostro.errors import BadConfig
from ostro.prompt import sandbox
from ostro.prompt.sandbox import RefusedError, SandboxedTemplate


def render(source: str, **variables: object) -> str:
    return SandboxedTemplate(source).render(variables)


def test_whitespace_control_as_in_hugging_face() -> None:
    source = "  {% if true %}\nA\n  {% endif %}\n{{- 'B' }}\n\n"
    assert render(source) == "A\nB\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ x | tojson }}", '{"b": "<é>", "a": [1, null]}'),
        ("{{ x | tojson(indent=1, sort_keys=true) }}", '{\n "a": [\n  1,\n  null\n ],\n "b": "<é>"\n}'),
        ("{{ 'é😀\x7f' | tojson(ensure_ascii=true) }}", '"\\u00e9\\ud83d\\ude00\\u007f"'),
        ("{{ x | tojson(separators=(',', ':')) }}", '{"b":"<é>","a":[1,null]}'),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in 'abc' %}{{ loop.index }}{{ i }}{{ loop.last }}{% endfor %}", "1aFalse2bFalse3cTrue"),
        ("{% for a in x.a|map('string') %}{{ loop.length }}{{ a }}{% endfor %}", "212None"),
        (
            "{% for k, v in x.items() %}{{ k }}{% endfor %}{% for y in [] %}{% else %}e{% endfor %}",
            "bae",
        ),
        ("{% for y in undefined_name %}{{ y }}{% endfor %}{{ undefined_name }}", ""),
        ("{% generation %}A{{ x.a[0] }}{% endgeneration %}B", "A1B"),
        ("{% macro f(y) %}[{{ y ~ 1 ~ none }}]{% endmacro %}{{ f('z') + 'w' * 2 }}", "[z1None]ww"),
        ("{{ 2 ** 5 + 3 * 4 }}{{ [1] + [2] }}{{ (1, 2) * 2 }}", "44[1, 2](1, 2, 1, 2)"),
        (
            "{% set n = namespace(i=0) %}{% for i in range(3) %}{% set n.i = n.i + i %}{% endfor %}{{ n.i }}",
            "3",
        ),
        ("{{ '</a>b'.split('</a>')[-1] }}{{ strftime_now('%Y') | length }}", "b4"),
    ],
)
def test_what_templates_use(source: str, text: str) -> None:
    assert render(source, x={"b": "<é>", "a": [1, None]}) == text


def test_refusal() -> None:
    with pytest.raises(RefusedError, match=r"^only users!$"):
        render("{{ raise_exception('only users' + '!') }}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", "chat template, line 1: "),
        ("a\n{{ x", "chat template, line 2: "),
        ("{{ x | no_such_filter }}", "no_such_filter"),
        ("{% generation %}", "chat template"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "chat template"),
    ],
)
def test_templates_that_do_not_compile(source: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        SandboxedTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ x.append(1) }}",
        "{% set _ = x.__setitem__(0, 1) %}",
        "{{ range.__globals__ }}",
        "{{ '{0.__class__}'.format(x) }}",
        "{% include 'secret' %}",
        "{{ cycler.__init__.__globals__.os }}",
    ],
)
def test_no_way_out_of_the_sandbox(source: str) -> None:
    x = [1]
    try:
        text = render(source, x=x)
    except (TemplateError, TypeError):
        text = ""
    assert "class" not in text
    assert "os" not in text
    assert x == [1]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "rounds of loops"),
        ("{% for a in x %}{% for b in x %}{{ a }}{% endfor %}{% endfor %}", "rounds of loops"),
        (
            "{% for a in x|map('upper') %}{% for b in x|map('upper') %}{% endfor %}{% endfor %}",
            "rounds of loops",
        ),
        (
            "{% for i in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 40 }}{% endfor %}",
            "rounds of loops",
        ),
        (
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            "rounds",
        ),
        ("{{ 'x' * 10000000000 }}", "a value of 10,000,000,000 items"),
        ("{{ 10000000000 * [1] }}", "a value of 10,000,000,000 items"),
        ("{{ 9 ** 99999999 }}", "a number of more than 4,096 bits"),
        ("{% set n = namespace(s=3) %}{% for i in range(60) %}{% set n.s = n.s * n.s %}{% endfor %}", "bits"),
        (
            "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
            "items",
        ),
        (
            "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "items",
        ),
        ("{% for i in range(9999) %}{{ x }}{% endfor %}", "characters of output"),
        ("{% set s %}{% for i in range(9999) %}{{ x }}{% endfor %}{% endset %}", "characters of output"),
    ],
)
def test_work_is_bounded(source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_STEPS", 100_000)
    with pytest.raises(TemplateError, match=message):
        render(source, x="y" * 10_000)


def test_endless_recursion() -> None:
    with pytest.raises(RecursionError):
        render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")


def test_a_template_can_be_used_again() -> None:
    template = SandboxedTemplate("{% for i in x %}{{ i }}{% endfor %}")
    text = "z" * 400_000
    assert all(template.render({"x": text}) == text for _ in range(4))
