"""An audit to look at: a table in the terminal, and a self-contained page."""
