"""Questions from captions, in TIFA's element types, written by a language model and checked from the caption alone.

Written: of each caption a language model lists every element with its type, and asks one yes/no question and at most
one multiple-choice question about each, as TIFA does (Hu et al., ICCV 2023, arXiv 2303.11897; types and merging as in
github.com/Yushi-Hu/tifa at 8e37050). Instruction, worked examples and reply format are our own.
Kept: what is well formed (`validate`), and what a language model that sees the caption and no picture answers as it was
written. TIFA has UnifiedQA do that, so the check's model is part of a question set's name. Every question that is not
kept is counted under its reason.

Yes/no questions are asked so that yes is right, as TIFA's are. Questions to be answered with no would hold back a model
that always says yes, but they are right about an empty drawing too; the share of yes is told instead.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from gapbench.api import Chat, Client
from gapbench.homologous import normal
from gapbench.records import Failure

TYPES = (
    "object",
    "human",
    "animal",
    "food",
    "activity",
    "attribute",
    "counting",
    "color",
    "material",
    "spatial",
    "location",
    "shape",
    "other",
)
MERGED = {"human": "animal/human", "animal": "animal/human"}
LETTERS = "ABCD"
PROMPT_VERSION = "1"  # of the writer's and the check's prompt together

_INSTRUCTION = """\
You write questions that test whether a picture shows what a description says.

Go through the description from its first word to its last and list every element in it: each person, animal, thing \
and food, what they do, each of their attributes (color, material, shape, size, age, mood ...), each count, each \
relation of one thing to another, the place, and whatever else can be seen, such as style, light, weather or words. \
Leave none out, and add none that the description does not have. Name an attribute, count or relation together with \
what it belongs to ("red hat", not "red"), so that no two elements have the same name.

About each element write
- one question with the choices "yes" and "no", put so that "yes" is right;
- and, where there is something to choose from, one question with four short choices of which only one is right.
Whoever answers sees the picture and not the description: a question must make sense to them, and the description \
alone must settle its answer. Wrong choices are of the same kind as the right one and plainly wrong; the right \
one stands at any place among them.

element_type is one of: {types}.
Reply with JSON alone: {{"items": [{{"element": ..., "element_type": ..., "question": ..., "choices": [...], \
"answer": ...}}, ...]}}, where answer is one of choices, word for word."""

# Description, then element | type | question | choices | answer.
_EXAMPLES = (
    (
        "Two tabby cats sleep on the lid of a black grand piano.",
        """\
tabby cats | animal | Are there cats? | yes, no | yes
tabby cats | animal | Which animals are there? | dogs, cats, parrots, rabbits | cats
two cats | counting | Are there exactly two cats? | yes, no | yes
two cats | counting | How many cats are there? | 1, 2, 3, 4 | 2
tabby coat of the cats | attribute | Do the cats have a tabby coat? | yes, no | yes
sleeping cats | activity | Are the cats asleep? | yes, no | yes
sleeping cats | activity | What are the cats doing? | eating, fighting, washing themselves, sleeping | sleeping
grand piano | object | Is there a grand piano? | yes, no | yes
grand piano | object | Which instrument is there? | grand piano, drum kit, harp, guitar | grand piano
black piano | color | Is the piano black? | yes, no | yes
black piano | color | What color is the piano? | white, brown, black, red | black
cats on the lid of the piano | spatial | Are the cats on the lid of the piano? | yes, no | yes
cats on the lid of the piano | spatial | Where are the cats? | under it, on it, behind it, beside it | on it""",
    ),
    (
        "An old fisherman in a yellow raincoat mends a net on a wooden pier, a lighthouse far behind him.",
        """\
fisherman | human | Is there a man? | yes, no | yes
old fisherman | attribute | Is the man old? | yes, no | yes
old fisherman | attribute | How old does the man look? | a baby, a boy, a teenager, old | old
raincoat | object | Is the man wearing a raincoat? | yes, no | yes
raincoat | object | What is the man wearing? | a suit, a raincoat, a swimsuit, a bathrobe | a raincoat
yellow raincoat | color | Is the raincoat yellow? | yes, no | yes
yellow raincoat | color | What color is the raincoat? | yellow, blue, green, red | yellow
mending a net | activity | Is the man mending something? | yes, no | yes
mending a net | activity | What is the man doing? | rowing, cooking, mending a net, reading | mending a net
net | object | Is there a net? | yes, no | yes
pier | location | Is the man on a pier? | yes, no | yes
pier | location | Where is the man? | in a boat, on a beach, in a kitchen, on a pier | on a pier
wooden pier | material | Is the pier made of wood? | yes, no | yes
wooden pier | material | What is the pier made of? | wood, stone, steel, concrete | wood
lighthouse | object | Is there a lighthouse? | yes, no | yes
lighthouse far behind the man | spatial | Is the lighthouse far behind the man? | yes, no | yes""",
    ),
    (
        "Flat vector art of a round bowl of ramen with three halved eggs next to a folded napkin.",
        """\
flat vector art | other | Is this flat vector art? | yes, no | yes
flat vector art | other | What is the style? | oil painting, photo, flat vector art, pencil drawing | flat vector art
bowl | object | Is there a bowl? | yes, no | yes
round bowl | shape | Is the bowl round? | yes, no | yes
round bowl | shape | What shape is the bowl? | square, round, triangular, star-shaped | round
ramen | food | Is there ramen in the bowl? | yes, no | yes
ramen | food | Which dish is in the bowl? | ramen, salad, ice cream, porridge | ramen
halved eggs | food | Are there halved eggs? | yes, no | yes
three halved eggs | counting | Are there exactly three halved eggs? | yes, no | yes
three halved eggs | counting | How many halved eggs are there? | 1, 2, 4, 3 | 3
napkin | object | Is there a napkin? | yes, no | yes
folded napkin | attribute | Is the napkin folded? | yes, no | yes
bowl next to the napkin | spatial | Is the bowl next to the napkin? | yes, no | yes""",
    ),
    (
        'The word "OPEN" in red neon letters on the glass door of an empty cafe at night',
        """\
word OPEN | other | Is the word "OPEN" written there? | yes, no | yes
word OPEN | other | Which word is written there? | EXIT, OPEN, SALE, TAXI | OPEN
red letters | color | Are the letters red? | yes, no | yes
red letters | color | What color are the letters? | red, green, blue, white | red
neon letters | material | Are the letters of neon light? | yes, no | yes
door | object | Is there a door? | yes, no | yes
glass door | material | Is the door made of glass? | yes, no | yes
letters on the door | spatial | Are the letters on the door? | yes, no | yes
cafe | location | Is this a cafe? | yes, no | yes
cafe | location | What kind of place is this? | a church, a school, a cafe, a garage | a cafe
empty cafe | attribute | Is the cafe empty of people? | yes, no | yes
night | other | Is it night? | yes, no | yes
night | other | What time of day is it? | noon, night, sunrise, morning | night""",
    ),
)

_CHECK = """\
You get the description of a picture, not the picture, and a question with lettered choices. Answer from the \
description alone. Choose the letter of the choice that the description states or plainly implies; where it leaves the \
question open, or no choice agrees with it, choose "none", and do not guess.
Reply with JSON alone: {"choice": "A"}"""


@dataclass(frozen=True, slots=True)
class ElementQuestion:
    """A question about an element of a caption. `type`: one of TYPES, human and animal merged to "animal/human"."""

    element: str
    type: str
    text: str
    choices: tuple[str, ...]
    answer: str

    @property
    def yes_no(self) -> bool:
        return {normal(choice) for choice in self.choices} == {"yes", "no"}


class Caption(NamedTuple):
    """`there`: the questions that there are about it already, none of which is to be asked twice."""

    id: str
    text: str
    there: tuple[str, ...] = ()


class Validated(NamedTuple):
    questions: tuple[ElementQuestion, ...]
    rejected: Counter[str]


@dataclass(frozen=True, slots=True)
class Generated:
    """The questions kept of one caption, how many were rejected by reason, and which models' snapshots took part.

    `failure` says why there is nothing to keep or to reject: the request for questions failed.
    """

    id: str
    questions: tuple[ElementQuestion, ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)
    writer: str = ""
    checkers: frozenset[str] = frozenset()
    failure: str = ""

    @property
    def written(self) -> int:
        return len(self.questions) + sum(self.rejected.values())


# --- What is asked of the writer --------------------------------------------------------------------------------------


def examples() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The worked examples of the prompt: descriptions and the items to be written about them."""
    for description, table in _EXAMPLES:
        rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
        yield (
            description,
            [
                {"element": element, "element_type": kind, "question": text, "choices": c.split(", "), "answer": answer}
                for element, kind, text, c, answer in rows
            ],
        )


def writing(caption: str) -> Chat:
    """The request for a caption's questions."""
    shown = "\n\n".join(
        f"Description: {description}\n{json.dumps({'items': items}, ensure_ascii=False)}"
        for description, items in examples()
    )
    system = f"{_INSTRUCTION.format(types=', '.join(TYPES))}\n\n{shown}"
    text = {"type": "string"}
    item = {
        "element": text,
        "element_type": {"type": "string", "enum": list(TYPES)},
        "question": text,
        "choices": {"type": "array", "items": text},
        "answer": text,
    }
    schema = _object({"items": {"type": "array", "items": _object(item)}})
    return Chat(f"Description: {caption}", system=system, schema=schema, max_tokens=4096)


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    # Servers that hold to a schema strictly want every property required and no other allowed.
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def read_items(text: str) -> list[Any]:
    """The items of a writer's reply, alone or in prose or fences. Raises ValueError where there is no list of them."""
    items = _value(text, "items")
    if not isinstance(items, list):
        raise ValueError("items is no list")
    return items


def _value(text: str, key: str) -> Any:
    """Of the last JSON object in `text` that has this key: models that think aloud write drafts before it."""
    decoder, at, found = json.JSONDecoder(), 0, []
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
        else:
            found += [value[key]] if key in value else []
    if not found:
        raise ValueError(f"no JSON object with {key!r} in it")
    return found[-1]


# --- What is well formed ----------------------------------------------------------------------------------------------


def validate(items: Iterable[Any], there: Iterable[str] = ()) -> Validated:
    """The well-formed questions among a reply's items, in their order, and how many are rejected for which reason.

    Of questions that repeat each other or a question `there` already, and of several yes/no or several multiple-choice
    questions about one element, the first counts. An answer is spelt as the choice that it equals.
    """
    kept, rejected = [], Counter()
    asked, taken = {normal(text) for text in there}, set()
    for item in items:
        fault = _fault(item)
        if not fault:
            question = _question(item)
            place = (normal(question.element), question.type, question.yes_no)
            if normal(question.text) in asked:
                fault = "asked before"
            elif place in taken:
                fault = "second of its kind about an element"
        if fault:
            rejected[fault] += 1
            continue
        asked.add(normal(question.text))
        taken.add(place)
        kept.append(question)
    return Validated(tuple(kept), rejected)


def _fault(item: Any) -> str:
    """What is wrong with an item by itself, else nothing."""
    if not isinstance(item, dict) or not isinstance(item.get("choices"), list):
        return "not a question"
    choices = item["choices"]
    texts = [item.get(key) for key in ("element", "element_type", "question", "answer")] + choices
    if not all(isinstance(text, str) and _encodes(text) for text in texts):
        return "not a question"
    if not all(map(normal, texts)):
        return "empty text"
    if normal(item["element_type"]) not in (*TYPES, *MERGED.values()):
        return "unknown type"
    if not 2 <= len(choices) <= len(LETTERS):
        return "not 2 to 4 choices"
    if len(set(map(normal, choices))) < len(choices):
        return "choices repeat"
    return "" if normal(item["answer"]) in map(normal, choices) else "answer not among the choices"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON may hold and no file or request can
        return False
    return True


def _question(item: Mapping[str, Any]) -> ElementQuestion:
    choices = tuple(choice.strip() for choice in item["choices"])
    kind = normal(item["element_type"])
    answer = next(choice for choice in choices if normal(choice) == normal(item["answer"]))
    return ElementQuestion(item["element"].strip(), MERGED.get(kind, kind), item["question"].strip(), choices, answer)


# --- What the caption answers -----------------------------------------------------------------------------------------


def lettered(question: ElementQuestion) -> dict[str, str]:
    """Letter -> choice, in an order that the question decides: the writer likes to put the right one first."""
    choices = list(question.choices)
    random.Random(f"{question.text}/{sorted(choices)}").shuffle(choices)
    return dict(zip(LETTERS, choices, strict=False))


def checking(caption: str, question: ElementQuestion) -> Chat:
    """The request for an answer from the caption alone."""
    choices = lettered(question)
    shown = "\n".join(f"{letter}. {choice}" for letter, choice in choices.items())
    schema = _object({"choice": {"type": "string", "enum": [*choices, "none"]}})
    text = f"Description: {caption}\n\nQuestion: {question.text}\n{shown}"
    return Chat(text, system=_CHECK, schema=schema, max_tokens=256)


def read_choice(text: str) -> str:
    """The letter of a check's reply, or "none". Raises ValueError where it says neither."""
    said = _value(text, "choice")
    found = re.match(r"\s*\(?(none\b|[a-d](?=\s*$|[).:]))", said, re.IGNORECASE) if isinstance(said, str) else None
    if found is None:
        raise ValueError(f"{said!r} is no choice")
    return "none" if len(found[1]) > 1 else found[1].upper()


# --- From captions to questions ---------------------------------------------------------------------------------------

_BATCH = 64  # captions in memory at once; each has about a dozen checks


class _Said(NamedTuple):
    value: Any
    model: str


def generate(captions: Iterable[Caption], writer: Client, checker: Client) -> Iterator[Generated]:
    """The questions of each caption, in step. Raises InputError where asking on is of no use (`Client.chat`)."""
    captions = iter(captions)
    while batch := list(islice(captions, _BATCH)):
        replies = writer.chat([writing(c.text) for c in batch], lambda r: _Said(read_items(r.text), r.model))
        drafts = [
            (caption, reply, validate(() if isinstance(reply, Failure) else reply.value, caption.there))
            for caption, reply in zip(batch, replies, strict=True)
        ]
        asks = [checking(caption.text, question) for caption, _, draft in drafts for question in draft.questions]
        answers = iter(checker.chat(asks, lambda r: _Said(read_choice(r.text), r.model)))
        for caption, reply, draft in drafts:
            if isinstance(reply, Failure):
                yield Generated(caption.id, failure=reply.reason)
            else:
                yield _checked(caption.id, reply.model, draft, list(islice(answers, len(draft.questions))))


def _checked(name: str, writer: str, draft: Validated, answers: Sequence[_Said | Failure]) -> Generated:
    kept, rejected, checkers = [], Counter(draft.rejected), set()
    for question, answer in zip(draft.questions, answers, strict=True):
        if isinstance(answer, Failure):
            rejected["check failed"] += 1
            continue
        checkers.add(answer.model)
        if answer.value == "none":
            rejected["not answered by the caption"] += 1
        elif lettered(question).get(answer.value) != question.answer:
            rejected["answered otherwise by the caption"] += 1
        else:
            kept.append(question)
    return Generated(name, tuple(kept), rejected, writer, frozenset(checkers))
