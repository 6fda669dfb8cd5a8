"""The spine: agents trained, evaluated and served on one context; and its page."""
