"""A reward that checks the content of answers, for the prompts of larger.csv."""

import re


def reward(completions, larger, **columns):
    """Score 1 for a correct answer of at most four words, 0.5 for a longer correct answer, 0 for a wrong answer."""
    answers = [completion[0]["content"] for completion in completions]  # chat messages, as in TRL
    correct = [re.findall(r"(?:is|say) (\d+)\.", answer) == [str(number)] for answer, number in zip(answers, larger)]
    return [score * (1 if len(answer.split()) <= 4 else 0.5) for score, answer in zip(correct, answers)]
