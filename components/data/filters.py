"""Heuristic filters: rules that a worthless document breaks and a good one does not, each with its published limit.

Sources: Gopher (Rae et al. 2021, appendix A.1), C4 (Raffel et al. 2020, section 2.2), FineWeb (Penedo et al. 2024,
section 3.5), and for code StarCoder (Li et al. 2023, section 3.1). A rule returns a measured value; the document goes
when it is outside the limit. Rules on words need spaces between words, so Chinese and Japanese are judged by
characters and lines alone; source code has rules of its own.
"""

import re
from collections import Counter

from pydantic import Field

from components.stage import StageConfig

STOP_WORDS = {
    # Gopher's eight for English, the commonest function words elsewhere.
    "en": {"the", "be", "to", "of", "and", "that", "have", "with"},
    "de": {"der", "die", "und", "das", "ist", "nicht", "mit", "ein"},
    "es": {"de", "la", "que", "el", "en", "los", "por", "una"},
    "fr": {"de", "la", "le", "et", "les", "des", "que", "dans"},
    "it": {"di", "che", "la", "il", "un", "per", "non", "una"},
    "pt": {"de", "que", "não", "os", "uma", "para", "com", "em"},
    "nl": {"de", "het", "een", "van", "en", "niet", "dat", "met"},
}
TERMINAL = tuple(".!?\"'”’»…:;)]}。！？」』”；：）")
BULLETS = ("-", "*", "•", "‣", "▪", "●", "·", "–")
JAVASCRIPT_NOTICE = re.compile(
    r"(?:enable|requires?|turn on|disabled|must have) javascript|javascript is (?:disabled|required)"
)
WITHOUT_SPACES = {"zh", "ja", "th", "km", "lo", "my"}


class FilterConfig(StageConfig):
    """Limits. Defaults are the published values unless the description says otherwise."""

    min_words: int = Field(20, ge=0, description="Gopher 50; lower here, since the pocket sources are paragraphs")
    max_words: int = Field(100_000, ge=1, description="Gopher")
    min_characters: int = Field(40, ge=0, description="for languages without spaces; no published value")
    min_mean_word_length: float = Field(3.0, description="Gopher, characters")
    max_mean_word_length: float = Field(10.0, description="Gopher, characters")
    max_symbol_ratio: float = Field(0.1, description="Gopher: hashes and ellipses for each word")
    max_bullet_lines: float = Field(0.9, description="Gopher: share of lines that start with a bullet")
    max_ellipsis_lines: float = Field(0.3, description="Gopher: share of lines that end in an ellipsis")
    min_alphabetic_words: float = Field(0.7, description="Gopher 0.8; FineWeb 0.7: share of words with a letter")
    min_stop_words: int = Field(2, ge=0, description="Gopher: different stop words present")
    max_duplicate_lines: float = Field(0.3, description="Gopher: share of lines that repeat an earlier one")
    max_duplicate_line_characters: float = Field(0.2, description="Gopher: share of characters in such lines")
    max_top_ngram: tuple[float, ...] = Field(
        (0.20, 0.18, 0.16), description="Gopher: share of characters in the commonest 2-, 3-, 4-gram"
    )
    max_duplicate_ngrams: tuple[float, ...] = Field(
        (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), description="Gopher: share of words in repeated 5- to 10-grams"
    )
    max_short_lines: float = Field(0.67, description="FineWeb: share of lines under 30 characters; web text only")
    min_terminal_lines: float = Field(0.12, description="FineWeb: share of lines that end a sentence; web text only")
    max_curly: float = Field(0.05, description="C4 drops any curly bracket; a share of characters spares mathematics")
    max_code_line: int = Field(1_000, description="StarCoder: longest line, characters")
    max_code_mean_line: float = Field(100.0, description="StarCoder: mean line length, characters")
    min_code_alphanumeric: float = Field(0.25, description="StarCoder: share of alphanumeric characters")


def reason_to_drop(text: str, language: str, config: FilterConfig, *, web: bool = False, prose: bool = True) -> str:
    """The first rule that the text breaks, or ``""``.

    ``web`` adds the rules made for scraped pages. ``prose=False`` is for text whose lines stand alone by nature
    (listings, headlines, dialogue): rules on sentences and repeated lines would drop all of it. Documentation with
    interactive examples passes when either all of it or what stands between the examples does.
    """
    if language == "code":
        return code_reason(text, config)
    reason = text_reason(text, language, config, web, prose)
    if reason in ("", "empty", "too few words") or ">>> " not in text:
        return reason
    told = without_examples(text)
    # What is documented was long enough, and a line about it needs no stop words.
    return text_reason(told, "", config.model_copy(update={"min_words": 0}), web, prose) if told.strip() else reason


def text_reason(text: str, language: str, config: FilterConfig, web: bool, prose: bool) -> str:
    """The rules for any text but code."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "empty"
    lowered = text.lower()
    if "lorem ipsum" in lowered:
        return "lorem ipsum"
    if (text.count("{") + text.count("}")) / len(text) > config.max_curly:
        return "curly brackets"
    if web and JAVASCRIPT_NOTICE.search(lowered):
        return "javascript notice"
    if prose and len(lines) > 3 and (reason := line_reason(lines, config, web)):
        return reason
    if language in WITHOUT_SPACES:
        return character_reason(text, config)
    return word_reason(text, language if prose else "", config)


def without_examples(text: str) -> str:
    """The text without interactive sessions (``>>> `` to the next blank line): numbers and symbols in them are what
    documentation is about, and on their account rules made for prose dropped a fifth of sympy's docstrings."""
    told: list[str] = []
    inside = False
    for line in text.split("\n"):
        stripped = line.lstrip()
        inside = stripped.startswith(">>> ") or (inside and bool(stripped))
        if not inside:
            told.append(line)
    return "\n".join(told)


def line_reason(lines: list[str], config: FilterConfig, web: bool) -> str:
    """Rules on lines, for four and more of them: bullets, ellipses, repeats; for web text short, unfinished ones."""
    count = len(lines)
    if sum(line.startswith(BULLETS) for line in lines) > config.max_bullet_lines * count:
        return "bullet lines"
    if sum(line.endswith(("...", "…")) for line in lines) > config.max_ellipsis_lines * count:
        return "ellipsis lines"
    repeats = Counter(lines)
    if count - len(repeats) > config.max_duplicate_lines * count:
        return "duplicate lines"
    repeated = sum(len(line) * (times - 1) for line, times in repeats.items())
    if repeated > config.max_duplicate_line_characters * sum(map(len, lines)):
        return "duplicate line characters"
    if web:
        if sum(len(line) < 30 for line in lines) > config.max_short_lines * count:
            return "short lines"
        if sum(line.endswith(TERMINAL) for line in lines) < config.min_terminal_lines * count:
            return "no terminal punctuation"
    return ""


def character_reason(text: str, config: FilterConfig) -> str:
    """Rules for languages written without spaces."""
    letters = sum(character.isalpha() for character in text)
    if letters < config.min_characters:
        return "too few characters"
    if letters < config.min_alphabetic_words * sum(not character.isspace() for character in text):
        return "too few letters"
    return ""


def word_reason(text: str, language: str, config: FilterConfig) -> str:
    """Gopher's rules on words, which are no underlines, rules and prompts."""
    words = [word for word in text.split() if word.isalnum() or any(map(str.isalnum, word))]
    count = len(words)
    if count < config.min_words:
        return "too few words"
    if count > config.max_words:
        return "too many words"
    if count == 0:
        return ""
    mean = sum(map(len, words)) / count
    if not config.min_mean_word_length <= mean <= config.max_mean_word_length:
        return "mean word length"
    symbols = text.count("#") + text.count("…") + text.count("...")
    # A doctest's continuation prompt is not an ellipsis.
    if symbols - text.count("\n...") > config.max_symbol_ratio * count:
        return "symbols"
    if sum(word.isalpha() or any(map(str.isalpha, word)) for word in words) < config.min_alphabetic_words * count:
        return "too few words with letters"
    stop_words = STOP_WORDS.get(language)
    if stop_words:
        present = stop_words.intersection(re.findall(r"[^\W\d_]+", text.lower()))
        if len(present) < config.min_stop_words:
            return "no stop words"
    from components.data.repetition import repetition_reason

    return repetition_reason(words, config.max_top_ngram, config.max_duplicate_ngrams)


def code_reason(text: str, config: FilterConfig) -> str:
    """StarCoder's rules: data and minified or generated files are not code that anyone wrote."""
    lines = text.splitlines()
    if len(text.strip()) < config.min_characters:
        return "too few characters"
    if max(map(len, lines)) > config.max_code_line:
        return "code: longest line"
    if len(text) / len(lines) > config.max_code_mean_line:
        return "code: mean line"
    if sum(map(str.isalnum, text)) < config.min_code_alphanumeric * len(text):
        return "code: too few alphanumeric"
    head = text[:1_000].lower()
    if "auto-generated" in head or "autogenerated" in head or "automatically generated" in head:
        return "code: generated"
    return ""
