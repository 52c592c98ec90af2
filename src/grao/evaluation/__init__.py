"""Statistics of verdicts: metrics with confidence intervals, tests, results of studies and figures of audits."""
