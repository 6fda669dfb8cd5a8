"""The transfer engine's speed, delay and cost, beside other engines."""
