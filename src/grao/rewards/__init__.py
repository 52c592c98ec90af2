"""Rewards: how much better than the reference an answer is. One protocol for all sources."""
