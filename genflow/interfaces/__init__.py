"""The interfaces that plugins implement, one file a kind."""
