"""Names of weights in two layouts, in one table that reads both ways."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]

FIELD = re.compile(r"\{(\w)(\+1)?\}")
KINDS = {"i": r"\d+", "j": r"\d+", "p": r"\w+", "n": r".+"}  # two numbers, a parameter, all that is left


class Change(NamedTuple):
    """What happens to a value besides its name; the way out may look at all of our weights."""

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, State], Tensor]


class Rule(NamedTuple):
    """One kind of weight: its name in another release and ours.

    ``{i}`` and its like are the same on both sides, ``{i+1}`` is one more. Several names of theirs are joined in ours,
    along the first dimension. Of rules with the same name of ours the first one writes.
    """

    theirs: str | tuple[str, ...]
    ours: str
    change: Change | None = None


def rules(*rows: tuple[Any, ...]) -> tuple[Rule, ...]:
    return tuple(Rule(*row) for row in rows)


@dataclass(frozen=True)
class Layout:
    """How a release names the weights of one family.

    Attributes:
        name: What it is called in messages.
        family: convnext, swin or vit.
        marker: Pattern of a name that only its files have.
        rules: Names of theirs and ours: the backbone without prefix, the classifier with ``head.``.
        release: What ``--to`` calls it; empty if it is read alone.
        prefix: What the backbone's names begin with in the files of whole classifiers.
        unused: Pattern of names that a dense backbone has no use for.
        config: Arguments of the backbone that its weights do not tell.
        notes: What a user must know who reads it.
        writing: What a user must know who writes it.
    """

    name: str
    family: str
    marker: str
    rules: tuple[Rule, ...]
    release: str = ""
    prefix: str = ""
    unused: str = r"(?!)"
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    writing: tuple[str, ...] = ()

    def holds(self, state: State) -> bool:
        return any(re.match(self.marker, key.removeprefix(self.prefix)) for key in state)

    def uses(self, name: str) -> bool:
        return not re.match(self.unused, name)


def nearest(layouts: Iterable[Layout], state: State, ours: bool) -> Layout | None:
    """Of several layouts the one that knows most of the names, which are ours or theirs; the first of equal ones."""

    def unknown(layout: Layout) -> int:
        names = state if ours else filter(layout.uses, (key.removeprefix(layout.prefix) for key in state))
        return sum(_find(layout, name, ours) is None for name in names)

    return min(layouts, key=unknown, default=None)


def read(state: State, layout: Layout) -> tuple[State, list[str]]:
    """Their weights under our names, and what has no use here. Names that are not known stay as they are."""
    result: State = {}
    parts: dict[str, dict[str, Tensor | None]] = {}
    left_out = []
    for key, value in state.items():
        name = key.removeprefix(layout.prefix)
        found = _find(layout, name, ours=False)
        if not layout.uses(name):
            left_out.append(key)
        elif found is None:
            result[key] = value
        else:
            rule, fields = found
            ours, theirs = _filled(rule.ours, fields), [_filled(template, fields) for template in _theirs(rule)]
            parts.setdefault(ours, dict.fromkeys(theirs))[name] = rule.change.read(value) if rule.change else value
    for ours, found in parts.items():
        if absent := [name for name, value in found.items() if value is None]:
            raise ValueError(f"incomplete weights: there is no {absent[0]}, which {ours} is made of")
        values = list(found.values())
        result[ours] = torch.cat(values) if len(values) > 1 else values[0]
    return result, left_out


def write(state: State, layout: Layout) -> tuple[State, list[str]]:
    """Our weights under their names, and the names of those that the layout has no place for."""
    result: State = {}
    left_out = []
    for key, value in state.items():
        found = _find(layout, key, ours=True)
        if found is None:
            left_out.append(key)
            continue
        rule, fields = found
        theirs = [_filled(template, fields) for template in _theirs(rule)]
        value = rule.change.write(value, state) if rule.change else value
        result.update(zip(theirs, value.chunk(len(theirs)) if len(theirs) > 1 else [value], strict=True))
    return result, left_out


def _find(layout: Layout, name: str, ours: bool) -> tuple[Rule, dict[str, int | str]] | None:
    """The first rule that a name follows, and what stands in its fields."""
    for rule in layout.rules:
        for template in (rule.ours,) if ours else _theirs(rule):
            if (fields := _fields(template, name)) is not None:
                return rule, fields
    return None


def _theirs(rule: Rule) -> tuple[str, ...]:
    return (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs


def _fields(template: str, name: str) -> dict[str, int | str] | None:
    """What stands in a name where a template has fields; None if it does not follow the template."""
    match = _pattern(template).fullmatch(name)
    if match is None:
        return None
    fields = {f: int(v) if v.isdecimal() else v for f, v in match.groupdict().items()}
    for letter, more in FIELD.findall(template):
        fields[letter] = fields[letter] - 1 if more else fields[letter]
        if more and fields[letter] < 0:
            return None
    return fields


def _filled(template: str, fields: Mapping[str, int | str]) -> str:
    return FIELD.sub(lambda m: str(fields[m[1]] + 1 if m[2] else fields[m[1]]), template)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    text, *rest = FIELD.split(template)
    pieces = [re.escape(text)]
    for letter, _, text in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        pieces += [f"(?P<{letter}>{KINDS[letter]})", re.escape(text)]
    return re.compile("".join(pieces))
