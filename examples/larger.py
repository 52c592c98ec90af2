"""A reward that checks content, for the prompts of larger.csv."""

import re


def reward(completions, larger, **columns):
    """1 for a right answer of at most four words, 0.5 for a longer right one, 0 for a wrong one."""
    answers = [completion[0]["content"] for completion in completions]  # chat messages, as in TRL
    right = [re.findall(r"(?:is|say) (\d+)\.", answer) == [str(number)] for answer, number in zip(answers, larger)]
    return [named * (1 if len(answer.split()) <= 4 else 0.5) for named, answer in zip(right, answers)]
