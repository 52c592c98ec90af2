"""From verdicts to numbers: metrics with their intervals, tests, the results of studies and the figures of audits."""
