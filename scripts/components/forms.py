"""The forms that records have to have for what they are used for; checked where records are read, line by line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from scripts.common.errors import UserError


class Form(BaseModel):
    """What a record has: fields of one type each; further ones do not matter."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    called: ClassVar[str]
    """What a record of this form is: ``document``."""

    @property
    def empty(self) -> str | None:
        """The field whose text is blank, though there is something to learn or to score only where it is not."""
        return None


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


Filled = Annotated[str, AfterValidator(_not_blank)]
"""A text that is not blank."""


class Document(Form):
    """What a model is pretrained on."""

    called: ClassVar[str] = "document"

    text: str

    @property
    def empty(self) -> str | None:
        return None if self.text.strip() else "text"


class Instruction(Form):
    """What a model is finetuned on; `input`, where there is one, belongs to the prompt (Stanford Alpaca)."""

    called: ClassVar[str] = "instruction with its response"

    instruction: str
    response: str
    input: str | None = None

    @property
    def empty(self) -> str | None:
        return next((name for name in ("response", "instruction") if not getattr(self, name).strip()), None)


@dataclass(frozen=True)
class Use:
    """What records are for.

    Attributes:
        key: of the study, which names their dataset.
        forms: a record has one of these, and all records of a dataset have the same.
    """

    key: str
    forms: tuple[type[Form], ...]


@dataclass
class _Check:
    """One use of records that are read one after the other."""

    use: Use
    forms: list[type[Form]]
    empty: dict[str, list[Any]] = field(default_factory=dict)
    """Field to how many records have nothing there, and the place of the first."""
    filled: bool = False


class Checks:
    """The uses of the records of one dataset, checked record by record."""

    def __init__(self, uses: Sequence[Use]) -> None:
        self._checks = [_Check(use, list(use.forms)) for use in {use.forms: use for use in reversed(uses)}.values()]

    def take(self, record: Mapping[str, Any], place: str, columns: bool) -> None:
        """Checks the next record.

        Args:
            record: as it will be written.
            place: where it stands, for a sentence.
            columns: whether the study says which columns records are made of.

        Raises:
            UserError: it is not what a use needs.
        """
        for check in self._checks:
            fitting: list[type[Form]] = []
            problem, found = "", None
            for form in check.forms:
                try:
                    found = form.model_validate(record)
                    fitting.append(form)
                except ValidationError as error:
                    problem = problem or f"{place}: is no {form.called} ({said(error)})"
            if found is None:
                raise UserError(f"{problem}; {check.use.key} needs one")
            check.forms = fitting
            if isinstance(found, Instruction) and not columns and (found.input or "").strip():
                raise UserError(
                    f"{place}: has an `input` that would be left out of the prompt; say in the study `columns: "
                    "{instruction: instruction, input: input, response: response}` to have it there, or leave it out "
                    "of `columns`"
                )
            if found.empty is None:
                check.filled = True
            else:
                check.empty.setdefault(found.empty, [0, place])[0] += 1

    def finish(self, where: str) -> list[str]:
        """What is to be said of all records, a line each.

        Raises:
            UserError: there is nothing in any of them.
        """
        lines = []
        for check in self._checks:
            for name, (count, place) in check.empty.items():
                if not check.filled:
                    raise UserError(f"{place}: {name} is empty, as in every record; {check.use.key} needs text there")
                lines.append(f"{where}: {name} is empty in {count:,} of the records, first in {place}")
        return lines


def said(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in words."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("str", "int", "list[")))
    expected = _TYPES.get(first["type"])
    if first["type"] == "missing":
        return f"it has no {name}; `columns` says what fields are called in the file"
    if first["type"] == "literal_error":
        return f"{name} must be {first['ctx']['expected']}, and is {first['input']!r}"
    if expected:
        return f"{name} must be {expected}, and is {_kind(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _kind(value: object) -> str:
    """What a value is, in the words of JSON."""
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"),
        (str, "text"),
        ((int, float), "a number"),
        (list, "a list"),
        (dict, "an object"),
    )
    return next(
        (name for kind, name in names if isinstance(value, kind)), "null" if value is None else "something else"
    )
