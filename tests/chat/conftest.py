"""A tiny model that chats: GPT-2's vocabulary with tokens of roles, and a template."""

import json

import pytest

from tests import vocabularies

ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
TEMPLATE = (
    "{%- if tools %}<|system|>{{ tools | tojson }}{% endif %}"
    "{%- for m in messages %}<|{{ 'observation' if m.role == 'tool' else m.role }}|>\n{{ m.content.strip() }}"
    "{%- for call in m.tool_calls or [] %}<|assistant|>{{ call.function.name }}\n{{ call.function.arguments | tojson }}"
    "{%- endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def chat_folder(tmp_path):
    """A function that puts a template into a folder of its own, with settings beside it."""

    def make(template=TEMPLATE, **options):
        vocabularies.put(tmp_path, "GPT2-base-en")
        folder = tmp_path / "GPT2-base-en"
        found = {"tokenizer_class": "GPT2Tokenizer", "additional_special_tokens": ROLES, "chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(found | options))
        return folder

    return make
