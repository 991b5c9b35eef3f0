"""Small chat templates, each in the style of a family that is served."""

from __future__ import annotations

QWEN = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{ '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}
{{- '<|im_start|>assistant\\n' }}
{%- if reasoning %}{{ '<think>\\n' + reasoning + '\\n</think>\\n\\n' }}{% endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}{{ call.function.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA = """\
{{- bos_token }}
{%- for message in messages %}
{%- if 'tool_calls' in message %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start|>assistant<|endhead|>{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}
{{- '}<|eot|>' }}
{%- else %}
{{- '<|start|>' + message.role + '<|endhead|>' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}
{%- endif %}
{{- '<|eot|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant<|endhead|>' }}{% endif %}"""

MISTRAL = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set rest = messages %}{% endif %}
{%- set ns = namespace(asked=true) %}
{%- for message in rest if message.role in ('user', 'assistant') and message.tool_calls is not defined %}
{%- if (message.role == 'user') != ns.asked %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}
{%- set ns.asked = not ns.asked %}
{%- endfor %}
{%- for message in rest %}
{%- if message.role == 'user' %}
{%- if loop.first and system is defined %}{{ '[INST] ' + system + '\\n\\n' + message.content + '[/INST]' }}
{%- else %}{{ '[INST] ' + message.content + '[/INST]' }}{% endif %}
{%- elif message.tool_calls is defined and message.tool_calls is not none %}
{{- '[TOOL_CALLS] [' }}
{%- for call in message.tool_calls %}
{%- if call.id is not defined or call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- call.function | tojson }}{% endfor %}{{ ']' + eos_token }}
{%- elif message.role == 'assistant' %}{{ ' ' + message.content + eos_token }}
{%- elif message.role == 'tool' %}{{ '[TOOL_RESULTS] ' + message.content | string + '[/TOOL_RESULTS]' }}
{%- else %}{{ raise_exception('only user, assistant and tool roles are supported') }}{% endif %}
{%- endfor %}"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

PARTS = """\
{%- for message in messages %}
{{- '<' + message.role + '>' }}
{%- for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}
{%- for call in message.tool_calls or [] %}{{ call.function.name }}
{%- for key, value in call.function.arguments | items %}{{ '[' + key + ': ' + value | string + ']' }}{% endfor %}
{%- endfor %}{{ '</' + message.role + '>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"""

# Tells tool calls by the null beside them, and takes their arguments as text.
DEEPSEEK = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role in ('system', 'user') %}{{ '<|' + message.role + '|>' + message.content }}
{%- elif message.role == 'assistant' and message.content is none %}
{{- '<|assistant|>' }}
{%- for call in message.tool_calls %}
{{- '<|call|>' + call.function.name + '\\n```json\\n' + call.function.arguments + '\\n```' }}
{%- endfor %}{{ '<|end|>' }}
{%- elif message.role == 'assistant' %}{{ '<|assistant|>' + message.content + '<|end|>' }}
{%- elif message.role == 'tool' %}{{ '<|output|>' + message.content }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

REFUSING = "{{ raise_exception('this template takes nothing') }}"

CHATTING = {
    "qwen": QWEN,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "parts": PARTS,
    "deepseek": DEEPSEEK,
}
CALLING = {name: CHATTING[name] for name in ("qwen", "llama", "mistral", "parts", "deepseek")}
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
