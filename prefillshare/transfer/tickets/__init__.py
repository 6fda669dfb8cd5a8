"""Hand-off of one export to one fetcher, by ticket."""
