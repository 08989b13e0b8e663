"""Conversations rendered by transformers' apply_chat_template, with templates in the styles that are published: ChatML with tools and marks for the model's own words,
Llama 3's, and Mistral's, which refuses turns out of order.

    python tests/golden/gen_chat.py
"""

import json
from pathlib import Path

import transformers as tf
from tokenizers import Tokenizer, models

CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and not message.tool_calls %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- generation %}
        {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif message.role in ['user', 'system'] %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if documents is not none %}{{ documents | tojson(indent=2) }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if tools is not none %}{{ raise_exception("no tools here") }}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{{- bos_token }}
{% for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("conversation roles must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {% else %}
        {{- " " + message["content"] | trim + eos_token }} {{ message.content | tojson }}
    {% endif %}
{% endfor %}
"""

CHATS = [
    [("user", "Hi <there> & 'you'")],
    [("system", " Be kind. "), ("user", "Wer ist \"Zoë\"?\n"), ("assistant", " A <name> & more.\n"), ("user", "a\\b 🦀")],
    [("system", "One"), ("user", "Two"), ("user", "Three")],
]


def main():
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>")), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    cases = []
    for name, template in {"chatml": CHATML, "llama": LLAMA, "mistral": MISTRAL}.items():
        for chat in CHATS:
            messages = [{"role": role, "content": content} for role, content in chat]
            for prompt in [True, False]:
                case = {"name": name, "template": template, "messages": messages, "prompt": prompt}
                try:
                    case["text"] = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=prompt)
                except Exception as e:
                    case["error"] = str(e)
                cases.append(case)
    out = {"transformers": tf.__version__, "tokens": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, "cases": cases}
    path = Path(__file__).parent / "chat.json"
    path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(*[(c["name"], c.get("text", c.get("error"))) for c in cases], sep="\n")


if __name__ == "__main__":
    main()
