"""Writes what a study may say, from its schema: ``config/README.md`` for people, ``config/schema.json`` for editors.

python -m scripts.study.describe            writes both
python -m scripts.study.describe --check    says which of them is not what the schema says; exit 1 if one is not
"""

import argparse
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BeforeValidator, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from scripts.common.commands import python_command
from scripts.common.errors import UserError, run
from scripts.common.files import atomic_path, project
from scripts.components.part import Name, Repository, Tokens
from scripts.study.schema import CellDuration, Study

README = project("config/README.md")
SCHEMA = project("config/schema.json")
MODULE = "scripts.study.describe"
COMMAND = f"python -m {MODULE}"
EXTENDS = "extends"
EXTENDS_MEANING = "another study, by its name: everything is as there but for what stands here"
EXTENDING = "-extending"
"""Ends the name of a definition whose keys may all be absent, or null."""
TOKENS = r"^[0-9]+(\.[0-9]+)?[KMB]?$"
"""The texts that `scripts.common.quantities.parse_tokens` reads."""

Schema = dict[str, Any]
_READ_TEXT = {
    part.func for alias in (Tokens, CellDuration) for part in get_args(alias) if isinstance(part, BeforeValidator)
}


class _Generator(GenerateJsonSchema):
    """The JSON schema of what the loader reads: tokens may be text. Keys have no titles, they say enough themselves."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def function_before_schema(self, schema: Any) -> Schema:
        inner = super().function_before_schema(schema)
        if schema["function"]["function"] not in _READ_TEXT:
            return inner
        return {"anyOf": [{**inner, "exclusiveMinimum": 0}, {"type": "string", "pattern": TOKENS}]}


def described() -> Schema:
    """The JSON schema of a study that extends none; a key's `unit` and `paper` stand beside its `description`.

    Raises:
        UserError: a key has no description.
    """
    schema = Study.model_json_schema(mode="validation", schema_generator=_Generator)
    definitions = {"Study": _without(schema, "$defs"), **schema.get("$defs", {})}
    for name, definition in definitions.items():
        for key, value in definition["properties"].items():
            if "description" not in value:
                raise UserError(f"scripts/study/schema.py: {name}.{key} has no description; write it with `field`")
    return {"$defs": {name: _closed(definition) for name, definition in definitions.items()}}


def _closed(schema: Any) -> Any:
    """Names that do not have a name's form are errors; OpenAPI's `discriminator` is no JSON Schema and goes."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key != "discriminator"}
    return closed | ({"additionalProperties": False} if "patternProperties" in schema else {})


# -- for editors --------------------------------------------------------------------------------


def editor_schema() -> Schema:
    """JSON Schema (draft 2020-12) of a study's file as it is written.

    A file with the key `extends` is judged by a second set of definitions: every key of a part may be absent, for it
    is the other study's, or null, which takes it away; and where parts of several forms are possible, any form will
    do, for the key that tells them apart may be the other study's too. What stands in a list replaces a whole list, so
    there the usual definitions hold. Rules between keys are the loader's alone.
    """
    strict = described()["$defs"]
    extending = {f"{name}{EXTENDING}": _extending(definition) for name, definition in strict.items()}
    extends = {"description": EXTENDS_MEANING, "type": "string", "minLength": 1}
    for name, definitions in (("Study", strict), (f"Study{EXTENDING}", extending)):
        definitions[name]["properties"] = {EXTENDS: extends, **definitions[name]["properties"]}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"Written by `{COMMAND}`.",
        "title": "A study, config/studies/NAME.yaml",
        "if": {"type": "object", "required": [EXTENDS]},
        "then": {"$ref": f"#/$defs/Study{EXTENDING}"},
        "else": {"$ref": "#/$defs/Study"},
    }
    definitions = {**strict, **extending}
    used = _used(schema, definitions)
    return {**schema, "$defs": {name: _told(definitions[name]) for name in sorted(used)}}


def _extending(schema: Schema) -> Schema:
    """The schema of what is merged into another study's value."""
    if "$ref" in schema:
        return {**_without(schema, "default"), "$ref": f"{schema['$ref']}{EXTENDING}"}
    loose = _without(schema, "default", "required", "minProperties", "oneOf")
    for key in ("properties", "patternProperties"):
        if key in schema:
            loose[key] = {name: _nullable(_extending(value)) for name, value in schema[key].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        loose["additionalProperties"] = _nullable(_extending(schema["additionalProperties"]))
    if forms := schema.get("anyOf", schema.get("oneOf")):
        loose["anyOf"] = [_extending(form) for form in forms]
    return loose


def _nullable(schema: Schema) -> Schema:
    null = {"type": "null"}
    if null in schema.get("anyOf", []):
        return schema
    told: Schema = {key: schema[key] for key in ("description", "unit", "paper") if key in schema}
    return {**told, "anyOf": [_without(schema, *told), null]}


def _without(schema: Schema, *keys: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in keys}


def _used(schema: Schema, definitions: Mapping[str, Schema]) -> set[str]:
    """The definitions that a schema refers to, directly or through others."""
    used: set[str] = set()
    waiting = [schema]
    while waiting:
        for name in set(_references(waiting.pop())) - used:
            used.add(name)
            waiting.append(definitions[name])
    return used


def _references(schema: Any) -> Iterator[str]:
    """The names of the definitions that a schema names, in its order."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].removeprefix("#/$defs/")
        schema = list(schema.values())
    if isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _told(schema: Any) -> Any:
    """Unit and paper within the description, because editors show nothing else; and it as the plain text that it is."""
    if isinstance(schema, list):
        return [_told(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: _told(value) for key, value in schema.items()}
    if isinstance(meaning := told.get("description"), str):
        sentences = [" ".join(meaning.replace("`", "").split()).removesuffix(".")]
        sentences += [f"{key.capitalize()}: {told.pop(key)}" for key in ("unit", "paper") if told.get(key)]
        told["description"] = ". ".join(sentences) + "."
    return told


# -- for people ---------------------------------------------------------------------------------

_OPENING = f"""\
# What lies in `config/`, and what a study may say

<!-- Written by `{COMMAND}` from scripts/study/schema.py; a test fails where they differ. -->

A **study** is one experiment in one file, `studies/NAME.yaml`: the base model, the data, how it is finetuned on them
and by which methods, and what the finetuned models are asked. Everything that the workflow makes follows from it.

- **Choosing one.** `config.yaml` names the study that is meant when nothing is said, and the store where its products
  live. `snakemake TARGET --config study=NAME` takes another.
- **A study that extends another** has the key `extends: OTHER`, and beside it only what differs. Keys within keys are
  merged, down to any depth; a value or a list replaces the other study's whole value or list; and a key that is null
  (`~`) is taken away. Where that gives a part another form (`source: path` instead of `source: generated`), the keys of
  the old form have to be taken away. A study that extends another may be extended in turn.
- **Learning rates that a sweep chose** lie beside the study, in `studies/NAME.learning_rates.yaml`, each with the
  scores or losses behind it. `snakemake results/learning_rates.yaml` runs the sweep, and
  `python -m scripts.artifacts.accept_rates` copies what it chose; nobody writes the file by hand. They count as if they
  stood in the study, also for those that extend it. A rate stands in one of the two files only.
- **What comes from outside** (records and models of the hub, packages, files of one's own) is what `data.lock` says it
  is; see [the other files](#the-other-files).
- **A mistake** is one sentence before anything starts: the file, the key, what is wrong, what is allowed. An unknown
  key is a mistake, and so are a number written as text, a key that stands twice, and a name that nothing declares.
- **In an editor** that speaks YAML's language server, keys are completed, explained and checked where a study's first
  line is `# yaml-language-server: $schema=../schema.json`. Rules between keys are checked at the start alone.
- **What runs** for a study, and why, `snakemake -n TARGET` says. What a launch has started with is frozen: a study may
  be edited while its jobs run.

How values are written: a number with an exponent has a point and a sign (`1.0e-5`; YAML takes `1e-5` for a text);
tokens are a whole number, or a text with K, M or B for 10^3, 10^6 or 10^9 (`64K`, `0.25B`); a name has small letters,
digits, `-` and `.` (`lora-r16`). In the headings below `NAME` stands for a name of one's own, `N` for a place in a
list.

**paper** says where the paper (its second version, TMLR 2024) has the value that `studies/paper.yaml` gives the key, or
what it is there for. "Not said": the paper leaves it open, so any value is a choice. "Beyond the paper": the paper has
nothing like it. A default of "absent" means that the key need not be there.
"""

_OTHER_FILES = """\
## The other files

| file | what it is | who writes it |
|---|---|---|
| `config.yaml` | the study and the store that are meant when nothing is said | a person |
| `studies/NAME.yaml` | a study | a person |
| `studies/NAME.learning_rates.yaml` | the learning rates that the study's sweep chose, with their scores or losses | \
`python -m scripts.artifacts.accept_rates` |
| `artifacts.yaml` | every figure and table: title, caption, the module of `scripts/artifacts` that makes it, what is \
measured for it and of which block of conditions | a person |
| `published_values.csv` | the numbers that the paper prints, a row each; its columns are explained in \
`scripts/artifacts/published.py` | a person, from the paper |
| `repetitions.csv` | by how much repetitions of a study's runs differ, for the bars of points with one seed | \
`python -m scripts.artifacts.record_repetitions` |
| `evaluations/TASK.yaml` | how a benchmark asks and scores, as a task of lm-eval; how much of it is asked stands in \
the study | a person |
| `data.lock` | which bytes outside sources stand for: the SHA-256 of a file or package, the commit of a repository. \
What is fetched is checked against it; a source without an entry is planned as not locked, and no job takes it | \
`python -m scripts.data.lock --study NAME` |
| `code.lock` | for every code version the modules behind it and their hash. Only its integer is part of a product's \
name; a test fails when code changes and nobody decides whether products are to be made anew | \
`python -m scripts.store.codelock --raise NAME` or `--keep NAME` |
| `schema.json`, `README.md` | a study's keys, for editors and for people | `python -m scripts.study.describe` |

All of them are committed; nothing that a rule of the workflow makes lies here.
"""


@dataclass
class Section:
    """A part of a study: where it stands, and which values of keys above or in it tell it from others there."""

    name: str
    path: str
    tags: tuple[str, ...]
    elsewhere: list[str] = field(default_factory=list)

    @property
    def heading(self) -> str:
        return ", ".join(f"`{text}`" for text in (self.path, *self.tags) if text) or "A study"

    @property
    def anchor(self) -> str:
        """As GitHub makes it of the heading."""
        return re.sub(r"[^\w\- ]", "", self.heading.lower()).replace(" ", "-")


def readme() -> str:
    """The page about studies and the other files of ``config/``."""
    definitions = described()["$defs"]
    sections: dict[str, Section] = {}
    _find("Study", "", (), definitions, sections)
    pages = [_page(section, definitions[name], definitions, sections) for name, section in sections.items()]
    return "\n".join([_OPENING, "## The keys of a study\n", *pages, _OTHER_FILES])


def _find(
    name: str, path: str, tags: tuple[str, ...], definitions: Mapping[str, Schema], found: dict[str, Section]
) -> None:
    """Puts a part and those below it into `found`, in the order in which their keys stand."""
    if tag := _tag(definitions[name]):
        tags = (*tags, f"{tag[0]}: {tag[1]}")
    if name in found:
        found[name].elsewhere.append(path)
        return
    found[name] = Section(name, path, tags)
    for key, value in _keys(definitions[name]):
        for part, below in _parts(value, f"{path}.{key}".removeprefix(".")):
            _find(part, below, tags, definitions, found)


def _keys(definition: Schema) -> Iterator[tuple[str, Schema]]:
    """The keys of a part and their values; `NAME` stands for any other key, where there may be one."""
    yield from definition["properties"].items()
    if isinstance(other := definition.get("additionalProperties"), dict):
        yield "NAME", {"description": "a task of lm-eval, under a key of one's own", "default": None, **other}


def _parts(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    """The parts that a value may be or hold, and where they stand."""
    if "$ref" in schema:
        yield schema["$ref"].removeprefix("#/$defs/"), path
    for form in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _parts(form, path)
    for value in schema.get("patternProperties", {}).values():
        yield from _parts(value, f"{path}.NAME")
    if "items" in schema:
        yield from _parts(schema["items"], f"{path}.N")


def _tag(definition: Schema) -> tuple[str, str] | None:
    """The key whose value tells a part from others at its place, and that value."""
    keys = ("source", "regime", "kind", "name")
    return next(
        ((key, p["const"]) for key, p in definition["properties"].items() if key in keys and "const" in p), None
    )


def _in_order(definition: Schema) -> list[tuple[str, Schema]]:
    """A part's keys and their values, first the one that tells it from others."""
    tag = _tag(definition)
    return sorted(_keys(definition), key=lambda item: tag is None or item[0] != tag[0])


def _page(
    section: Section, definition: Schema, definitions: Mapping[str, Schema], sections: Mapping[str, Section]
) -> str:
    lines = [f"### {section.heading}", ""]
    lines += [inspect.cleandoc(definition["description"]).replace("``", "`"), ""]
    if section.elsewhere:
        lines += ["The same keys stand in " + ", ".join(f"`{path}`" for path in section.elsewhere) + ".", ""]
    rows = [
        {
            "key": f"`{key}`",
            "meaning": value["description"],
            "value": _form(value, definitions, sections),
            "unit": value.get("unit", ""),
            "default": _default(value),
            "paper": value.get("paper", ""),
        }
        for key, value in _in_order(definition)
    ]
    if section.name == "Study":
        rows.insert(0, {"key": f"`{EXTENDS}`", "meaning": EXTENDS_MEANING, "value": "name of a study", "unit": "",
                        "default": "absent", "paper": ""})  # fmt: skip
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    lines += [_row(columns), _row(["---"] * len(columns)).replace(" ", "")]
    lines += [_row([row[column].replace("|", r"\|") for column in columns]) for row in rows]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _default(value: Schema) -> str:
    if "default" not in value:
        return "required"
    default = value["default"]
    if default is None or (isinstance(default, dict) and not any(default.values())):
        return "absent"
    if isinstance(default, list) and default == value.get("items", {}).get("enum"):
        return "all of them"
    return f"`{json.dumps(default)}`".replace('"', "")


_NAME, _REPOSITORY = (TypeAdapter(alias).json_schema()["pattern"] for alias in (Name, Repository))
_KINDS = {"integer": "whole number", "number": "number", "string": "text"}
_BOUNDS = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}


def _form(schema: Schema, definitions: Mapping[str, Schema], sections: Mapping[str, Section], s: str = "") -> str:
    """What a value may be, in words; `s` is the ending of a plural."""

    def form(inner: Schema, s: str = s) -> str:
        return _form(inner, definitions, sections, s)

    match schema:
        case {"$ref": _} | {"oneOf": _}:
            names = [name for name, _ in _parts(schema, "")]
            if len(names) == 1:
                return f"[keys](#{sections[names[0]].anchor})"
            tags = {name: _tag(definitions[name]) or ("", name) for name in names}
            links = [f"[{tag}](#{sections[name].anchor})" for name, (_, tag) in tags.items()]
            return f"keys by `{tags[names[0]][0]}`: {_either(links)}"
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return _either([f"`{value}`" for value in values])
        case {"anyOf": [number, {"pattern": pattern}, *_]} if pattern == TOKENS:
            return f"{form(number)}, or like `0.25B`"
        case {"anyOf": [only, {"type": "null"}]}:
            return form(only)
        case {"anyOf": several}:
            return ", or ".join(form(one) for one in several)
        case {"type": "boolean"}:
            return "`true` or `false`"
        case {"type": "array", "items": items}:
            least, most = schema.get("minItems", 0), schema.get("maxItems")
            size = f"{least} " if least == most else f"at least {least} " if least > 1 else ""
            return f"list{s} of {size}{form(items, 's')}"
        case {"type": "object"}:
            named = schema.get("patternProperties", {})
            chosen = [f"`{name}`" for name in schema.get("propertyNames", {}).get("enum", ())]
            keys = _either(chosen) if chosen else "name" if named else "text"
            value = next(iter(named.values())) if named else schema["additionalProperties"]
            return f"map{s} from {keys} to {form(value, '')}"
        case {"pattern": pattern} if pattern == _NAME:
            return f"name{s}"
        case {"pattern": pattern} if pattern == _REPOSITORY:
            return "OWNER/NAME"
    bounds = [text.format(schema[bound]) for bound, text in _BOUNDS.items() if bound in schema]
    bounds = [bound.replace(str(2**31), "2^31") for bound in bounds]
    return f"{_KINDS[schema['type']]}{s} {', '.join(bounds)}".rstrip()


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


# -- the command --------------------------------------------------------------------------------


def texts() -> dict[Path, str]:
    """Both files, relative to the repository, and what is to stand in them."""
    return {README: readme(), SCHEMA: json.dumps(editor_schema(), indent=1, ensure_ascii=False) + "\n"}


def main(arguments: argparse.Namespace) -> None:
    """Writes both files, or with `--check` compares them.

    Raises:
        UserError: with `--check`, one of them is not what the schema says; or a key has no description.
    """
    written = texts()
    stale = [path for path, text in written.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if not arguments.check:
        for path in stale:
            with atomic_path(path) as new:
                new.write_text(written[path], encoding="utf-8")
    elif stale:
        names, verb = " and ".join(map(str, stale)), "is" if len(stale) == 1 else "are"
        command = python_command(MODULE, options=())
        raise UserError(f"{names} {verb} not what scripts/study/schema.py says; `{command}` writes what is")
    print(" and ".join(map(str, written)) + " say what scripts/study/schema.py says")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    run(main, parser)
