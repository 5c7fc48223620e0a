"""Which family a folder's own chat template is taken for, on a tokenizer of letters."""

import json
import shutil

import pytest
import tokenizers
from official_templates import qwen3_instruct_2507, qwen3_thinking_2507
from tokenizers import models, pre_tokenizers

from mirothinker_jax.config import CHAT_TEMPLATES, ConfigError, TokenizerConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.hf_tokenizer import HFTokenizer, open_tokenizer
from mirothinker_jax.data.templates import QWEN2_5, TEMPLATES

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Qwen2's: no calls, and a system message of its own.
OLDER = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    + CHATML
)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    library = tokenizers.Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    file = tmp_path_factory.mktemp("letters") / "tokenizer.json"
    library.save(str(file))
    return file


@pytest.fixture
def folder(letters, tmp_path):
    shutil.copyfile(letters, tmp_path / "tokenizer.json")

    def write(**files):
        for name, content in files.items():
            name = {"jinja": "chat_template.jinja"}.get(name, f"{name}.json")
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


@pytest.fixture(scope="module")
def qwen3_template(qwen_folder):
    return json.loads((qwen_folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]


def test_the_families_of_qwen3(folder, qwen3_template):
    for name, template in {
        "qwen3": qwen3_template,
        "qwen3-instruct-2507": qwen3_instruct_2507(qwen3_template),
        "qwen3-thinking-2507": qwen3_thinking_2507(qwen3_template),
    }.items():
        for source in (
            template,
            template.replace("    ", "\t"),
            template.replace("{%- endfor %}", "{%- endfor -%}"),
        ):
            assert HFTokenizer(folder(jinja=source)).template == TEMPLATES[name]
    (folder() / "chat_template.jinja").unlink()
    several = [{"name": "tool_use", "template": "?"}, {"name": "default", "template": qwen3_template}]
    assert HFTokenizer(folder(tokenizer_config={"chat_template": several})).template.name == "qwen3"


def test_qwen2_5_and_another_system_message(folder, qwen2_5_folder):
    fields = json.loads((qwen2_5_folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    codec = HFTokenizer(folder(tokenizer_config=fields))
    assert codec.template == QWEN2_5
    assert codec.decode(Chat(codec).prompt(None, "q")).startswith(
        f"<|im_start|>system\n{QWEN2_5.system}<|im_end|>\n"
    )
    base = fields["chat_template"].replace(QWEN2_5.system, "You are a helpful assistant.")
    template = HFTokenizer(folder(tokenizer_config={"chat_template": base})).template
    assert (template.name, template.system, template.calls) == (
        "qwen2.5",
        "You are a helpful assistant.",
        True,
    )


def test_a_template_without_calls_and_one_with_marks(folder):
    codec = HFTokenizer(folder(jinja=OLDER))
    assert (codec.template.name, codec.template.system, codec.template.calls) == (
        "qwen2.5",
        "Be kind.",
        False,
    )
    with pytest.raises(
        ConfigError, match=r"data.call_format is 'hermes', but the model's chat template writes calls"
    ):
        Chat(codec, call_format="hermes")
    marked = CHATML.replace(
        "{{ '<|im_start|>' + m", "{% generation %}{% endgeneration %}{{ '<|im_start|>' + m", 1
    )
    assert HFTokenizer(folder(jinja=marked)).template.name == "chatml"


@pytest.mark.parametrize(
    ("kind", "name"), [("qwen2", "qwen2.5"), ("qwen3_moe", "qwen3"), ("llama", "chatml")]
)
def test_a_folder_without_a_template_is_known_by_its_model_type(folder, kind, name):
    assert HFTokenizer(folder(config={"model_type": kind})).template.name == name


def test_nothing_beside_the_file_and_a_template_by_name(folder, tmp_path_factory, codec):
    assert open_tokenizer(folder()).template.name == "chatml"
    assert TokenizerConfig().template == "auto"
    assert ("auto", *TEMPLATES) == CHAT_TEMPLATES
    assert open_tokenizer(folder(jinja="?"), "qwen3").template == TEMPLATES["qwen3"]
    model = next(tmp_path_factory.getbasetemp().glob("tokenizer*/toy.model"))
    assert open_tokenizer(model).template == codec.template == TEMPLATES["chatml"]
    assert open_tokenizer(model, "qwen2.5").template == QWEN2_5
    with pytest.raises(ConfigError, match=r"tokenizer.template is 'qwen'; choose one of auto, chatml"):
        TokenizerConfig(template="qwen")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"jinja": "{{ messages[0].content }}"},
            "chat_template.jinja: this chat template is of no known family",
        ),
        ({"jinja": CHATML.replace("m.content", "m.content | trim")}, "of no known family"),
        ({"jinja": CHATML.replace("assistant\n", "assistant\n<scratchpad>")}, "of no known family"),
        ({"jinja": "{% for %}"}, "cannot be rendered .Expected"),
        ({"jinja": "{{ raise_exception('no\nsystem') }}"}, "cannot be rendered .no system."),
        ({"jinja": b"\xff"}, "chat_template.jinja: not UTF-8"),
        (
            {"tokenizer_config": {"chat_template": 1}},
            "tokenizer_config.json: chat_template: is int, not a string",
        ),
        ({"tokenizer_config": "{"}, "tokenizer_config.json: not JSON"),
        ({"tokenizer_config": []}, "tokenizer_config.json: not a JSON object"),
    ],
)
def test_templates_that_are_refused_in_one_line(folder, files, message):
    path = folder(**files)
    with pytest.raises(ConfigError, match=message) as error:
        open_tokenizer(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).endswith(f"tokenizer.template={'|'.join(TEMPLATES)}")
    assert "\n" not in str(error.value)
