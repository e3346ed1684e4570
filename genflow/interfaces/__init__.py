"""The interfaces that plugins implement, with a module for each kind."""
