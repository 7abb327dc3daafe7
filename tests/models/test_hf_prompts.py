"""What a processor is given to read: templates, places of pictures, and words that look like pictures."""

from __future__ import annotations

from typing import Any

import pytest

from gapbench.models.hf_prompts import PICTURE, Prompts
from gapbench.records import Picture, Question

ONE = (Picture("a", lambda: None),)
TWO = (*ONE, Picture("b", lambda: None))


class Template:
    """Writes down what it is given."""

    def __init__(self, template: object, **more: Any) -> None:
        self.chat_template = template
        self.__dict__ |= more

    def apply_chat_template(self, messages: Any, add_generation_prompt: bool, tokenize: bool) -> str:
        assert add_generation_prompt
        assert not tokenize
        (message,) = messages
        assert message["role"] == "user"
        return f"{message['content']}:"


def prompts(template: object = None, tokenizers: object = None, token: str | None = "<pic>") -> Prompts:
    return Prompts(Template(template, image_token=token, tokenizer=Template(tokenizers, sep_token="<sep>")))


@pytest.mark.parametrize(
    ("text", "pictures", "parts"),
    [
        ("Is it red?", 0, ["Is it red?"]),
        ("Is it red?", 1, [PICTURE, "Is it red?"]),
        ("Is it red?", 2, [PICTURE, PICTURE, "Is it red?"]),
        ("", 1, [PICTURE]),
        ("As in <image>, is it red?", 1, ["As in ", PICTURE, ", is it red?"]),
        ("<image><image>Are they equal?", 2, [PICTURE, PICTURE, "Are they equal?"]),
        ("A. <image>\nB. <image>", 2, ["A. ", PICTURE, "\nB. ", PICTURE]),
        ("In <image>: what is left in <image>?", 1, [PICTURE, "In [image]: what is left in [image]?"]),
        ("In <image>: what is left?", 2, [PICTURE, PICTURE, "In [image]: what is left?"]),
        ("<image> is a tag of HTML.", 0, ["[image] is a tag of HTML."]),
        ("<pic> is <image>", 1, ["[image] is ", PICTURE]),
    ],
)
def test_places_of_pictures(text: str, pictures: int, parts: list[str | None]) -> None:
    assert prompts().parts(text, pictures) == parts


def test_the_processors_template_comes_first() -> None:
    made = prompts("a", "b")
    asked = Question("q", "As in <image>, red?", ONE)
    content = [{"type": "text", "text": "As in "}, {"type": "image"}, {"type": "text", "text": ", red?"}]
    assert made.prompt(asked) == f"{content}:"
    assert made.describe() == {
        "of": "processor",
        "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",  # of "a"
    }


def test_the_tokenizers_template_has_one_text() -> None:
    made = prompts(None, {"default": "b"})
    assert made.prompt(Question("q", "red?", TWO)) == "<pic><pic>red?:"
    assert made.describe()["of"] == "tokenizer"


def test_without_a_template() -> None:
    made = prompts()
    assert made.prompt(Question("q", "red?", TWO)) == "<pic><pic>red?"
    assert made.describe() == {"of": "none: the text as it stands", "sha256": None}
    assert prompts(token=None).prompt(Question("q", "red?", TWO)) == "red?"  # its processor knows where pictures go


def test_a_text_as_it_stands() -> None:
    assert prompts().prompt(Question("q", "1 + 1 =", ONE, template=False)) == "<pic>1 + 1 ="
    assert prompts().prompt(Question("q", "1 + <image> =", ONE, template=False)) == "1 + <pic> ="


@pytest.mark.parametrize(
    ("with_picture", "without", "written"),
    [
        ("User: <pic>\nA Bot:", "User: A Bot:", "<pic>\n"),
        ("User:<pic>A<end>", "User: A<end>", "<pic>"),
        ("<s>user\n<see><pic></see>A</s>", "<s>user\nA</s>", "<see><pic></see>"),
        ("A<pic>", "A", "<pic>"),
        ("A", "A", "<pic>"),  # a template that knows no pictures
    ],
)
def test_a_picture_is_written_as_the_template_writes_it(with_picture: str, without: str, written: str) -> None:
    class Written(Template):
        def apply_chat_template(self, messages: Any, **how: Any) -> str:
            return with_picture if {"type": "image"} in messages[0]["content"] else without

    made = Prompts(Written("a", image_token="<pic>", tokenizer=Template(None)))
    asked = Question("q", "1 + <image> = <image>", TWO, template=False)
    assert made.prompt(asked) == f"1 + {written} = {written}"


def test_chameleons_separator_is_its_template() -> None:
    class ChameleonProcessor(Template):
        pass

    made = Prompts(ChameleonProcessor(None, image_token="<pic>", tokenizer=Template(None, sep_token="<sep>")))
    assert made.prompt(Question("q", "red?", ONE)) == "<pic>red?<sep>"
    assert made.prompt(Question("q", "red?", ONE, template=False)) == "<pic>red?"
    assert made.processor_arguments == {"return_for_text_completion": True}
    assert made.describe()["of"] == "text and separator"
    assert prompts().processor_arguments == {}
