"""The engine over TCP: one control connection and several data streams a peer."""
