"""A probe for the scrubber: sentences with planted personal data, and look-alikes that must stay.

Everything is made up from a fixed seed: the numbers are valid in form (checksums hold) and belong to nobody.
"""

import random
from dataclasses import dataclass

from components.data.personal import scrub

SENTENCES = (
    "Please write to {} before the end of the month.",
    "The form listed {} as the contact, which she had changed since.",
    "For questions: {}",
    "He left ({}) and never called again.",
    "联系方式：{}，谢谢。",
)
DOMAINS = ("mail.example.com", "example.org", "post.example.co.uk", "firma-example.de")


@dataclass(frozen=True)
class ScrubbingProbe:
    """How many planted items were replaced, and how many harmless ones were kept."""

    planted: int
    replaced: int
    harmless: int
    kept: int


def measure_scrubbing(each: int = 40) -> ScrubbingProbe:
    """Plant ``each`` items of every kind in sentences and count what the scrubber does to them."""
    rng = random.Random("personal-data-probe")
    planted = [make(rng) for make in (email, phone, card, iban, address) for _ in range(each)]
    harmless = [make(rng) for make in (date, version, isbn, quantity, section) for _ in range(each)]
    replaced = kept = 0
    for items, personal in ((planted, True), (harmless, False)):
        for item in items:
            survived = item in scrub(rng.choice(SENTENCES).format(item), "en")
            replaced += personal and not survived
            kept += not personal and survived
    return ScrubbingProbe(len(planted), replaced, len(harmless), kept)


def digits(rng: random.Random, count: int) -> str:
    return "".join(str(rng.randrange(10)) for _ in range(count))


def email(rng: random.Random) -> str:
    first, last = (
        rng.choice(["anna", "li.wei", "j", "kofi", "maria"]),
        rng.choice(["smith", "mueller", "okafor", "wang"]),
    )
    return f"{first}{rng.choice(['.', '_', '', '+news'])}{last}{rng.choice(['', digits(rng, 2)])}@{rng.choice(DOMAINS)}"


def phone(rng: random.Random) -> str:
    a, b, c = digits(rng, 3), digits(rng, 3), digits(rng, 4)
    form = rng.choice(["({}) {}-{}", "{}-{}-{}", "{}.{}.{}", "+44 {} {} {}", "+1-{}-{}-{}"])
    return form.format(a, b, c)


def card(rng: random.Random) -> str:
    body = rng.choice(["4", "5"]) + digits(rng, 14)
    total = sum(int(d) if i % 2 else (int(d) * 2 - 9 if int(d) > 4 else int(d) * 2) for i, d in enumerate(body))
    number = body + str(-total % 10)
    return rng.choice([number, " ".join(number[i : i + 4] for i in range(0, 16, 4))])


def iban(rng: random.Random) -> str:
    body = digits(rng, 18)
    check = 98 - int(body + "131400") % 97  # D = 13, E = 14
    number = f"DE{check:02d}{body}"
    return rng.choice([number, " ".join(number[i : i + 4] for i in range(0, len(number), 4))])


def address(rng: random.Random) -> str:
    first = rng.choice([23, 45, 67, 81, 94, 151, 178])
    return f"{first}.{rng.randrange(10, 250)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"


def date(rng: random.Random) -> str:
    return f"{rng.randrange(1900, 2030)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"


def version(rng: random.Random) -> str:
    return f"{rng.randrange(1, 9)}.{rng.randrange(20)}.{rng.randrange(9)}.{rng.randrange(9)}"


def isbn(rng: random.Random) -> str:
    return f"978-{rng.randrange(10)}-{digits(rng, 3)}-{digits(rng, 5)}-{rng.randrange(10)}"


def quantity(rng: random.Random) -> str:
    return f"{rng.randrange(1, 999)},{digits(rng, 3)},{digits(rng, 3)}.{digits(rng, 2)}"


def section(rng: random.Random) -> str:
    return f"section {rng.randrange(1, 12)}.{rng.randrange(1, 30)}.{rng.randrange(1, 9)}.{rng.randrange(1, 9)}"
