"""An audit's figures from what was read: pure functions of texts, verdicts and timings."""
