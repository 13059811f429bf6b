"""Personal data: e-mail and public IP addresses, phone, card, account and identity numbers become placeholders.

Patterns find candidates; what can be verified is (Luhn for cards, ISO 7064 for IBAN, routable range for addresses), so
that version numbers, dates and identifiers stay as they are.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])")
_IPV4 = re.compile(r"(?<![\w.])(?<!EC )(?<!section )(?<!version )\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{1,4}(?![\w:])")
_CARD = re.compile(r"(?<![\w.-])[3-6]\d{3}[ -]?\d{4,6}[ -]?\d{4,5}(?:[ -]?\d{1,7})?(?![\w-]|\.\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_PHONE = re.compile(
    r"(?:(?<![\w.+/-])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"  # +44 20 7946 0958
    r"|(?<![\w.+/-])\(\d{3}\)[ .-]?\d{3}[ .-]\d{4}"  # (212) 555-0147
    r"|(?<![\w.+/-])(?:1[.-])?\d{3}[.-]\d{3}[.-]\d{4})(?![\w-]|\.\d)"  # 212-555-0147
)
# US social security numbers: areas 000, 666 and 900 up are never given, nor are group 00 and serial 0000.
_SOCIAL_SECURITY = re.compile(r"(?<![\w.+/-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|\.\d)")
_CHINESE_ID = re.compile(r"(?<!\d)[1-9]\d{5}(?:19|20)\d{2}[01]\d[0-3]\d{4}[\dXx](?!\d)")
_CHINESE_MOBILE = re.compile(r"(?<!\d)1[3-9]\d{9}(?!\d)")
_WORTH_A_LOOK = re.compile(r"@|\d[ .:()-]{0,2}\d{2}[ .:()-]|\d{8}|\d\.\d+\.\d|[0-9A-Fa-f]{4}:")
"""What every kind of personal data contains. Most documents do not, and are done after this one scan."""

PLACEHOLDERS = {
    "email": "<EMAIL>", "card": "<CARD>", "iban": "<IBAN>", "ip": "<IP>", "phone": "<PHONE>", "id": "<ID>",
}  # fmt: skip


def scrub(text: str, language: str = "", counts: Counter[str] | None = None) -> str:
    """The text with personal data replaced; replacements by kind are added to ``counts``.

    In source code only addresses of people are looked for: its digits are constants, and a placeholder would break it.
    """
    if not _WORTH_A_LOOK.search(text):
        return text
    for kind, pattern, verify in RULES:
        if (kind == "email" and "@" not in text) or (kind != "email" and language == "code"):
            continue
        if pattern is _CHINESE_MOBILE and language != "zh":
            continue

        def replace(match: re.Match[str], kind: str = kind, verify: Callable[[str], bool] = verify) -> str:
            if not verify(match.group()):
                return match.group()
            if counts is not None:
                counts[kind] += 1
            return PLACEHOLDERS[kind]

        text = pattern.sub(replace, text)
    return text


def luhn(number: str) -> bool:
    """Luhn checksum (ISO/IEC 7812-1) over the digits of a 13- to 19-digit card number."""
    digits = [int(character) for character in number if character.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [d * 2 - 9 if d > 4 else d * 2 for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban(number: str) -> bool:
    """ISO 7064 mod 97-10 checksum of an IBAN."""
    compact = number.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def resident_id(number: str) -> bool:
    """ISO 7064 mod 11-2 checksum of an 18-digit Chinese resident identity number (GB 11643-1999)."""
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def routable(address: str) -> bool:
    """Whether it is an address on the public internet (loopback, private and documentation ranges are not).

    Section and version numbers look alike; they hardly ever have two parts of two digits.
    """
    if "." in address and sum(len(part) > 1 for part in address.split(".")) < 2 and len(set(address)) > 2:
        return False
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def dialable(number: str) -> bool:
    """Eight to fifteen digits (ITU-T E.164), and not a signed decimal fraction."""
    return 8 <= sum(map(str.isdigit, number)) <= 15 and not re.fullmatch(r"\+\d+\.\d+", number)


def always(_: str) -> bool:
    return True


RULES: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", _EMAIL, always), ("iban", _IBAN, iban), ("id", _CHINESE_ID, resident_id),
    ("id", _SOCIAL_SECURITY, always), ("card", _CARD, luhn), ("ip", _IPV4, routable),
    ("ip", _IPV6, routable), ("phone", _PHONE, dialable), ("phone", _CHINESE_MOBILE, dialable),
)  # fmt: skip
