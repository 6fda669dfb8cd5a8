"""Roles over the case file: what each is told, and the form of its answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from prefillshare.errors import DataError
from prefillshare.tasks.base import Marks
from prefillshare.tasks.casefile.formats import Format, wording
from prefillshare.tasks.casefile.forms import Form, Sentence, ToolCall, marks
from prefillshare.tasks.casefile.records import Record, Values


@dataclass(frozen=True)
class Agent:
    """A role over one order: `suffix` is what the router appends for it.

    `fixed` are values of its answers that no record holds, such as a tool's name. An
    agent that `quotes` answers in the words of the case file.
    """

    name: str
    suffix: str
    form: Form
    fixed: Values = field(default_factory=dict)
    quotes: bool = False

    def over(self, format: Format) -> Agent:
        """The agent over case files that are written as `format`.

        Raises:
            DataError: there is no such format.
        """
        words = wording(format)
        return replace(self, form=Sentence((words,))) if self.quotes else self

    def answer(self, record: Record, **stated: int | str) -> str:
        """The reference about `record`; `stated` come from the transcript."""
        return self.form.render({**record.values(), **self.fixed, **stated})

    def score(self, reference: str, response: str) -> Marks:
        """Which fields of `reference` the response has right."""
        return marks(self.form, reference, response)


SHIPPING = Agent(
    "shipping",
    "You are the shipping agent. Tool: ship_order(order, item, town). "
    "Reply with one JSON tool call for the order that the request names.",
    ToolCall(("order", "item", "town")),
    {"name": "ship_order"},
)
INVOICING = Agent(
    "invoicing",
    "You are the invoicing agent. "
    "Reply with order, quantity x price = total for the order that the request names.",
    Sentence(("order {order}: {quantity} x {price} = {total}",)),
)
LETTER = Agent(
    "letter",
    "You are the letter agent. Write one sentence to the customer of the order at "
    "hand; name the total if an invoice was made.",
    Sentence(
        (
            (
                "Dear {customer}, your {quantity} {item}s go to {town}; "
                "the total is {billed} euros."
            ),
            "Dear {customer}, your {quantity} {item}s go to {town}.",
        )
    ),
)
CHECKING = Agent(
    "checking",
    "You are the checking agent. Check the last answer against the case file. Reply "
    "correct, or wrong: field is value, not value.",
    Sentence(("wrong: {field} is {right}, not {values}", "{verdict}")),
)
JUDGE = Agent(
    "judge",
    "You are the judge. Which of the two answers agrees with the case file? "
    "Reply first or second.",
    Sentence(("{verdict}",)),
)
AGENTS = {agent.name: agent for agent in (SHIPPING, INVOICING, LETTER, CHECKING, JUDGE)}
# The order in which they hand a case on.
CHAIN = (SHIPPING, INVOICING, LETTER, CHECKING)

# Other work over the same case files, on which a prefill module is tuned to be read.
TUNING_AGENTS = {
    agent.name: agent
    for agent in (
        Agent(
            "refund",
            "You are the refund agent. Tool: refund_order(order, customer, quantity). "
            "Reply with one JSON tool call for the order that the request names.",
            ToolCall(("order", "customer", "quantity")),
            {"name": "refund_order"},
        ),
        Agent(
            "locate",
            "Where does the order that the request names go? Reply with the town.",
            Sentence(("{town}",)),
        ),
        Agent(
            "pricing",
            "What does one piece of the order that the request names cost? "
            "Reply with the price.",
            Sentence(("{price} euros",)),
        ),
        Agent(
            "owner",
            "Who placed the order that the request names? Reply with the customer.",
            Sentence(("{customer}",)),
        ),
        Agent(
            "stock",
            "What must the warehouse pick for the order that the request names? "
            "Reply with quantity and item.",
            Sentence(("{quantity} {item}",)),
        ),
        Agent(
            "quote",
            "Repeat the record of the order that the request names, word for word.",
            Sentence((wording("line"),)),
            quotes=True,
        ),
    )
}


def agent_named(name: str) -> Agent:
    """The case-file agent of that name.

    Raises:
        DataError: there is none.
    """
    every = AGENTS | TUNING_AGENTS
    if name not in every:
        raise DataError(f"no agent {name!r}; the case file has {', '.join(every)}")
    return every[name]
