"""What the columns of a data set mean, and how a response to it is scored.

==========  ==========================================  ================================
format      columns                                     a response is right if
==========  ==========================================  ================================
metamath    query, response                             it ends in the same answer
gsm8k       question, answer (`… #### n`)               its final number is the same
gsm_plus    question, solution, answer                  it ends in the same answer
evol_code   instruction, output                         it is the same text
humaneval   prompt, canonical_solution, test,           the tests pass
            entry_point
xlam        query, tools, answers (JSON text)           it makes the same calls
bfcl        question, function, ground_truth            its call is a right one
messages    messages: a list of role and content        it is the same text
==========  ==========================================  ================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from prefillshare.tasks import gsm8k, humaneval
from prefillshare.tasks.base import Marks, Message, Sample, Unit
from prefillshare.tasks.recipes import bfcl, tools
from prefillshare.tasks.recipes.sources import FormatName
from prefillshare.tasks.rows import Row
from prefillshare.tasks.sandbox.runner import Limits
from prefillshare.tasks.scoring import final_answer, gives_answer

ROLES = ("system", "user", "assistant", "tool")


class Format(NamedTuple):
    """`unit` reads a row; `score` marks a response to one of its samples.

    The limits are for responses that are run.
    """

    unit: Callable[[Row], Unit]
    score: Callable[[Sample, str, Limits], Marks]


def _pair(question: str, answer: str) -> Callable[[Row], Unit]:
    """A format of two columns: what the user says, what the model replies."""

    def unit(row: Row) -> Unit:
        message = {"role": "user", "content": row.text(question).strip()}
        return (Sample((message,), "", row.text(answer).strip()),)

    return unit


def _metamath(row: Row) -> Unit:
    [sample] = _pair("query", "response")(row)
    # One that is not marked can be learned from all the same.
    answer = final_answer(sample.answer) or sample.answer
    return (Sample(sample.messages, "", sample.answer, facts={"answer": answer}),)


def _gsm_plus(row: Row) -> Unit:
    answer, solution = row.text("answer").strip(), row.text("solution").strip()
    message = {"role": "user", "content": row.text("question").strip()}
    text = f"{solution}\n#### {answer}"
    return (Sample((message,), "", text, facts={"answer": answer}),)


def _conversation(row: Row) -> Unit:
    """A sample for every turn of the assistant's: what stood before is its prompt."""
    messages = [_message(row, each) for each in row.get("messages", list)]
    turns = [i for i, each in enumerate(messages) if each["role"] == "assistant"]
    if not turns or turns[0] == 0:
        fact = "has no reply of the assistant's to a message before it"
        raise row.error("messages", fact, "add one or remove the row")
    return tuple(Sample(tuple(messages[:i]), "", messages[i]["content"]) for i in turns)


def _message(row: Row, value: Any) -> Message:
    match value:
        case {"role": str(role), "content": str(content)} if (
            role in ROLES and content.strip()
        ):
            return {"role": role, "content": content}
    remedy = f"give each a role of {', '.join(ROLES)} and content that is text"
    raise row.error("messages", f"holds {value!r:.80}", remedy)


def _same_answer(sample: Sample, response: str, _: Limits) -> Marks:
    return {"exact": gives_answer(response, sample.facts["answer"])}


def _same_text(sample: Sample, response: str, _: Limits) -> Marks:
    return {"exact": response.strip() == sample.answer.strip()}


FORMATS: dict[FormatName, Format] = {
    "metamath": Format(_metamath, _same_answer),
    "gsm8k": Format(
        lambda row: (gsm8k.sample_of(row),),
        lambda sample, response, _: gsm8k.score(sample, response),
    ),
    "gsm_plus": Format(_gsm_plus, _same_answer),
    "evol_code": Format(_pair("instruction", "output"), _same_text),
    "humaneval": Format(lambda row: (humaneval.sample_of(row),), humaneval.score),
    "xlam": Format(
        tools.unit_of, lambda sample, response, _: tools.score(sample, response)
    ),
    "bfcl": Format(
        bfcl.unit_of, lambda sample, response, _: bfcl.score(sample, response)
    ),
    "messages": Format(_conversation, _same_text),
}
