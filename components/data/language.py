"""Language identification: by script where the script decides, by a character n-gram model where it does not.

Chinese, Japanese and Korean are told apart by their scripts, at a cost of microseconds and without a model. Languages
that share an alphabet go to py3langid (Lui & Baldwin 2012: naive Bayes over byte n-grams, 97 languages).
"""

import re
from functools import cache
from typing import Any

SAMPLE = 1_000
"""Characters looked at: enough for any text, and a long document costs no more than a short one."""

_KANA = re.compile(r"[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_LETTER = re.compile(r"[^\W\d_]")


def identify(text: str) -> tuple[str, float]:
    """ISO 639-1 code and confidence in [0, 1]; ``("und", 0.0)`` for text with next to no letters."""
    sample = text[:SAMPLE]
    letters = len(_LETTER.findall(sample))
    if letters < 10:
        return "und", 0.0
    kana, han, hangul = (len(script.findall(sample)) for script in (_KANA, _HAN, _HANGUL))
    if (kana + han + hangul) / letters > 0.3:
        if hangul > kana + han:
            return "ko", hangul / letters
        # Japanese prose is a third to two thirds kana; Chinese has none but for a quoted name.
        return ("ja", (kana + han) / letters) if kana > 0.05 * (kana + han) else ("zh", han / letters)
    language, confidence = classifier().classify(sample)
    return str(language), float(confidence)


@cache
def classifier() -> Any:
    """py3langid's model, normalised to probabilities; loaded at first use (0.3 s)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
