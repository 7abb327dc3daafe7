"""HTML elements as values: whatever is not an element already is text, and is escaped when it becomes part of one."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = ("img", "input", "meta", "link", "col")


class Markup(str):
    """HTML that stands as it is."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Safe as text and in attributes. Half of a surrogate pair, which no file can hold, becomes a question mark."""
    return text if isinstance(text, Markup) else Markup(html.escape(text.encode("utf-8", "replace").decode()))


def join(*parts: str) -> Markup:
    return Markup("".join(map(escaped, parts)))


def each(parts: Iterable[str]) -> Markup:
    return join(*parts)


def element(name: str, /, *children: str, **attributes: str | bool | None) -> Markup:
    """`class_` is written class, `data_skill` data-skill; an attribute that is True has no value, None or False is not
    written.
    """
    told = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escaped(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{told}>" + ("" if name in _VOID else f"{join(*children)}</{name}>"))
