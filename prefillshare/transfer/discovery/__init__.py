"""Where the engine of a host is, by the name that its certificate proves."""
