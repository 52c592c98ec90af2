"""Whether an answer is in a language, told from its script and its commonest words. Nothing is downloaded.

It tells languages apart, not language from noise: what speaks for no language counts for the one that is wanted.
Languages with the Latin script are told apart by their stop words, which takes a sentence or so. Those with another
script are told by the script alone, so Ukrainian passes for Russian, Persian for Arabic, and Chinese for Japanese.
"""

import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any

from grao.config.rule import LanguageRule

_COMMONEST = {
    "en": "the of and to is it that was for on are with as his they at be this have from or you not",
    "de": "der die und das den von zu ist mit sich des auf nicht ein eine dem auch als wie im es ich",
    "fr": "le la les et des est une du dans qui que pour pas au sur il ne se plus par avec je vous",
    "es": "el la los las y que es una por con para del se no lo como pero su más sus este muy hay",
    "it": "il la che è di per non una sono con del della gli le un nel anche più come ma si da lo",
    "pt": "o os as e que é uma para com não do da dos em no na por mais um como mas ao se foi",
    "nl": "de het een van en is dat op te zijn voor met niet aan er om ook als maar naar wordt ik",
}
STOP_WORDS: Mapping[str, frozenset[str]] = {name: frozenset(words.split()) for name, words in _COMMONEST.items()}
"""Of the languages with the Latin script."""

SCRIPTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(STOP_WORDS, ("LATIN",)),
    "ru": ("CYRILLIC",),
    "el": ("GREEK",),
    "ar": ("ARABIC",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "th": ("THAI",),
    "ko": ("HANGUL", "CJK"),
    "zh": ("CJK",),
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"),
}
"""First words of the Unicode names of a language's letters."""

_EVIDENCE = 2
"""Stop words that another language must have more: one alone, as in `No problem!`, proves nothing."""

_MARKS = '.,;:!?"()[]«»“”„¿¡'


def language_share(settings: LanguageRule, answer: str, reference: str, columns: Mapping[str, Any]) -> float:
    """Share of letters in the script; 0 if another language has two stop words more; 1 without letters."""
    letters = [letter for letter in answer if letter.isalpha()]
    own = sum(_script(letter) in SCRIPTS[settings.language] for letter in letters)
    words = answer.casefold().replace("'", " ").replace("\u2019", " ").split()
    seen = {name: sum(word.strip(_MARKS) in known for word in words) for name, known in STOP_WORDS.items()}
    if max(seen.values()) - seen.get(settings.language, max(seen.values())) >= _EVIDENCE:
        return 0.0
    return own / len(letters) if letters else 1.0


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]
