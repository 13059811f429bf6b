"""Words of a text for comparing texts: independent of any tokenizer, of case, of punctuation and of spacing.

Chinese, Japanese and Korean are written without spaces, or with few: there each character is a word.
"""

import re
import unicodedata

_WORD = re.compile(
    r"[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]"
    r"|[^\W_\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]+"
)
# The same words where the text has nothing else, in half the time.
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_LETTERS = re.compile(r"[^\W_]+")
_CHARACTER = re.compile(r"[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]")


def comparable_words(text: str) -> list[str]:
    """``"The U.S.\\n是的"`` -> ``["the", "u", "s", "是", "的"]`` after NFKC and case folding."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    text = unicodedata.normalize("NFKC", text).casefold()
    return (_WORD if _CHARACTER.search(text) else _LETTERS).findall(text)
