"""Pure decisions: what goes where. Nothing here reads a clock, a socket or a tensor."""
