"""The case-file task: several agents ask for facts that stand in one long context.

A case is a shared context (a firm's order book with price notes, a log and policies)
and requests about its orders. Every request can be put to each agent; the answer
depends on one record, whose place in the context is known, so accuracy can be reported
by distance, and, deeper in a chain of agents, on what the agents before have said.
"""

from prefillshare.tasks.casefile.agents import (
    AGENTS,
    CHAIN,
    CHECKING,
    INVOICING,
    JUDGE,
    LETTER,
    SHIPPING,
    TUNING_AGENTS,
    Agent,
    agent_named,
)
from prefillshare.tasks.casefile.chains import (
    DEPTHS,
    chain_answers,
    chain_messages,
    default_depths,
    next_messages,
)
from prefillshare.tasks.casefile.generate import Case, Question, generate
from prefillshare.tasks.casefile.records import Record
from prefillshare.tasks.casefile.task import CaseFileTask

__all__ = [
    "AGENTS",
    "CHAIN",
    "CHECKING",
    "DEPTHS",
    "INVOICING",
    "JUDGE",
    "LETTER",
    "SHIPPING",
    "TUNING_AGENTS",
    "Agent",
    "Case",
    "CaseFileTask",
    "Question",
    "Record",
    "agent_named",
    "chain_answers",
    "chain_messages",
    "default_depths",
    "generate",
    "next_messages",
]
