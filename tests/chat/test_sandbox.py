"""Templates of a repository: what honest ones write, and what hostile ones cannot do."""

import time

import pytest

from flagai.chat.templates import ChatTemplate, TemplateRefusedError
from flagai.errors import InputError, VocabularyError

MESSAGES = [{"role": "user", "content": " 你好 "}, {"role": "assistant", "content": "b", "tools": [{"a": "é"}]}]
HONEST = {
    "{% for m in messages %}<{{ m['role'] }}>{{ m.content.strip() }}{% if not loop.last %}|{% endif %}{% endfor %}": (
        "<user>你好|<assistant>b"
    ),
    "{{ messages[1].tools[0] | tojson(indent=4) }}": '{\n    "a": "é"\n}',
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}": "2",
    "{% for m in messages %}{% if loop.index0 %}{% break %}{% endif %}{{ m.role }}{% endfor %}": "user",
    "{% macro f(m) %}[{{ m.role }}]{% endmacro %}{{ f(messages[0]) ~ messages[1:] | length }}": "[user]1",
    "{% generation %}{{ 'a b'.split(' ')[-1] }}{% endgeneration %}": "b",
    "{{ messages | map(attribute='role') | join(', ') }} {{ 'aXb'.replace('X', '-') }}": "user, assistant a-b",
    "  {%- if messages is defined and messages[0]['x'] is not defined %}\n  yes\n  {% endif %}": "  yes\n",
}
BIG = "{% set b %}{% for i in range(99999) %}bbbbbbbbbb{% endfor %}{% endset %}"
HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ range.__func__.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='system') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{{ 'a' * 10000000000 }}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ messages | tojson(indent=1000000) }}",
    "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set s %}{{ ns.s }}{{ ns.s }}{% endset %}"
    "{% set ns.s = s %}{% endfor %}",
    BIG + "{{ b | replace('b', b) }}",
    BIG + "{{ b.replace('b', b) }}",
    BIG + "{{ b | join(b) }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
]


@pytest.mark.parametrize("source", HONEST)
def test_honest_templates_write(source):
    assert ChatTemplate(source, "here").render(MESSAGES) == HONEST[source]


@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_templates_are_refused(source):
    begin = time.process_time()
    with pytest.raises(TemplateRefusedError, match="here: the chat template is refused"):
        ChatTemplate(source, "here").render(MESSAGES)
    assert time.process_time() - begin < 30  # it ends at all
    assert MESSAGES[0]["role"] == "user"


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    ],
)
def test_what_grows_without_a_loop_is_refused(source):
    with pytest.raises(TemplateRefusedError):
        ChatTemplate(source, "here").render(MESSAGES)


@pytest.mark.parametrize("source", ["{{", "{% for %}", "{{ " + "(" * 3000, "x" * (1 << 20) + "x"])
def test_what_is_no_template_is_no_vocabulary(source):
    with pytest.raises(VocabularyError, match="here: the chat template"):
        ChatTemplate(source, "here")


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('no system') }}", "{{ nothing.x }}", "{{ 1 / 0 }}", "{{ 1|center }}"]
)
def test_a_template_may_refuse_a_conversation(source):
    with pytest.raises(InputError, match="says of this conversation"):
        ChatTemplate(source, "here").render(MESSAGES)
